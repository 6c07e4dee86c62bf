//! What the collector says about itself, for `/metrics`.
//!
//! In: events of the door and the writer. Out: Prometheus text. Counters start at 0 with the process; what must be
//! right over restarts is the accounting in the store, which the gauges show.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::otlp::Signal;
use crate::store::accounting::Accounting;
use crate::store::senders;

/// A signal's label: `logs` counts log records, `metrics` data points, `traces` spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SignalLabel {
    signal: &'static str,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransactionLabel {
    transaction: &'static str,
}

/// Where connections come in: `otlp-http` or `http`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    listener: &'static str,
}

/// All of the collector's metrics.
#[derive(Debug)]
pub struct SelfMetrics {
    registry: Registry,
    connections: Family<ListenerLabel, Gauge>,
    accepted_records: Family<SignalLabel, Counter>,
    accepted_bytes: Family<SignalLabel, Counter>,
    rejected_requests: Family<ReasonLabel, Counter>,
    rejected_points: Family<ReasonLabel, Counter>,
    rejected_spans: Counter,
    stored_records: Family<SignalLabel, Counter>,
    superseded_points: Counter,
    deduplicated_records: Family<SignalLabel, Counter>,
    deduplicated_batches: Family<SignalLabel, Counter>,
    dead_lettered_records: Family<SignalLabel, Counter>,
    dead_letters: Family<SignalLabel, Gauge>,
    inbox_records: Family<SignalLabel, Gauge>,
    inbox_bytes: Gauge,
    inbox_limit_bytes: Gauge,
    inbox_oldest_age_seconds: Gauge<f64, AtomicU64>,
    commit_seconds: Family<TransactionLabel, Histogram>,
    drain_lag_seconds: Histogram,
    senders: Gauge,
    senders_with_gaps: Gauge,
    missing_batches: Gauge,
    oldest_gap_age_seconds: Gauge<f64, AtomicU64>,
    store_errors: Counter,
    ready: Gauge,
    oldest_received_unix_nano: AtomicI64,
    missing_since_unix_nano: AtomicI64,
}

