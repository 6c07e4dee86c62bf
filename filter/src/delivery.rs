//! Holds sealed batches until the collector has taken them or they are given up.
//!
//! Sealed batches come in from [`crate::batch`] and [`crate::measure`]; [`Delivery::take_next`] hands them to the shell
//! one by one, and what became of each comes back as [`Delivery::dispatched`], [`Delivery::refused`] and
//! [`Delivery::answered`]. A batch that the collector does not take now waits in front of all others and is sent again
//! as it is, under the same name, until it is taken, refused for good, or too old. Dropped here, and counted in
//! [`crate::ledger`]: what finds no room (`queue_full`, `spilled`), what the collector refuses (`rejected`), what it did
//! not take in time (`expired`). Data points that can be told later are handed back instead, see [`DeltaPoints`].

mod pace;
mod queue;
mod spill;

use crate::config::{Config, WhenFull};
use crate::ledger::{Ledger, Reason, Stat};
use crate::measure::DeltaPoints;
use crate::otlp::answer::{Answer, Verdict};
use pace::Pace;
use queue::Queue;
use spill::Spillway;

/// What a batch is made of.
#[derive(Debug)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Data points that the next export tells again, with all that came since.
    CumulativeMetrics,
    /// Data points that nobody tells again, and what they were made of.
    DeltaMetrics(DeltaPoints),
}

impl Signal {
    /// Where OTLP/HTTP takes it, behind the configured prefix.
    pub fn path(&self) -> &'static str {
        match self {
            Self::Logs => "/v1/logs",
            Self::CumulativeMetrics | Self::DeltaMetrics(_) => "/v1/metrics",
        }
    }
}

/// A sealed batch: one export call.
#[derive(Debug)]
pub struct SealedBatch {
    /// Its number among all batches of this pipeline, from 1, so that the receiver sees what never came. Data
    /// points that can be told later get theirs when they are first sent: taking them back before is no loss.
    pub sequence: Option<u64>,
    /// What it is made of.
    pub signal: Signal,
    /// The encoded request.
    pub body: Vec<u8>,
    /// How many records or data points are in it.
    pub items: u64,
    first_tried_unix_nano: Option<u64>,
    /// Whether the proxy has taken a call with it.
    was_sent: bool,
    /// Whether a try may have been taken without our hearing of it.
    is_ambiguous: bool,
}

impl SealedBatch {
    /// Whether it is one of the batches up to `last`; points are, which nobody can tell when they got no number yet.
    fn is_up_to(&self, last: u64) -> bool {
        !matches!(self.signal, Signal::Logs) || self.sequence <= Some(last)
    }

    fn was_tried(&self) -> bool {
        self.first_tried_unix_nano.is_some()
    }
}

/// The batches that wait or are under way.
#[derive(Debug)]
pub struct Delivery {
    when_full: WhenFull,
    max_elapsed_nano: u64,
    last_sequence: u64,
    queue: Queue,
    in_flight: Vec<Call>,
    /// Tokens of calls under way whose batches were forgotten: they still are calls under way.
    forgotten: Vec<u32>,
    pace: Pace,
    spillway: Spillway,
    spilled: Vec<String>,
    handed_back: Vec<DeltaPoints>,
    draining_since_unix_nano: Option<u64>,
}

#[derive(Debug)]
struct Call {
    token: u32,
    batch: SealedBatch,
    sent_at_unix_nano: u64,
    /// Whether it was made while the collector failed.
    was_probe: bool,
}

impl Delivery {
    /// Nothing waits. `seed` spreads the retries of many instances.
    pub fn new(config: &Config, seed: u64) -> Self {
        Self {
            when_full: config.queue.when_full,
            max_elapsed_nano: u64::try_from(config.retry.max_elapsed.as_nanos()).unwrap_or(u64::MAX),
            last_sequence: 0,
            queue: Queue::new(config.queue.max_bytes),
            in_flight: Vec::new(),
            forgotten: Vec::new(),
            pace: Pace::new(&config.retry, config.collector.max_in_flight, seed),
            spillway: Spillway::default(),
            spilled: Vec::new(),
            handed_back: Vec::new(),
            draining_since_unix_nano: None,
        }
    }

    /// Takes a sealed batch. When it does not fit: for records, what gives way is configured; data points give way
    /// themselves.
    pub fn offer(
        &mut self,
        signal: Signal,
        body: Vec<u8>,
        items: u64,
        now_unix_nano: u64,
        ledger: &mut Ledger,
    ) {
        let is_logs = matches!(signal, Signal::Logs);
        let sequence = is_logs.then(|| self.next_sequence());
        let batch = SealedBatch {
            sequence,
            signal,
            body,
            items,
            first_tried_unix_nano: None,
            was_sent: false,
            is_ambiguous: false,
        };
        let may_evict = is_logs && self.when_full == WhenFull::DropOldest;
        if may_evict && self.queue.can_make_room(batch.body.len()) {
            while !self.queue.has_room(batch.body.len()) {
                let Some(oldest) = self.queue.pop() else { break };
                self.give_up(oldest, Reason::QueueFull, ledger);
            }
        }
        if self.queue.has_room(batch.body.len()) {
            self.queue.push(batch);
            ledger.set(Stat::QueueBytes, self.queue.bytes());
        } else if is_logs && self.when_full == WhenFull::Spill {
            self.spill(&batch, now_unix_nano, ledger);
        } else {
            self.count_lost(batch, Reason::QueueFull, ledger);
        }
    }

