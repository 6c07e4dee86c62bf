-- Version 3. Times are nanoseconds since 1970 (UTC), in 64-bit integers.

-- Acknowledged requests that are not yet rows: the durable queue. Bodies are kept as they came (`encoding`).
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    signal TEXT NOT NULL CHECK (signal IN ('logs', 'metrics', 'traces')),
    batch_id TEXT,
    received_unix_nano INTEGER NOT NULL,
    encoding TEXT NOT NULL CHECK (encoding IN ('identity', 'gzip')),
    decoded_bytes INTEGER NOT NULL,
    records INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Batches that are rows: what makes a batch land once.
CREATE TABLE batches (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    signal TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    stored_unix_nano INTEGER NOT NULL,
    UNIQUE (tenant, signal, batch_id)
) STRICT;

-- One row per signal, changed in the same transaction as what it counts.
-- received = stored + superseded + deduplicated + dead_lettered + queued; `/api/accounting` shows it.
CREATE TABLE accounting (
    signal TEXT PRIMARY KEY,
    received INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0,
    deduplicated INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    queued INTEGER NOT NULL DEFAULT 0,
    queued_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO accounting (signal) VALUES ('logs'), ('metrics'), ('traces');

-- What the store refused, each as an OTLP request of its own.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    signal TEXT NOT NULL,
    batch_id TEXT,
    dead_unix_nano INTEGER NOT NULL,
    reason TEXT NOT NULL,
    encoding TEXT NOT NULL,
    decoded_bytes INTEGER NOT NULL,
    records INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE senders (
    tenant TEXT NOT NULL,
    sender TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    received_batches INTEGER NOT NULL,
    -- Sequence numbers that never came, and how many ranges of them are in `sender_gaps`: the oldest may not be.
    missing_batches INTEGER NOT NULL,
    gaps INTEGER NOT NULL,
    -- Since when some are missing without interruption; NULL while none is.
    missing_since_unix_nano INTEGER,
    last_seen_unix_nano INTEGER NOT NULL,
    PRIMARY KEY (tenant, sender)
) STRICT, WITHOUT ROWID;
CREATE INDEX senders_by_last_seen ON senders (tenant, last_seen_unix_nano);
CREATE INDEX senders_by_missing_since ON senders (tenant, missing_since_unix_nano)
    WHERE missing_since_unix_nano IS NOT NULL;

-- Sequence numbers that never came, as closed ranges.
CREATE TABLE sender_gaps (
    tenant TEXT NOT NULL,
    sender TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL CHECK (last >= first),
    PRIMARY KEY (tenant, sender, first)
) STRICT, WITHOUT ROWID;

-- One row per tenant, changed in the same transaction as what it counts.
CREATE TABLE sender_totals (
    tenant TEXT PRIMARY KEY,
    senders INTEGER NOT NULL DEFAULT 0,
    with_gaps INTEGER NOT NULL DEFAULT 0,
    missing_batches INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO sender_totals (tenant) VALUES ('default');

-- What senders say that they have dropped, up to their last export.
CREATE TABLE sender_drops (
    tenant TEXT NOT NULL,
    sender TEXT NOT NULL,
    metric TEXT NOT NULL,
    reason TEXT NOT NULL,
    dropped INTEGER NOT NULL,
    time_unix_nano INTEGER NOT NULL,
    PRIMARY KEY (tenant, sender, metric, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE resources (
    id INTEGER PRIMARY KEY,
    attributes TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE logs (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    resource_id INTEGER NOT NULL REFERENCES resources (id),
    scope TEXT,
    time_unix_nano INTEGER NOT NULL,
    observed_unix_nano INTEGER,
    trace_id BLOB CHECK (length(trace_id) = 16),
    span_id BLOB CHECK (length(span_id) = 8),
    severity_number INTEGER NOT NULL,
    severity_text TEXT,
    event_name TEXT,
    service TEXT,
    method TEXT,
    path TEXT,
    route TEXT,
    status INTEGER,
    duration_seconds REAL,
    -- The body when it is text; any other body is JSON in `body_json`.
    body TEXT,
    body_json TEXT,
    -- All attributes, those with columns of their own included.
    attributes TEXT NOT NULL
) STRICT;
-- Newest first, by (time, id): the row's id is part of every index.
CREATE INDEX logs_by_time ON logs (time_unix_nano);
CREATE INDEX logs_by_trace ON logs (trace_id) WHERE trace_id IS NOT NULL;

CREATE TABLE metric_streams (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    metric TEXT NOT NULL,
    resource_id INTEGER NOT NULL REFERENCES resources (id),
    scope TEXT NOT NULL,
    attributes TEXT NOT NULL,
    unit TEXT NOT NULL,
    service TEXT,
    method TEXT,
    route TEXT,
    status INTEGER,
    is_error INTEGER NOT NULL,
    -- The last cumulative point, from which the next one's interval is computed; NULL for delta streams.
    start_unix_nano INTEGER,
    time_unix_nano INTEGER,
    sum REAL,
    distribution BLOB,
    UNIQUE (tenant, metric, resource_id, scope, attributes)
) STRICT;

-- Measurements of one stream within (start, time]: intervals never overlap, so that any of them add up.
CREATE TABLE metric_points (
    id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES metric_streams (id),
    start_unix_nano INTEGER NOT NULL,
    time_unix_nano INTEGER NOT NULL,
    sum REAL,
    distribution BLOB NOT NULL
) STRICT;
CREATE INDEX metric_points_by_time ON metric_points (time_unix_nano);

-- Requests that stand for what a stream's points count: the slowest of each part of the range and minute.
CREATE TABLE exemplars (
    minute INTEGER NOT NULL,
    stream_id INTEGER NOT NULL REFERENCES metric_streams (id),
    part INTEGER NOT NULL,
    -- When the interval of its point ends, by which it belongs to what that counts.
    point_unix_nano INTEGER NOT NULL,
    time_unix_nano INTEGER NOT NULL,
    value REAL NOT NULL,
    trace_id BLOB NOT NULL CHECK (length(trace_id) = 16),
    span_id BLOB CHECK (length(span_id) = 8),
    PRIMARY KEY (minute, stream_id, part)
) STRICT, WITHOUT ROWID;

CREATE TABLE spans (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    resource_id INTEGER NOT NULL REFERENCES resources (id),
    scope TEXT,
    trace_id BLOB NOT NULL CHECK (length(trace_id) = 16),
    span_id BLOB NOT NULL CHECK (length(span_id) = 8),
    parent_span_id BLOB CHECK (length(parent_span_id) = 8),
    trace_state TEXT,
    flags INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    start_unix_nano INTEGER NOT NULL,
    end_unix_nano INTEGER,
    service TEXT,
    status_code INTEGER NOT NULL,
    status_message TEXT,
    attributes TEXT NOT NULL,
    -- JSON, as the API answers them; NULL when there are none.
    events TEXT,
    links TEXT,
    -- What the sender left out.
    dropped_attributes INTEGER NOT NULL,
    dropped_events INTEGER NOT NULL,
    dropped_links INTEGER NOT NULL
) STRICT;
-- A trace's spans in the order of their starts: the row's id is part of every index.
CREATE INDEX spans_by_trace ON spans (trace_id, start_unix_nano);