impl Default for SelfMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl SelfMetrics {
    /// All metrics, at 0.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("offpath_collector"),
            connections: Family::default(),
            accepted_records: Family::default(),
            accepted_bytes: Family::default(),
            rejected_requests: Family::default(),
            rejected_points: Family::default(),
            rejected_spans: Counter::default(),
            stored_records: Family::default(),
            superseded_points: Counter::default(),
            deduplicated_records: Family::default(),
            deduplicated_batches: Family::default(),
            dead_lettered_records: Family::default(),
            dead_letters: Family::default(),
            inbox_records: Family::default(),
            inbox_bytes: Gauge::default(),
            inbox_limit_bytes: Gauge::default(),
            inbox_oldest_age_seconds: Gauge::default(),
            commit_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
            }),
            drain_lag_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            senders: Gauge::default(),
            senders_with_gaps: Gauge::default(),
            missing_batches: Gauge::default(),
            oldest_gap_age_seconds: Gauge::default(),
            store_errors: Counter::default(),
            ready: Gauge::default(),
            oldest_received_unix_nano: AtomicI64::new(0),
            missing_since_unix_nano: AtomicI64::new(0),
        };
        metrics.register();
        metrics
    }

    #[rustfmt::skip]
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("connections", "Open connections, by listener; more than --max-connections wait", self.connections.clone());
        registry.register("accepted_records", "Log records, data points and spans acknowledged", self.accepted_records.clone());
        registry.register("accepted_bytes", "Bytes of acknowledged requests, as they came", self.accepted_bytes.clone());
        registry.register("rejected_requests", "Requests refused, by reason", self.rejected_requests.clone());
        registry.register("rejected_points", "Data points refused in accepted requests (partial success), by reason", self.rejected_points.clone());
        registry.register("rejected_spans", "Spans refused in accepted requests (partial success): their ids are invalid", self.rejected_spans.clone());
        registry.register("stored_records", "Log records, data points and spans that became rows", self.stored_records.clone());
        registry.register("superseded_points", "Cumulative points dropped because a later one was already stored", self.superseded_points.clone());
        registry.register("deduplicated_records", "Log records, data points and spans of batches that were already stored", self.deduplicated_records.clone());
        registry.register("deduplicated_batches", "Batches that were already stored", self.deduplicated_batches.clone());
        registry.register("dead_lettered_records", "Log records, data points and spans set aside because the store refused them", self.dead_lettered_records.clone());
        registry.register("dead_letters", "Log records, data points and spans in the dead-letter store now", self.dead_letters.clone());
        registry.register("inbox_records", "Log records, data points and spans acknowledged and not yet rows", self.inbox_records.clone());
        registry.register("inbox_bytes", "Bytes of requests acknowledged and not yet rows", self.inbox_bytes.clone());
        registry.register("inbox_limit_bytes", "Beyond so many bytes in the inbox requests are refused, --max-queue-bytes", self.inbox_limit_bytes.clone());
        registry.register_with_unit("inbox_oldest_age", "Age of the oldest request in the inbox, 0 when it is empty", Unit::Seconds, self.inbox_oldest_age_seconds.clone());
        registry.register_with_unit("commit", "Time to commit a transaction, sync to disk included", Unit::Seconds, self.commit_seconds.clone());
        registry.register_with_unit("drain_lag", "Time from receiving a request to its rows being committed", Unit::Seconds, self.drain_lag_seconds.clone());
        registry.register("senders", "Senders that are known", self.senders.clone());
        registry.register("senders_with_gaps", "Senders of which batches are missing", self.senders_with_gaps.clone());
        registry.register("missing_batches", "Batches that senders have numbered and that never came; falls when one comes late", self.missing_batches.clone());
        registry.register_with_unit("oldest_gap_age", "For how long the sender that has had gaps for longest has had them, 0 without gaps", Unit::Seconds, self.oldest_gap_age_seconds.clone());
        registry.register("store_errors", "Times that the database was unavailable", self.store_errors.clone());
        registry.register("ready", "1 when requests are taken and stored", self.ready.clone());
    }

    /// Beyond so many bytes in the inbox requests are refused.
    pub fn inbox_limit(&self, bytes: u64) {
        self.inbox_limit_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// So many more connections are open at a listener.
    pub fn connections(&self, listener: &'static str, more: i64) {
        self.connections.get_or_create(&ListenerLabel { listener }).inc_by(more);
    }

    /// A request was acknowledged.
    pub fn accepted(&self, signal: Signal, records: u64, bytes: u64) {
        self.accepted_records.get_or_create(&label(signal)).inc_by(records);
        self.accepted_bytes.get_or_create(&label(signal)).inc_by(bytes);
    }

    /// A request was refused.
    pub fn rejected_request(&self, reason: &'static str) {
        self.rejected_requests.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Points of an accepted request were refused.
    pub fn rejected_points(&self, reason: &'static str, points: u64) {
        if points > 0 {
            self.rejected_points.get_or_create(&ReasonLabel { reason }).inc_by(points);
        }
    }

    /// Spans of an accepted request were refused.
    pub fn rejected_spans(&self, spans: u64) {
        self.rejected_spans.inc_by(spans);
    }

    /// A batch left the inbox, with these changes of the accounting.
    pub fn drained(&self, signal: Signal, change: &Accounting, lag_seconds: f64) {
        let label = label(signal);
        let add = |family: &Family<SignalLabel, Counter>, number: i64| {
            family.get_or_create(&label).inc_by(u64::try_from(number).unwrap_or(0));
        };
        add(&self.stored_records, change.stored);
        add(&self.deduplicated_records, change.deduplicated);
        add(&self.dead_lettered_records, change.dead_lettered);
        self.superseded_points.inc_by(u64::try_from(change.superseded).unwrap_or(0));
        self.drain_lag_seconds.observe(lag_seconds);
    }

    /// A batch was already stored.
    pub fn deduplicated_batch(&self, signal: Signal) {
        self.deduplicated_batches.get_or_create(&label(signal)).inc();
    }

    /// A transaction was committed; `transaction` is `inbox` or `store`.
    pub fn committed(&self, transaction: &'static str, seconds: f64) {
        self.commit_seconds.get_or_create(&TransactionLabel { transaction }).observe(seconds);
    }

    /// The database was unavailable.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// The totals in the store, and when the oldest waiting request came.
    pub fn totals(
        &self,
        totals: &[(Signal, Accounting)],
        queued_bytes: i64,
        oldest_received_unix_nano: Option<i64>,
    ) {
        for (signal, totals) in totals {
            self.inbox_records.get_or_create(&label(*signal)).set(totals.queued);
            self.dead_letters.get_or_create(&label(*signal)).set(totals.dead_lettered);
        }
        self.inbox_bytes.set(queued_bytes);
        self.oldest_received_unix_nano.store(oldest_received_unix_nano.unwrap_or(0), Ordering::Relaxed);
    }

    /// What the store says of all senders.
    pub fn senders(&self, totals: &senders::Totals) {
        self.senders.set(totals.senders);
        self.senders_with_gaps.set(totals.with_gaps);
        self.missing_batches.set(totals.missing_batches);
        let since = totals.missing_since_unix_nano.unwrap_or(0);
        self.missing_since_unix_nano.store(since, Ordering::Relaxed);
    }

    /// Prometheus' text format.
    #[must_use]
    pub fn render(&self, ready: bool, now_unix_nano: i64) -> String {
        self.ready.set(i64::from(ready));
        self.inbox_oldest_age_seconds.set(age_seconds(&self.oldest_received_unix_nano, now_unix_nano));
        self.oldest_gap_age_seconds.set(age_seconds(&self.missing_since_unix_nano, now_unix_nano));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// How long ago it was; 0 stands for never.
fn age_seconds(unix_nano: &AtomicI64, now_unix_nano: i64) -> f64 {
    match unix_nano.load(Ordering::Relaxed) {
        0 => 0.0,
        then => now_unix_nano.saturating_sub(then).max(0) as f64 / 1e9,
    }
}

fn label(signal: Signal) -> SignalLabel {
    SignalLabel { signal: signal.as_str() }
}