    /// Takes back the waiting data points that the next export tells, which is no loss. Not those that were tried once:
    /// they may have been taken, and their number in the sequence would look lost.
    pub fn take_back_metrics(&mut self, ledger: &mut Ledger) {
        let untried_metrics =
            |batch: &SealedBatch| !matches!(batch.signal, Signal::Logs) && !batch.was_tried();
        for batch in self.queue.take_all(untried_metrics) {
            self.queue.release(&batch);
            if let Signal::DeltaMetrics(points) = batch.signal {
                self.handed_back.push(points);
            }
        }
        ledger.set(Stat::QueueBytes, self.queue.bytes());
    }

    /// The batch to send now, if there is one and another call may be made. It counts for the queue's bytes until it
    /// comes back by [`Delivery::dispatched`] or [`Delivery::refused`].
    pub fn take_next(&mut self, now_unix_nano: u64, ledger: &mut Ledger) -> Option<SealedBatch> {
        // Before asking whether a call may be made: a batch grows old during a long pause as well.
        while self.queue.next().is_some_and(|batch| self.is_too_old(batch, now_unix_nano)) {
            let Some(batch) = self.queue.pop() else { break };
            self.give_up(batch, Reason::Expired, ledger);
        }
        if !self.pace.allows(self.in_flight.len() + self.forgotten.len(), now_unix_nano) {
            return None;
        }
        let mut batch = self.queue.pop()?;
        batch.sequence = batch.sequence.or_else(|| Some(self.next_sequence()));
        Some(batch)
    }

    /// The proxy has taken the call: its answer will name `token`.
    pub fn dispatched(
        &mut self,
        mut batch: SealedBatch,
        token: u32,
        now_unix_nano: u64,
        ledger: &mut Ledger,
    ) {
        let was_sent = std::mem::replace(&mut batch.was_sent, true);
        ledger.add(if was_sent { Stat::BatchesRetried } else { Stat::BatchesSent }, 1);
        batch.first_tried_unix_nano.get_or_insert(now_unix_nano);
        let was_probe = self.pace.is_failing();
        self.in_flight.push(Call { token, batch, sent_at_unix_nano: now_unix_nano, was_probe });
    }

    /// The proxy has not taken the call: no such cluster, or nobody in it.
    pub fn refused(&mut self, mut batch: SealedBatch, now_unix_nano: u64, ledger: &mut Ledger) {
        batch.first_tried_unix_nano.get_or_insert(now_unix_nano);
        self.try_later(batch, self.pace.is_failing(), now_unix_nano, None, ledger);
    }

    /// The answer to a call. Returns how long the call took, in nanoseconds; `None` for a token that is not under way.
    pub fn answered(
        &mut self,
        token: u32,
        answer: Answer<'_>,
        now_unix_nano: u64,
        ledger: &mut Ledger,
    ) -> Option<u64> {
        self.forgotten.retain(|forgotten| *forgotten != token);
        let at = self.in_flight.iter().position(|call| call.token == token)?;
        let Call { mut batch, sent_at_unix_nano, was_probe, .. } = self.in_flight.swap_remove(at);
        match answer.verdict(now_unix_nano) {
            Verdict::Accepted { rejected } => {
                self.pace.succeeded(was_probe);
                self.queue.release(&batch);
                count_accepted(&batch, rejected.min(batch.items), ledger);
            }
            Verdict::Rejected => {
                self.pace.succeeded(was_probe);
                self.give_up(batch, Reason::Rejected, ledger);
            }
            Verdict::Unavailable { retry_after_nano, is_refusal } => {
                batch.is_ambiguous |= !is_refusal;
                self.try_later(batch, was_probe, now_unix_nano, retry_after_nano, ledger);
            }
            Verdict::Unanswered => {
                batch.is_ambiguous = true;
                self.try_later(batch, was_probe, now_unix_nano, None, ledger);
            }
        }
        ledger.set(Stat::QueueBytes, self.queue.bytes());
        Some(now_unix_nano.saturating_sub(sent_at_unix_nano))
    }

    /// From now on everything that waits while the collector fails ages, tried or not: the drain has an end.
    pub fn begin_drain(&mut self, now_unix_nano: u64) {
        self.draining_since_unix_nano.get_or_insert(now_unix_nano);
    }

