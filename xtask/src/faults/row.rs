//! What a fault has done, as a row of the table, and whether everything in it is accounted for.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    faults::{
        fault::{Fault, QUEUE_BYTES, Treatment},
        stand::Ending,
    },
    harness::envoy::WORKERS,
};

/// How much Envoy's memory may grow: what the queues hold, a few times (in the plugin, and copied for a call and in it),
/// and what any Envoy under load takes.
const MAX_GROWTH_BYTES: u64 = 4 * WORKERS * QUEUE_BYTES + (64 << 20);

/// One fault, and all that was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The fault.
    pub fault: &'static str,
    /// How many requests the application's clients sent.
    pub requests: u64,
    /// Of these, how many were answered 200.
    pub answered_200: u64,
    /// How long requests took.
    pub p50_ms: f64,
    /// How long requests took.
    pub p99_ms: f64,
    /// How long requests took.
    pub max_ms: f64,
    /// Records, as the plugin counts them.
    pub captured: u64,
    /// Records, as the plugin counts them.
    pub delivered: u64,
    /// Records, as the plugin counts them, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Records, as the plugin counts them, at the end.
    pub pending: u64,
    /// Requests that Envoy, as it counts itself, did not hand to the plugin while that was reloaded.
    pub not_logged: u64,
    /// Records that the receiver has taken, each once.
    pub arrived: u64,
    /// Calls to the receiver, each batch once.
    pub calls: u64,
    /// Calls to the receiver beyond those.
    pub calls_again: u64,
    /// Records in Envoy's log.
    pub spilled_lines: u64,
    /// Envoy's memory before the fault.
    pub resident_bytes: u64,
    /// The most that it was seen to be.
    pub max_resident_bytes: u64,
    /// The same fault with Envoy's own logger.
    pub native: Option<Native>,
    /// What does not hold.
    pub breaches: Vec<String>,
}

/// Were requests to wait for the collector, most would wait longer than this: calls to one that is stuck take a second.
const MAX_MEDIAN_MS: f64 = 200.0;

/// What Envoy's own OTLP/HTTP logger did under the same fault.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Native {
    /// How many requests were answered.
    pub requests: u64,
    /// How many of their records the receiver has taken.
    pub arrived: u64,
    /// How many it has not.
    pub lost: u64,
}

impl Native {
    /// From the end of its run.
    #[must_use]
    pub fn new(ending: &Ending) -> Self {
        let (requests, arrived) = (ending.tally.sent(), ending.inventory.distinct());
        Self { requests, arrived, lost: requests.saturating_sub(arrived) }
    }
}

impl Row {
    /// From the end of a run, whose Envoy occupied `resident_bytes` before the fault.
    #[must_use]
    pub fn new(fault: &Fault, resident_bytes: u64, ending: &Ending, native: Option<Native>) -> Self {
        let Ending { tally, accounting, .. } = ending;
        let mut row = Self {
            fault: fault.name,
            requests: tally.sent(),
            answered_200: tally.statuses.get(&200).copied().unwrap_or(0),
            p50_ms: tally.quantile_ms(0.5),
            p99_ms: tally.quantile_ms(0.99),
            max_ms: tally.quantile_ms(1.0),
            captured: accounting.captured,
            delivered: accounting.delivered,
            dropped: accounting.dropped.clone(),
            pending: accounting.pending,
            not_logged: ending.not_logged,
            arrived: ending.inventory.distinct(),
            calls: ending.calls,
            calls_again: ending.calls_again,
            spilled_lines: ending.spilled_lines,
            resident_bytes,
            max_resident_bytes: ending.max_resident_bytes,
            native,
            breaches: ending.inventory.breaches().to_vec(),
        };
        row.breaches.extend(row.broken(fault, ending));
        row
    }

    fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// What must hold, whatever the fault.
    fn broken(&self, fault: &Fault, ending: &Ending) -> Vec<String> {
        let spilled = self.dropped.get("spilled").copied().unwrap_or(0);
        // A batch whose answer was lost may have arrived though it was given up.
        let may_have_arrived = self.delivered..=self.delivered + self.dropped_total();
        let unexpected: Vec<&String> =
            self.dropped.keys().filter(|reason| !fault.may_drop.contains(&reason.as_str())).collect();
        let traps = fault.treatment == Treatment::Trap;
        // A request that was to trap is one that was not logged, if the plugin was being reloaded already.
        let all_seen = self.requests..=self.requests + ending.traps.min(self.not_logged);
        let checks = [
            (
                self.answered_200 == self.requests,
                format!(
                    "not every request was answered 200: {:?}, {:?}",
                    ending.tally.statuses, ending.tally.failures
                ),
            ),
            (self.p50_ms < MAX_MEDIAN_MS, format!("half of all requests took more than {} ms", self.p50_ms)),
            (
                all_seen.contains(&(self.captured + self.not_logged)),
                "not every request was captured".to_owned(),
            ),
            (self.not_logged == 0 || traps, "Envoy has reloaded the plugin".to_owned()),
            (ending.accounting.balances(), "the identity does not hold".to_owned()),
            (self.pending == 0, "records are pending for ever".to_owned()),
            (ending.queue_bytes == 0, format!("{} bytes stay in the queue", ending.queue_bytes)),
            (
                may_have_arrived.contains(&self.arrived),
                "delivered is not what has arrived, with what may have".to_owned(),
            ),
            (unexpected.is_empty(), format!("dropped for no good reason: {unexpected:?}")),
            (
                self.spilled_lines == spilled,
                format!("{spilled} records spilled, {} in the log", self.spilled_lines),
            ),
            (
                self.max_resident_bytes <= self.resident_bytes + MAX_GROWTH_BYTES,
                format!("memory grew by more than {} MiB", MAX_GROWTH_BYTES >> 20),
            ),
        ];
        checks.into_iter().filter_map(|(holds, breach)| (!holds).then_some(breach)).collect()
    }

    /// The table's head; rows are as wide.
    #[must_use]
    pub fn header() -> String {
        format!(
            "{:<23}{:>9}{:>9}{:>8}{:>8}{:>10}{:>10}  {:<28}{:>8}{:>9}{:>12}{:>14}{:>16}  exact",
            "fault",
            "requests",
            "200",
            "p99 ms",
            "max ms",
            "captured",
            "delivered",
            "dropped",
            "pending",
            "arrived",
            "calls+again",
            "Envoy MiB",
            "native lost",
        )
    }

    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut dropped: Vec<String> =
            self.dropped.iter().map(|(reason, records)| format!("{reason} {records}")).collect();
        if self.not_logged > 0 {
            dropped.push(format!("(not logged {})", self.not_logged));
        }
        let native = self
            .native
            .map_or_else(|| "-".to_owned(), |native| format!("{} of {}", native.lost, native.requests));
        format!(
            "{:<23}{:>9}{:>9}{:>8.1}{:>8.1}{:>10}{:>10}  {:<28}{:>8}{:>9}{:>12}{:>14}{:>16}  {}",
            self.fault,
            self.requests,
            self.answered_200,
            self.p99_ms,
            self.max_ms,
            self.captured,
            self.delivered,
            if dropped.is_empty() { "-".to_owned() } else { dropped.join(", ") },
            self.pending,
            self.arrived,
            format!("{}+{}", self.calls, self.calls_again),
            format!("{}→{}", self.resident_bytes >> 20, self.max_resident_bytes >> 20),
            native,
            if self.breaches.is_empty() {
                "yes".to_owned()
            } else {
                format!("NO: {}", self.breaches.join("; "))
            },
        )
    }
}
