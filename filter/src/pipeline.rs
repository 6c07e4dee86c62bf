//! The whole way of a record, as one value: a root context's, or, in the dynamic module, one logger's on one worker.
//!
//! The shell hands in what it captured, the time, and what became of its calls; it takes out the calls to make and the
//! changes of the statistics. Nothing here knows a proxy.

mod backlog;
mod definition;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::batch::{Batcher, SealedLogs};
use crate::capture::{Captured, Plan};
use crate::config::{Config, ConfigError};
use crate::delivery::{Delivery, SealedBatch, Signal};
use crate::ledger::{Ledger, Reason, Stat};
use crate::measure::{ExportedRequest, Measurements};
use crate::otlp::answer::Answer;
use crate::otlp::envelope::Envelope;
use crate::policy::{self, Policy, Verdict};
use crate::record::Encoder;
use crate::redact::Redactor;
use crate::request::FinishedRequest;
use crate::route::Routes;
use backlog::{Backlog, Judged};
pub use definition::{Definition, Node, VERSION};

/// What was decided on a request that becomes a record, and is pending from then on.
#[derive(Debug)]
pub struct Kept {
    weight: f64,
}

/// One worker's way of a record.
#[derive(Debug)]
pub struct Pipeline {
    config: Config,
    plan: Arc<Plan>,
    routes: Arc<Routes>,
    /// `None` where every request becomes a record.
    policy: Option<Policy>,
    backlog: Backlog,
    instance_id: Uuid,
    envelope: Envelope,
    encoder: Encoder,
    batcher: Batcher,
    measurements: Measurements,
    has_new_measurements: bool,
    next_export_unix_nano: u64,
    delivery: Delivery,
    ledger: Ledger,
    draining: bool,
}

impl Pipeline {
    /// A pipeline without data. `random` names this instance and spreads its exports over the interval.
    ///
    /// # Errors
    /// As [`Definition::new`].
    pub fn new(
        config: Config,
        node: &Node,
        random: [u8; 16],
        now_unix_nano: u64,
    ) -> Result<Self, ConfigError> {
        Ok(Self::of(Definition::new(config, node)?, random, now_unix_nano))
    }

    fn of(definition: Definition, random: [u8; 16], now_unix_nano: u64) -> Self {
        let instance_id = uuid::Builder::from_random_bytes(random).into_uuid();
        let envelope = definition.envelope(instance_id);
        let Definition { config, plan, routes, max_record_bytes, .. } = definition;
        let interval = nano(config.metrics.interval);
        // Workers start in phase; the first export comes after half an interval up to a whole one.
        let first_export = interval / 2 + interval / 2 / 256 * u64::from(random[0]);
        let (seed, other_seed) = instance_id.as_u64_pair();
        let redactor = Redactor::new(&config, &routes);
        Self {
            plan,
            routes,
            policy: policy::lets_any_go(&config.logs, &config.routes)
                .then(|| Policy::new(&config.logs, &config.routes, other_seed)),
            backlog: Backlog::default(),
            instance_id,
            encoder: Encoder::new(&config.logs, redactor, max_record_bytes),
            batcher: Batcher::new(&config.batch),
            measurements: Measurements::new(&config.metrics, now_unix_nano),
            has_new_measurements: false,
            next_export_unix_nano: now_unix_nano.saturating_add(first_export),
            delivery: Delivery::new(&config, seed),
            ledger: Ledger::default(),
            draining: false,
            envelope,
            config,
        }
    }

