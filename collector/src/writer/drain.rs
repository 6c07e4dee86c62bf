//! From the inbox to rows: one transaction for some of the oldest batches.
//!
//! In: batches from the inbox. Out: rows, senders' sequences, and the accounting, in the batches' own transaction. A
//! batch whose id is already stored is counted as deduplicated; a record that the database refuses becomes a dead
//! letter; cumulative points that say nothing new are counted as superseded, and so are drops of nobody that an
//! older collector let in.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use rusqlite::{Connection, params};

use super::Writer;
use crate::batch_id;
use crate::clock::now_unix_nano;
use crate::encoding::Encoding;
use crate::otlp::drops::Dropped;
use crate::otlp::metrics::{Metric, Point, Refused, Temporality};
use crate::otlp::value::attributes;
use crate::otlp::{Malformed, ScopeVisitor, Signal, dead, decode, dialect, logs, metrics, traces};
use crate::store::accounting::{self, Accounting};
use crate::store::inbox::{self, Batch};
use crate::store::logs::Origin;
use crate::store::points::Outcome;
use crate::store::{self, StoreError, TENANT, dead_letters, senders};

/// A transaction takes at most so many batches, and so many bytes beyond its first: new requests wait behind it.
const MAX_BATCHES: u32 = 64;
const MAX_DECODED_BYTES: i64 = 1024 * 1024;
/// Batch ids older than this are forgotten, some with each transaction, and senders that were silent for as long. Senders
/// give up after an hour at most.
const BATCH_ID_MAX_AGE_NANOS: i64 = 7 * 24 * 3600 * 1_000_000_000;
const PRUNED_PER_TRANSACTION: i64 = 128;

