//! Gathers encoded records until a batch is full or old enough.
//!
//! [`crate::record`] appends bytes; sealed batches go to [`crate::delivery`]. Nothing is dropped here: a record that
//! does not fit into the open batch begins the next one.

use crate::config;
use crate::otlp::envelope::{Envelope, OpenRequest};

/// A sealed batch of records.
#[derive(Debug)]
pub struct SealedLogs {
    /// An `ExportLogsServiceRequest`.
    pub body: Vec<u8>,
    /// How many records are in it.
    pub records: u64,
}

/// Gathers records.
#[derive(Debug)]
pub struct Batcher {
    max_records: u64,
    max_bytes: usize,
    max_delay_nano: u64,
    open: Option<OpenBatch>,
}

#[derive(Debug)]
struct OpenBatch {
    body: Vec<u8>,
    request: OpenRequest,
    records: u64,
    first_at_unix_nano: u64,
}

impl Batcher {
    /// No batch is open.
    pub fn new(config: &config::Batch) -> Self {
        Self {
            max_records: config.max_records as u64,
            max_bytes: config.max_bytes,
            max_delay_nano: u64::try_from(config.max_delay.as_nanos()).unwrap_or(u64::MAX),
            open: None,
        }
    }

    /// Adds the record that `encode` appends; returns the batch that is full by it, if any. An encoded record fits
    /// into a batch of its own, which the encoder's bound sees to.
    pub fn push(
        &mut self,
        envelope: &Envelope,
        now_unix_nano: u64,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Option<SealedLogs> {
        let open = self.open.get_or_insert_with(|| OpenBatch::begin(envelope, now_unix_nano));
        let fitting_len = open.body.len();
        encode(&mut open.body);
        open.records += 1;
        if open.body.len() > self.max_bytes && open.records > 1 {
            let mut next = OpenBatch::begin(envelope, now_unix_nano);
            next.body.extend_from_slice(open.body.get(fitting_len..).unwrap_or_default());
            next.records = 1;
            let mut full = std::mem::replace(open, next);
            full.body.truncate(fitting_len);
            full.records -= 1;
            return Some(full.seal());
        }
        if open.records >= self.max_records || open.body.len() >= self.max_bytes { self.seal() } else { None }
    }

    /// Seals the open batch, if there is one.
    pub fn seal(&mut self) -> Option<SealedLogs> {
        self.open.take().map(OpenBatch::seal)
    }

    /// Seals the open batch if it would be older than it may before the next look, `next_look_nano` from now.
    pub fn seal_if_old(&mut self, now_unix_nano: u64, next_look_nano: u64) -> Option<SealedLogs> {
        let first_at_unix_nano = self.open.as_ref()?.first_at_unix_nano;
        // A clock that was set back says nothing of the age: better too early than an hour late.
        let age_nano = now_unix_nano.checked_sub(first_at_unix_nano).unwrap_or(u64::MAX);
        if age_nano.saturating_add(next_look_nano) > self.max_delay_nano { self.seal() } else { None }
    }

    /// How many records the open batch holds.
    pub fn records(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.records)
    }
}

impl OpenBatch {
    fn begin(envelope: &Envelope, now_unix_nano: u64) -> Self {
        let mut body = Vec::new();
        let request = envelope.begin(&mut body);
        Self { body, request, records: 0, first_at_unix_nano: now_unix_nano }
    }

    fn seal(mut self) -> SealedLogs {
        self.request.end(&mut self.body);
        // Sealed batches may wait for long: what they occupy is what they count for.
        self.body.shrink_to_fit();
        SealedLogs { body: self.body, records: self.records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn batcher(max_records: usize, max_bytes: usize) -> (Batcher, Envelope) {
        let config = config::Batch { max_records, max_bytes, max_delay: Duration::from_secs(1) };
        (Batcher::new(&config), Envelope::new(std::iter::empty(), "scope", "1"))
    }

    fn push(batcher: &mut Batcher, envelope: &Envelope, len: usize) -> Option<(u64, usize)> {
        let sealed = batcher.push(envelope, 0, |out| out.resize(out.len() + len, 0))?;
        Some((sealed.records, sealed.body.len()))
    }

    #[test]
    fn a_batch_is_sealed_by_its_last_record() {
        let (mut batcher, envelope) = batcher(3, 10_000);
        assert_eq!(push(&mut batcher, &envelope, 10), None);
        assert_eq!(push(&mut batcher, &envelope, 10), None);
        assert_eq!(push(&mut batcher, &envelope, 10), Some((3, envelope.encoded_len() + 30)));
        assert_eq!(batcher.records(), 0);
    }

    #[test]
    fn the_bound_in_bytes_is_reached_but_never_exceeded() {
        let overhead = Envelope::new(std::iter::empty(), "scope", "1").encoded_len();
        let (mut batcher, envelope) = batcher(100, overhead + 100);
        assert_eq!(push(&mut batcher, &envelope, 60), None);
        assert_eq!(push(&mut batcher, &envelope, 39), None, "one byte below");
        assert_eq!(
            push(&mut batcher, &envelope, 2),
            Some((2, overhead + 99)),
            "one byte above: sealed without it"
        );
        assert_eq!(push(&mut batcher, &envelope, 98), Some((2, overhead + 100)), "exactly");
    }

    #[test]
    fn age_counts_from_the_first_record() {
        let (mut batcher, envelope) = batcher(100, 10_000);
        assert!(batcher.seal_if_old(10 * SECOND, SECOND).is_none(), "nothing to seal");
        batcher.push(&envelope, 10 * SECOND, |out| out.push(0));
        batcher.push(&envelope, 11 * SECOND - 1, |out| out.push(0));
        assert!(batcher.seal_if_old(10 * SECOND + SECOND / 2, SECOND / 2).is_none());
        assert_eq!(batcher.seal_if_old(10 * SECOND + SECOND / 2 + 1, SECOND / 2).unwrap().records, 2);
        batcher.push(&envelope, 10 * SECOND, |out| out.push(0));
        assert!(batcher.seal_if_old(9 * SECOND, 0).is_some(), "the clock was set back");
    }
}
