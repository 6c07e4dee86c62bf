//! Holds sealed batches until the collector has taken them or they are given up.
//!
//! Sealed batches come in from [`crate::batch`] and [`crate::measure`]; [`Delivery::take_next`] hands them to the shell one
//! by one, and what became of each comes back as [`Delivery::dispatched`] and [`Delivery::answered`]. Dropped here, and
//! counted in [`crate::ledger`]: what finds no room (`queue_full`), what the collector refuses (`rejected`), what it
//! does not take (`expired`).

use std::collections::VecDeque;

use crate::ledger::{Ledger, Reason, Stat};
use crate::otlp::answer::{Verdict, verdict};

/// What a batch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Data points. `superseded_by_next` says that the next export tells all that this one does.
    Metrics {
        /// Whether the temporality is cumulative.
        superseded_by_next: bool,
    },
}

impl Signal {
    /// Where OTLP/HTTP takes it, behind the configured prefix.
    pub fn path(self) -> &'static str {
        match self {
            Self::Logs => "/v1/logs",
            Self::Metrics { .. } => "/v1/metrics",
        }
    }
}

/// A sealed batch: one export call.
#[derive(Debug)]
pub struct SealedBatch {
    /// Its number among all batches of this root context, from 1, so that the receiver sees what never came. Data
    /// points that the next export tells anyway get theirs when they are first sent: superseding them is no loss.
    pub sequence: Option<u64>,
    /// What it is made of.
    pub signal: Signal,
    /// The encoded request.
    pub body: Vec<u8>,
    /// How many records or data points are in it.
    pub items: u64,
}

/// The batches that wait or are under way.
#[derive(Debug)]
pub struct Delivery {
    max_bytes: usize,
    max_in_flight: usize,
    last_sequence: u64,
    waiting: VecDeque<SealedBatch>,
    in_flight: Vec<Call>,
    bytes: usize,
}

#[derive(Debug)]
struct Call {
    token: u32,
    batch: SealedBatch,
    sent_at_unix_nano: u64,
}

impl Delivery {
    /// Nothing waits. `max_bytes` bounds all batches that wait or are under way.
    pub fn new(max_bytes: usize, max_in_flight: usize) -> Self {
        Self {
            max_bytes,
            max_in_flight,
            last_sequence: 0,
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes a sealed batch. For records the oldest waiting batches give way; data points give way themselves, and a
    /// cumulative export gives way to a newer one.
    pub fn offer(&mut self, signal: Signal, body: Vec<u8>, items: u64, ledger: &mut Ledger) {
        let sequence = (signal != Signal::Metrics { superseded_by_next: true }).then(|| self.next_sequence());
        let batch = SealedBatch { sequence, signal, body, items };
        let fits =
            |delivery: &Self, batch: &SealedBatch| delivery.bytes + batch.body.len() <= delivery.max_bytes;
        while signal == Signal::Logs && !fits(self, &batch) {
            let Some(oldest) = self.waiting.pop_front() else {
                break;
            };
            self.end(&oldest, ledger, |batch, ledger| drop_all(batch, Reason::QueueFull, ledger));
        }
        if fits(self, &batch) {
            self.bytes += batch.body.len();
            self.waiting.push_back(batch);
            ledger.set(Stat::QueueBytes, self.bytes as u64);
        } else {
            drop_all(&batch, Reason::QueueFull, ledger);
        }
    }

    /// Takes back the waiting data points that the next export tells anyway; they are not lost, and not counted.
    pub fn supersede_waiting_metrics(&mut self, ledger: &mut Ledger) {
        let superseded = |batch: &SealedBatch| batch.signal == Signal::Metrics { superseded_by_next: true };
        let freed: usize =
            self.waiting.iter().filter(|batch| superseded(batch)).map(|batch| batch.body.len()).sum();
        self.waiting.retain(|batch| !superseded(batch));
        self.bytes -= freed;
        ledger.set(Stat::QueueBytes, self.bytes as u64);
    }

    /// The batch to send now, if there is one and another call may be under way. It counts for the queue's bytes until
    /// it comes back by [`Delivery::dispatched`] or [`Delivery::refused`].
    pub fn take_next(&mut self) -> Option<SealedBatch> {
        if self.in_flight.len() >= self.max_in_flight {
            return None;
        }
        let mut batch = self.waiting.pop_front()?;
        batch.sequence = batch.sequence.or_else(|| Some(self.next_sequence()));
        Some(batch)
    }

    /// The proxy has taken the call: its answer will name `token`.
    pub fn dispatched(&mut self, batch: SealedBatch, token: u32, now_unix_nano: u64, ledger: &mut Ledger) {
        ledger.add(Stat::BatchesSent, 1);
        self.in_flight.push(Call { token, batch, sent_at_unix_nano: now_unix_nano });
    }

    /// The proxy has not taken the call: no such cluster, or nobody in it.
    pub fn refused(&mut self, batch: SealedBatch, ledger: &mut Ledger) {
        self.end(&batch, ledger, |batch, ledger| drop_all(batch, Reason::Expired, ledger));
    }

    /// The answer to a call; `status` is `None` when there was none. Returns how long the call took, in nanoseconds;
    /// `None` for a token that is not under way.
    pub fn answered(
        &mut self,
        token: u32,
        status: Option<u16>,
        body: &[u8],
        now_unix_nano: u64,
        ledger: &mut Ledger,
    ) -> Option<u64> {
        let at = self.in_flight.iter().position(|call| call.token == token)?;
        let call = self.in_flight.swap_remove(at);
        self.end(&call.batch, ledger, |batch, ledger| match verdict(status, body) {
            Verdict::Accepted { rejected } => accept(batch, rejected.min(batch.items), ledger),
            Verdict::Rejected => drop_all(batch, Reason::Rejected, ledger),
            Verdict::Unavailable => drop_all(batch, Reason::Expired, ledger),
        });
        Some(now_unix_nano.saturating_sub(call.sent_at_unix_nano))
    }

    /// Gives up all that waits or is under way: there will be no answers any more.
    pub fn abandon(&mut self, ledger: &mut Ledger) {
        let in_flight = std::mem::take(&mut self.in_flight).into_iter().map(|call| call.batch);
        let waiting = std::mem::take(&mut self.waiting);
        for batch in in_flight.chain(waiting) {
            self.end(&batch, ledger, |batch, ledger| drop_all(batch, Reason::Shutdown, ledger));
        }
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    fn next_sequence(&mut self) -> u64 {
        self.last_sequence += 1;
        self.last_sequence
    }

    fn end(
        &mut self,
        batch: &SealedBatch,
        ledger: &mut Ledger,
        count: impl FnOnce(&SealedBatch, &mut Ledger),
    ) {
        self.bytes -= batch.body.len();
        ledger.set(Stat::QueueBytes, self.bytes as u64);
        count(batch, ledger);
    }
}

fn accept(batch: &SealedBatch, rejected: u64, ledger: &mut Ledger) {
    match batch.signal {
        Signal::Logs => {
            ledger.delivered(batch.items - rejected);
            ledger.dropped(Reason::Rejected, rejected);
        }
        Signal::Metrics { .. } => ledger.add(Stat::PointsDropped(Reason::Rejected), rejected),
    }
}

fn drop_all(batch: &SealedBatch, reason: Reason, ledger: &mut Ledger) {
    match batch.signal {
        Signal::Logs => ledger.dropped(reason, batch.items),
        Signal::Metrics { .. } => ledger.add(Stat::PointsDropped(reason), batch.items),
    }
}

#[cfg(test)]
mod tests;