impl Writer {
    /// Makes rows of the oldest batches, and returns how many it took.
    pub(super) fn drain_group(&mut self) -> Result<usize, StoreError> {
        let batches = inbox::oldest(&self.connection, MAX_BATCHES, MAX_DECODED_BYTES)?;
        if batches.is_empty() {
            return Ok(0);
        }
        let now = now_unix_nano();
        let changes = self.transaction("store", |connection| {
            prune(connection, now)?;
            batches
                .iter()
                .map(|(id, batch)| store_batch(connection, *id, batch, now))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let done = now_unix_nano();
        for ((_, batch), change) in batches.iter().zip(&changes) {
            let lag = done.saturating_sub(batch.received_unix_nano).max(0);
            self.shared.metrics.drained(batch.signal, change, lag as f64 / 1e9);
            if change.deduplicated > 0 {
                self.shared.metrics.deduplicated_batch(batch.signal);
            }
            let rows_bytes = usize::try_from(batch.decoded_bytes).unwrap_or(0);
            self.written_bytes = self.written_bytes.saturating_add(rows_bytes);
        }
        Ok(batches.len())
    }
}

/// Stores one batch, or skips it when it is stored already, and removes it from the inbox.
fn store_batch(connection: &Connection, id: i64, batch: &Batch, now: i64) -> Result<Accounting, StoreError> {
    let mut change = if is_new(connection, batch, now)? {
        if let Some((sender, sequence)) = batch.batch_id.as_deref().and_then(batch_id::sequence) {
            senders::note(connection, sender, sequence, now)?;
        }
        store_or_set_aside(connection, batch, now)?
    } else {
        Accounting { deduplicated: batch.records, ..Accounting::default() }
    };
    change.queued = -batch.records;
    change.queued_bytes = -inbox::bytes(&batch.body);
    accounting::add(connection, batch.signal, change)?;
    inbox::remove(connection, id)?;
    Ok(change)
}

/// Claims the batch's id. Without one, every batch is new.
fn is_new(connection: &Connection, batch: &Batch, now: i64) -> Result<bool, StoreError> {
    let Some(batch_id) = &batch.batch_id else { return Ok(true) };
    let inserted = connection
        .prepare_cached(
            "INSERT INTO batches (tenant, signal, batch_id, stored_unix_nano) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![TENANT, batch.signal.as_str(), batch_id, now])?;
    Ok(inserted > 0)
}

fn prune(connection: &Connection, now: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "DELETE FROM batches WHERE id IN (SELECT id FROM batches ORDER BY id LIMIT ?1) AND stored_unix_nano < ?2",
        )?
        .execute(params![PRUNED_PER_TRANSACTION, now.saturating_sub(BATCH_ID_MAX_AGE_NANOS)])?;
    senders::forget_silent(connection, now.saturating_sub(BATCH_ID_MAX_AGE_NANOS))
}

/// Stores a batch's records, or sets all of it aside when it is refused as a whole: when its resource is refused, or
/// when it no longer decodes (another version of the collector may have let it in).
fn store_or_set_aside(connection: &Connection, batch: &Batch, now: i64) -> Result<Accounting, StoreError> {
    connection.execute_batch("SAVEPOINT batch")?;
    let change = match store_records(connection, batch, now) {
        Err(StoreError::Refused(reason)) => {
            connection.execute_batch("ROLLBACK TO batch")?;
            dead_letters::set_aside(connection, batch, &reason, now)?;
            tracing::warn!(signal = batch.signal.as_str(), reason, "a whole batch was set aside");
            Accounting { dead_lettered: batch.records, ..Accounting::default() }
        }
        outcome => outcome?,
    };
    connection.execute_batch("RELEASE batch")?;
    Ok(change)
}

fn store_records(connection: &Connection, batch: &Batch, now: i64) -> Result<Accounting, StoreError> {
    let limit = usize::try_from(batch.decoded_bytes).unwrap_or(usize::MAX);
    let refused = |reason: String| StoreError::Refused(reason);
    let body = batch.encoding.decode(&batch.body, limit).map_err(|error| refused(error.to_string()))?;
    let mut rows = Rows {
        connection,
        batch,
        now,
        sender: batch.batch_id.as_deref().and_then(batch_id::sender),
        resource: Resource::default(),
        scope: InstrumentationScope::default(),
        origin: Origin::default(),
        change: Accounting::default(),
        anonymous: 0,
    };
    let walked = match batch.signal {
        Signal::Logs => logs::walk(&body, &mut rows),
        Signal::Metrics => metrics::walk(&body, &mut rows),
        Signal::Traces => traces::walk(&body, &mut rows),
    };
    match walked {
        Ok(()) => Ok(rows.counted()),
        Err(Stop::Store(error)) => Err(error),
        Err(Stop::Malformed(error)) => Err(refused(error.to_string())),
    }
}

/// What ends the walk through a batch.
enum Stop {
    Store(StoreError),
    Malformed(Malformed),
}

impl From<Malformed> for Stop {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Writes what the walk through a batch comes by.
struct Rows<'a> {
    connection: &'a Connection,
    batch: &'a Batch,
    now: i64,
    /// None when the batch's id names none.
    sender: Option<&'a str>,
    resource: Resource,
    scope: InstrumentationScope,
    origin: Origin,
    change: Accounting,
    /// How many points tell what nobody has dropped.
    anonymous: i64,
}

impl ScopeVisitor for Rows<'_> {
    type Error = Stop;

    fn resource(&mut self, resource: Resource) -> Result<(), Stop> {
        let attributes = attributes(&resource.attributes);
        self.origin = Origin {
            resource_id: store::intern_resource(self.connection, &store::logs::json(&attributes)?)?,
            service: dialect::service(&attributes),
            scope: None,
            received_unix_nano: self.batch.received_unix_nano,
        };
        self.resource = resource;
        Ok(())
    }

    fn scope(&mut self, scope: InstrumentationScope) -> Result<(), Stop> {
        self.origin.scope = (!scope.name.is_empty()).then(|| scope.name.clone());
        self.scope = scope;
        Ok(())
    }
}

impl Rows<'_> {
    /// What became of the batch's records. Points of nobody are not among them, for the door refuses them; only where an
    /// older collector has let them in they are, and nothing can be told of them.
    fn counted(self) -> Accounting {
        let Accounting { stored, dead_lettered, superseded, .. } = self.change;
        let uncounted = self.batch.records.saturating_sub(stored + dead_lettered + superseded).max(0);
        Accounting { superseded: superseded + self.anonymous.min(uncounted), ..self.change }
    }

