//! Requests that were captured and judged, and that nothing else was done with yet.
//!
//! Between two requests a proxy does much else, after which little of the plugin is left in the processor's caches: most
//! of what a request costs is waiting for memory. So a request that ends is only put down here, and when there are
//! [`MAX_REQUESTS`] of them, or [`MAX_BYTES`], or a batch's worth, or with the next tick, all of them are measured and
//! encoded in one go, in the order in which they came. Nothing is dropped here: what waits is pending.

use super::Kept;
use crate::capture::Captured;

/// So many requests are worked on together. More would save little, as measured, and make the request wait longer with which
/// the work is done.
pub(super) const MAX_REQUESTS: usize = 16;

/// As many bytes of what was captured: some requests bring megabytes of headers.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// A request that has finished, and what was decided on it.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) captured: Captured,
    /// `None` for a request that is measured only.
    pub(super) kept: Option<Kept>,
    pub(super) ended_unix_nano: u64,
}

/// What waits, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Vec<Judged>,
    bytes: usize,
    records: u64,
    /// To capture in: the places of values are found anew for each request, where they were for another one.
    spare: Vec<Captured>,
}

impl Backlog {
    /// Puts a request down. Returns a place to capture the next one in.
    pub(super) fn push(&mut self, request: Judged) -> Captured {
        self.bytes += request.captured.bytes_len();
        self.records += u64::from(request.kept.is_some());
        self.waiting.push(request);
        self.spare.pop().unwrap_or_default()
    }

    /// All that waits, to be worked on and given back to [`Backlog::recycle`].
    pub(super) fn take(&mut self) -> Vec<Judged> {
        (self.bytes, self.records) = (0, 0);
        std::mem::take(&mut self.waiting)
    }

    /// Takes back what was worked on, and frees what was captured.
    pub(super) fn recycle(&mut self, mut worked_on: Vec<Judged>) {
        for Judged { mut captured, .. } in worked_on.drain(..) {
            captured.clear();
            self.spare.push(captured);
        }
        self.waiting = worked_on;
    }

    /// Whether there is as much as may wait.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_REQUESTS || self.bytes >= MAX_BYTES
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many of the requests are to become records.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// From now on none of them is to become a record; returns how many were.
    pub(super) fn forget_records(&mut self) -> u64 {
        self.waiting.iter_mut().for_each(|request| request.kept = None);
        std::mem::take(&mut self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: usize) -> Judged {
        let mut captured = Captured::default();
        captured.push(Some(&vec![7; bytes]));
        Judged { captured, kept: Some(Kept { weight: 1.0 }), ended_unix_nano: bytes as u64 }
    }

    #[test]
    fn it_is_full_with_so_many_requests_or_bytes_and_not_before() {
        let mut backlog = Backlog::default();
        for _ in 1..MAX_REQUESTS {
            backlog.push(request(1));
            assert!(!backlog.is_full());
        }
        backlog.push(request(1));
        assert!(backlog.is_full());

        for (bytes, is_full) in [(MAX_BYTES - 1, false), (MAX_BYTES, true), (MAX_BYTES + 1, true)] {
            let mut backlog = Backlog::default();
            backlog.push(request(bytes - 100));
            backlog.push(request(100));
            assert_eq!(backlog.is_full(), is_full, "{bytes} bytes");
            backlog.take();
            backlog.push(request(MAX_BYTES - 1));
            assert!(!backlog.is_full(), "what has left does not count");
        }
    }

    #[test]
    fn requests_leave_in_their_order_and_their_bytes_are_freed() {
        let mut backlog = Backlog::default();
        for bytes in [3, 1, 2] {
            backlog.push(request(bytes));
        }
        let taken = backlog.take();
        assert_eq!(taken.iter().map(|request| request.ended_unix_nano).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!((backlog.is_empty(), backlog.records()), (true, 0));
        backlog.recycle(taken);
        assert!(backlog.is_empty());
        for _ in 0..3 {
            let spare = backlog.push(request(9));
            assert_eq!((spare.bytes_len(), spare.slot(0)), (0, &b""[..]));
        }
        assert!(backlog.spare.is_empty(), "no more places than requests have waited");
    }

    #[test]
    fn records_that_are_forgotten_leave_their_requests_to_be_measured() {
        let mut backlog = Backlog::default();
        backlog.push(request(1));
        backlog.push(Judged { kept: None, ..request(1) });
        backlog.push(request(1));
        assert_eq!((backlog.records(), backlog.forget_records(), backlog.records()), (2, 2, 0));
        assert_eq!(backlog.take().iter().filter(|request| request.kept.is_none()).count(), 3);
    }
}