    /// What is asked of the host about each request.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// How often [`Pipeline::tick`] wants to be called: a quarter of the batches' delay, at most each second.
    pub fn tick_period(&self) -> Duration {
        (self.config.batch.max_delay / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// A request has finished, of which the plan's first stage was captured: decides on its record, and counts it. Where
    /// it is kept, the rest of the plan is wanted; whatever was decided, [`Pipeline::observe`] is to follow in the same hook.
    #[must_use = "a record that is kept is pending until it was observed"]
    pub fn judge(&mut self, captured: &Captured, now_unix_nano: u64) -> Option<Kept> {
        if !self.config.logs.enabled {
            return None;
        }
        let verdict = match &mut self.policy {
            Some(policy) => {
                let mut request = FinishedRequest::read(&self.plan, captured, now_unix_nano);
                if policy.needs_route() {
                    request.route = self.routes.find(request.path_and_query().0);
                }
                policy.judge(&request, now_unix_nano)
            }
            None => Verdict::Keep { weight: 1.0 },
        };
        match verdict {
            Verdict::Keep { weight } => {
                self.ledger.captured();
                Some(Kept { weight })
            }
            Verdict::SampledOut => {
                self.ledger.sampled_out();
                None
            }
            Verdict::RateLimited => {
                self.ledger.captured();
                self.ledger.dropped(Reason::RateLimited, 1);
                None
            }
        }
    }

    /// Takes over all that was captured of a request that was judged. It is measured and, if it is kept, made a record of
    /// now or with one of the next requests, but not after the next tick. Returns what the next one is to be captured in.
    pub fn observe(&mut self, mut captured: Captured, kept: Option<Kept>, now_unix_nano: u64) -> Captured {
        if kept.is_none() && !self.config.metrics.enabled {
            captured.clear();
            return captured;
        }
        let next = self.backlog.push(Judged { captured, kept, ended_unix_nano: now_unix_nano });
        let records = self.batcher.records() + self.backlog.records();
        if self.backlog.is_full() || records >= self.config.batch.max_records as u64 {
            self.catch_up(now_unix_nano);
        }
        next
    }

    /// Works on all that waits for it.
    fn catch_up(&mut self, now_unix_nano: u64) {
        let (plan, routes) = (Arc::clone(&self.plan), Arc::clone(&self.routes));
        let waiting = self.backlog.take();
        for Judged { captured, kept, ended_unix_nano } in &waiting {
            let mut request = FinishedRequest::read(&plan, captured, *ended_unix_nano);
            request.route = routes.find(request.path_and_query().0);
            if self.config.metrics.enabled {
                self.measurements.record(&request);
                self.has_new_measurements = true;
            }
            if let Some(Kept { weight }) = kept {
                request.sample_weight = *weight;
                self.record(&request, now_unix_nano);
            }
        }
        self.backlog.recycle(waiting);
    }

    fn record(&mut self, request: &FinishedRequest<'_>, now_unix_nano: u64) {
        let failed_attributes = request.failed_attributes();
        if failed_attributes > 0 {
            self.ledger.add(Stat::AttributeFailures, failed_attributes);
        }
        let ended_unix_nano = request.ended_unix_nano;
        let encoder = &mut self.encoder;
        let full = self
            .batcher
            .push(&self.envelope, ended_unix_nano, |out| encoder.encode(request, ended_unix_nano, out));
        self.offer_logs(full, now_unix_nano);
    }

    /// A request's values had to be fetched one by one.
    pub fn capture_fell_back(&mut self) {
        self.ledger.add(Stat::CaptureFallbacks, 1);
    }

    /// Time has passed: works on what waits, seals the open batch when it is old enough, exports the histograms when they are
    /// due.
    pub fn tick(&mut self, now_unix_nano: u64) {
        self.catch_up(now_unix_nano);
        if self.draining {
            self.flush(now_unix_nano);
            return;
        }
        let old = self.batcher.seal_if_old(now_unix_nano, nano(self.tick_period()));
        self.offer_logs(old, now_unix_nano);
        let interval = nano(self.config.metrics.interval).max(1);
        if now_unix_nano >= self.next_export_unix_nano {
            // After a pause (a machine asleep) the missed exports are not made up for.
            let missed = (now_unix_nano - self.next_export_unix_nano) / interval;
            self.next_export_unix_nano += (missed + 1) * interval;
            self.export_measurements(now_unix_nano);
        }
        // After a clock was set back, the next one is an interval away at most.
        self.next_export_unix_nano = self.next_export_unix_nano.min(now_unix_nano.saturating_add(interval));
    }

    /// There will be no more ticks for long: everything goes out as soon as it can.
    pub fn drain(&mut self, now_unix_nano: u64) {
        self.draining = true;
        self.delivery.begin_drain(now_unix_nano);
        self.catch_up(now_unix_nano);
        self.flush(now_unix_nano);
    }

    /// Whether a drain has nothing left to do.
    pub fn is_drained(&self) -> bool {
        let is_encoded = self.backlog.is_empty() && self.batcher.records() == 0;
        self.draining && is_encoded && !self.has_news() && self.delivery.is_empty()
    }

    /// The number of the batch that was sealed last.
    pub fn last_sequence(&self) -> u64 {
        self.delivery.last_sequence()
    }

    /// Whether everything that was sealed up to that batch has had its end; newer ones may wait.
    pub fn is_sent_up_to(&self, last: u64) -> bool {
        self.delivery.is_sent_up_to(last)
    }

    /// Counts all that is left as lost to the shutdown.
    pub fn abandon(&mut self) {
        let open = self.batcher.seal().map_or(0, |open| open.records);
        self.ledger.dropped(Reason::Shutdown, self.backlog.forget_records() + open);
        self.delivery.abandon(&mut self.ledger);
    }

    /// The records of another machine, which is gone, were counted as dropped.
    pub fn counted_for_another(&mut self, reason: Reason, records: u64) {
        self.ledger.dropped_for_another(reason, records);
    }

    /// Throws away all records that are held, uncounted: another machine has counted them, taking this one for lost.
    pub fn forget(&mut self) {
        self.backlog.forget_records();
        self.batcher.seal();
        self.delivery.forget(&mut self.ledger);
        self.absorb_handed_back();
        self.ledger.lost();
    }

    /// Names this instance.
    pub fn instance_id(&self) -> [u8; 16] {
        self.instance_id.into_bytes()
    }

    /// Whether a batch waits to be sent, now or later.
    pub fn has_waiting(&self) -> bool {
        self.delivery.has_waiting()
    }

    /// The batch to send now, if any; its fate comes back by [`Pipeline::dispatched`] or [`Pipeline::refused`].
    pub fn take_next(&mut self, now_unix_nano: u64) -> Option<SealedBatch> {
        let next = self.delivery.take_next(now_unix_nano, &mut self.ledger);
        self.absorb_handed_back();
        next
    }

    /// The headers of a batch's call, each `(name, value)`.
    pub fn call_headers(&self, batch: &SealedBatch) -> Vec<(String, String)> {
        let collector = &self.config.collector;
        let own = [
            (":method", "POST".to_owned()),
            (":path", format!("{}{}", collector.path_prefix, batch.signal.path())),
            (":authority", collector.authority.clone()),
            ("content-type", "application/x-protobuf".to_owned()),
            ("user-agent", format!("OTel-OTLP-Exporter-offpath/{VERSION}")),
            ("x-offpath-batch", format!("{}-{}", self.instance_id, batch.sequence.unwrap_or_default())),
        ];
        own.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(collector.headers.iter().cloned())
            .collect()
    }

    /// The cluster that takes the calls.
    pub fn cluster(&self) -> &str {
        &self.config.collector.cluster
    }

    /// How long a call may take.
    pub fn call_timeout(&self) -> Duration {
        self.config.collector.timeout
    }

    /// The proxy has taken a call.
    pub fn dispatched(&mut self, batch: SealedBatch, token: u32, now_unix_nano: u64) {
        self.delivery.dispatched(batch, token, now_unix_nano, &mut self.ledger);
    }

    /// The proxy has not taken a call.
    pub fn refused(&mut self, batch: SealedBatch, now_unix_nano: u64) {
        self.delivery.refused(batch, now_unix_nano, &mut self.ledger);
        self.absorb_handed_back();
    }

    /// The answer to a call. Returns how long it took, in milliseconds; `None` for a token that is not under way.
    pub fn answered(&mut self, token: u32, answer: Answer<'_>, now_unix_nano: u64) -> Option<u64> {
        let took_nano = self.delivery.answered(token, answer, now_unix_nano, &mut self.ledger)?;
        self.absorb_handed_back();
        Some(took_nano / 1_000_000)
    }

    /// Records that found no room, as lines for the proxy's log.
    pub fn take_spilled(&mut self) -> Vec<String> {
        self.delivery.take_spilled()
    }

    /// The counts.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    fn flush(&mut self, now_unix_nano: u64) {
        let open = self.batcher.seal();
        self.offer_logs(open, now_unix_nano);
        if self.has_news() {
            self.export_measurements(now_unix_nano);
        }
    }

    /// Whether an export would tell more than the last one.
    fn has_news(&self) -> bool {
        self.has_new_measurements
            || self.config.metrics.enabled && self.measurements.has_new_drops(&self.ledger)
    }

    fn offer_logs(&mut self, sealed: Option<SealedLogs>, now_unix_nano: u64) {
        if let Some(SealedLogs { body, records }) = sealed {
            self.delivery.offer(Signal::Logs, body, records, now_unix_nano, &mut self.ledger);
        }
    }

    fn export_measurements(&mut self, now_unix_nano: u64) {
        self.delivery.take_back_metrics(&mut self.ledger);
        self.absorb_handed_back();
        if self.config.metrics.enabled {
            self.measurements.count_drops(&self.ledger);
        }
        let (delivery, ledger) = (&mut self.delivery, &mut self.ledger);
        let oversized = self.measurements.export(
            &self.envelope,
            self.config.batch.max_bytes,
            now_unix_nano,
            |ExportedRequest { body, points, delta }| {
                let signal = delta.map_or(Signal::CumulativeMetrics, Signal::DeltaMetrics);
                delivery.offer(signal, body, points, now_unix_nano, ledger);
            },
        );
        self.has_new_measurements = false;
        self.ledger.add(Stat::PointsDropped(Reason::Oversized), oversized);
        self.absorb_handed_back();
    }

    fn absorb_handed_back(&mut self) {
        for points in self.delivery.take_handed_back() {
            self.measurements.absorb(points);
            self.has_new_measurements = true;
        }
    }
}

fn nano(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod backlog_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