    /// Counts a record as stored, or sets aside what the database refused.
    fn settle(
        &mut self,
        outcome: Result<(), StoreError>,
        request: impl FnOnce(&Self) -> Vec<u8>,
    ) -> Result<(), Stop> {
        match outcome {
            Ok(()) => self.change.stored += 1,
            Err(StoreError::Refused(reason)) => {
                let body = request(self);
                let letter = Batch {
                    signal: self.batch.signal,
                    batch_id: self.batch.batch_id.clone(),
                    received_unix_nano: self.batch.received_unix_nano,
                    encoding: Encoding::Identity,
                    decoded_bytes: inbox::bytes(&body),
                    records: 1,
                    body,
                };
                dead_letters::set_aside(self.connection, &letter, &reason, self.now)?;
                self.change.dead_lettered += 1;
                tracing::warn!(signal = self.batch.signal.as_str(), reason, "a record was set aside");
            }
            Err(error) => return Err(Stop::Store(error)),
        }
        Ok(())
    }
}

impl Rows<'_> {
    /// As [`Rows::settle`]; what a later point had told already is counted as superseded.
    fn settle_point(
        &mut self,
        outcome: Result<Outcome, StoreError>,
        metric: impl FnOnce() -> otlp::Metric,
    ) -> Result<(), Stop> {
        if let Ok(Outcome::Superseded) = outcome {
            self.change.superseded += 1;
            return Ok(());
        }
        self.settle(outcome.map(drop), |rows| dead::metric_request(&rows.resource, &rows.scope, &metric()))
    }
}

impl logs::Visitor for Rows<'_> {
    fn record(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let outcome = match decode::<LogRecord>("LogRecord", bytes) {
            Ok(record) => store::logs::insert(self.connection, &self.origin, &record),
            Err(error @ Malformed::TooLarge { .. }) => Err(StoreError::Refused(error.to_string())),
            Err(error) => return Err(Stop::Malformed(error)),
        };
        self.settle(outcome, |rows| dead::log_request(&rows.resource, &rows.scope, bytes))
    }
}

impl metrics::Visitor for Rows<'_> {
    fn point(
        &mut self,
        metric: &Metric,
        point: Point,
        otlp: otlp::ExponentialHistogramDataPoint,
    ) -> Result<(), Stop> {
        let outcome = store::points::insert(self.connection, &self.origin, metric, &point);
        self.settle_point(outcome, || {
            let histogram = otlp::ExponentialHistogram {
                data_points: vec![otlp],
                aggregation_temporality: number(metric.temporality),
            };
            lone_metric(&metric.name, &metric.unit, otlp::metric::Data::ExponentialHistogram(histogram))
        })
    }

    fn dropped(&mut self, dropped: Dropped, otlp: otlp::NumberDataPoint) -> Result<(), Stop> {
        // By the batch's own name, which nobody else's drops can be told under.
        let Some(sender) = self.sender else {
            self.anonymous += 1;
            return Ok(());
        };
        let outcome = store::drops::note(self.connection, sender, &dropped);
        self.settle_point(outcome, || {
            let sum = otlp::Sum {
                data_points: vec![otlp],
                aggregation_temporality: number(dropped.temporality),
                is_monotonic: true,
            };
            lone_metric(&dropped.metric, "", otlp::metric::Data::Sum(sum))
        })
    }

    /// The door has counted these, and told the sender.
    fn refused(&mut self, _: u64, _: Refused) {}
}

impl traces::Visitor for Rows<'_> {
    fn span(&mut self, span: &Span, bytes: &[u8]) -> Result<(), Stop> {
        let outcome = store::spans::insert(self.connection, &self.origin, span);
        self.settle(outcome, |rows| dead::span_request(&rows.resource, &rows.scope, bytes))
    }

    fn too_large(&mut self, bytes: &[u8], error: Malformed) -> Result<(), Stop> {
        let outcome = Err(StoreError::Refused(error.to_string()));
        self.settle(outcome, |rows| dead::span_request(&rows.resource, &rows.scope, bytes))
    }

    /// The door has counted it, and told the sender.
    fn refused(&mut self, _: traces::Invalid) -> Result<(), Stop> {
        Ok(())
    }
}

/// OTLP's number of a temporality.
fn number(temporality: Temporality) -> i32 {
    let temporality = match temporality {
        Temporality::Delta => otlp::AggregationTemporality::Delta,
        Temporality::Cumulative => otlp::AggregationTemporality::Cumulative,
    };
    temporality.into()
}

fn lone_metric(name: &str, unit: &str, data: otlp::metric::Data) -> otlp::Metric {
    otlp::Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data), ..otlp::Metric::default() }
}