    /// Gives up all that waits or is under way: there will be no answers any more.
    pub fn abandon(&mut self, ledger: &mut Ledger) {
        for batch in self.take_everything() {
            count_dropped(&batch.signal, batch.items, Reason::Shutdown, ledger);
        }
        ledger.set(Stat::QueueBytes, self.queue.bytes());
    }

    /// Throws away all records that wait or are under way, uncounted: somebody else has counted them. Data points nobody
    /// else has: those that can be told later are handed back, the others counted.
    pub fn forget(&mut self, ledger: &mut Ledger) {
        let under_way = self.in_flight.iter_mut().map(|call| {
            call.batch.is_ambiguous = true;
            call.token
        });
        self.forgotten.extend(under_way);
        for batch in self.take_everything() {
            if let Signal::DeltaMetrics(_) = batch.signal {
                self.count_lost(batch, Reason::VmLost, ledger);
            }
        }
    }

    /// Data points that were not delivered and can be told with the next export.
    pub fn take_handed_back(&mut self) -> Vec<DeltaPoints> {
        std::mem::take(&mut self.handed_back)
    }

    /// Lines for the proxy's log.
    pub fn take_spilled(&mut self) -> Vec<String> {
        std::mem::take(&mut self.spilled)
    }

    /// Whether something waits.
    pub fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// The number of the newest batch.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Whether of the batches up to `last` none waits or is under way; newer ones may.
    pub fn is_sent_up_to(&self, last: u64) -> bool {
        let in_flight = self.in_flight.iter().map(|call| &call.batch);
        !in_flight.chain(self.queue.iter()).any(|batch| batch.is_up_to(last))
    }

    fn try_later(
        &mut self,
        batch: SealedBatch,
        was_probe: bool,
        now_unix_nano: u64,
        asked_nano: Option<u64>,
        ledger: &mut Ledger,
    ) {
        let not_before = self.pace.failed(was_probe, now_unix_nano, asked_nano);
        // A try that would come too late need not be waited for.
        if self.is_too_old(&batch, not_before) {
            self.give_up(batch, Reason::Expired, ledger);
        } else {
            self.queue.put_back(batch);
        }
    }

    fn is_too_old(&self, batch: &SealedBatch, now_unix_nano: u64) -> bool {
        let draining_since = self.draining_since_unix_nano.filter(|_| self.pace.is_failing());
        let since = batch.first_tried_unix_nano.or(draining_since);
        since.is_some_and(|since| now_unix_nano.saturating_sub(since) > self.max_elapsed_nano)
    }

    /// A batch that was in the queue has its end without being taken.
    fn give_up(&mut self, batch: SealedBatch, reason: Reason, ledger: &mut Ledger) {
        self.queue.release(&batch);
        ledger.set(Stat::QueueBytes, self.queue.bytes());
        self.count_lost(batch, reason, ledger);
    }

    fn count_lost(&mut self, batch: SealedBatch, reason: Reason, ledger: &mut Ledger) {
        match batch.signal {
            // At the end of a drain there is no next export.
            Signal::DeltaMetrics(points)
                if !batch.is_ambiguous && self.draining_since_unix_nano.is_none() =>
            {
                self.handed_back.push(points);
            }
            signal => count_dropped(&signal, batch.items, reason, ledger),
        }
    }

    fn spill(&mut self, batch: &SealedBatch, now_unix_nano: u64, ledger: &mut Ledger) {
        let lines = self.spillway.lines(&batch.body, now_unix_nano);
        let spilled = batch.items.min(lines.len() as u64);
        self.spilled.extend(lines);
        ledger.dropped(Reason::Spilled, spilled);
        ledger.dropped(Reason::QueueFull, batch.items - spilled);
    }

    /// What waits and what is under way; nothing counts for the queue's bytes any more.
    fn take_everything(&mut self) -> Vec<SealedBatch> {
        let mut batches: Vec<_> =
            std::mem::take(&mut self.in_flight).into_iter().map(|call| call.batch).collect();
        batches.extend(self.queue.take_all(|_| true));
        batches.iter().for_each(|batch| self.queue.release(batch));
        batches
    }

    fn next_sequence(&mut self) -> u64 {
        self.last_sequence += 1;
        self.last_sequence
    }
}

fn count_accepted(batch: &SealedBatch, rejected: u64, ledger: &mut Ledger) {
    if let Signal::Logs = batch.signal {
        ledger.delivered(batch.items - rejected);
    }
    count_dropped(&batch.signal, rejected, Reason::Rejected, ledger);
}

fn count_dropped(signal: &Signal, items: u64, reason: Reason, ledger: &mut Ledger) {
    match signal {
        Signal::Logs => ledger.dropped(reason, items),
        Signal::CumulativeMetrics | Signal::DeltaMetrics(_) => ledger.add(Stat::PointsDropped(reason), items),
    }
}

#[cfg(test)]
mod tests;
