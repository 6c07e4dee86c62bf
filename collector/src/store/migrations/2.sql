-- From version 2 to 3: exemplars are stored. Each statement as it is in schema.sql.

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
