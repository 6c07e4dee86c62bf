//! Admission: how much may come in.
//!
//! In: the size that a request announces. Out: a permit, held until the request is answered, or the refusal that says
//! what is full. Decided on numbers alone, before a byte of the body is read or decompressed. Three bounds: bytes being
//! received (memory), bytes waiting in the inbox (`max_queue_bytes`), and free disk (`min_free_disk_bytes`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::refusal::Refusal;

/// Bytes that may be under way at once, whatever the queue could take: they are in memory.
const MAX_IN_FLIGHT_BYTES: u64 = 256 * 1024 * 1024;
/// What a request counts at least: its headers and its task cost memory too.
const MIN_REQUEST_BYTES: u64 = 4096;
/// By how much a permit grows for a body of unknown length.
const GROWTH_BYTES: u64 = 64 * 1024;

/// The door's bounds, and how much of them is used.
#[derive(Debug)]
pub struct Admission {
    max_queue_bytes: u64,
    min_free_disk_bytes: u64,
    data: PathBuf,
    in_flight_bytes: AtomicU64,
    queued_bytes: AtomicU64,
    free_disk_bytes: AtomicU64,
    closed: AtomicBool,
}

/// The right to receive a request; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    bytes: u64,
}

impl Admission {
    /// Bounds for the queue in folder `data`.
    #[must_use]
    pub fn new(max_queue_bytes: u64, min_free_disk_bytes: u64, data: PathBuf) -> Self {
        let admission = Self {
            max_queue_bytes,
            min_free_disk_bytes,
            data,
            in_flight_bytes: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            free_disk_bytes: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
        };
        admission.measure_disk();
        admission
    }

    /// Admits a request of `bytes`, or says why not.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn admit(self: &Arc<Self>, bytes: u64) -> Result<Permit, Refusal> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Refusal::ShuttingDown);
        }
        let free = self.free_disk_bytes.load(Ordering::Relaxed);
        if free < self.min_free_disk_bytes {
            return Err(Refusal::DiskFull { free, limit: self.min_free_disk_bytes });
        }
        let mut permit = Permit { admission: Arc::clone(self), bytes: 0 };
        permit.grow(bytes.max(MIN_REQUEST_BYTES))?;
        Ok(permit)
    }

    /// Refuses all that comes from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether [`Admission::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Notes how much waits in the inbox.
    pub fn set_queued_bytes(&self, bytes: u64) {
        self.queued_bytes.store(bytes, Ordering::Release);
    }

    /// How much waits in the inbox.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Acquire)
    }

    /// Looks at the disk. Where the system does not say how much is free, no bound is put on it.
    pub fn measure_disk(&self) {
        let free = rustix::fs::statvfs(&self.data)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        self.free_disk_bytes.store(free, Ordering::Relaxed);
    }
}

impl Permit {
    /// Makes room for `bytes` in all, when a body without an announced length turns out to have so many.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn cover(&mut self, bytes: u64) -> Result<(), Refusal> {
        match bytes.checked_sub(self.bytes) {
            None | Some(0) => Ok(()),
            Some(missing) => self.grow(missing.max(GROWTH_BYTES)),
        }
    }

    /// Gives back what turned out not to be needed.
    pub fn shrink_to(&mut self, bytes: u64) {
        let bytes = bytes.max(MIN_REQUEST_BYTES);
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.admission.in_flight_bytes.fetch_sub(surplus, Ordering::AcqRel);
            self.bytes = bytes;
        }
    }

    fn grow(&mut self, more: u64) -> Result<(), Refusal> {
        let admission = &self.admission;
        let before = admission.in_flight_bytes.fetch_add(more, Ordering::AcqRel);
        self.bytes = self.bytes.saturating_add(more);
        let others = before.saturating_sub(self.bytes.saturating_sub(more));
        let waiting = others.saturating_add(admission.queued_bytes());
        if waiting >= admission.max_queue_bytes {
            return Err(Refusal::QueueFull { bytes: waiting, limit: admission.max_queue_bytes });
        }
        // A request that is larger than all of the memory bound still passes alone.
        if others > 0 && others.saturating_add(self.bytes) > MAX_IN_FLIGHT_BYTES {
            return Err(Refusal::Busy { bytes: others });
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.in_flight_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_queue_bytes: u64, min_free_disk_bytes: u64) -> Arc<Admission> {
        Arc::new(Admission::new(max_queue_bytes, min_free_disk_bytes, std::env::temp_dir()))
    }

    #[test]
    fn the_queue_is_refused_from_its_watermark_on() {
        let admission = admission(100_000, 0);
        for (queued, admitted) in [(0, true), (99_999, true), (100_000, false), (100_001, false)] {
            admission.set_queued_bytes(queued);
            assert_eq!(admission.admit(1).is_ok(), admitted, "{queued}");
        }
    }

    #[test]
    fn bytes_under_way_count_towards_the_watermark_until_the_permit_is_dropped() {
        let admission = admission(10_000, 0);
        let mut permit = admission.admit(10_000).unwrap();
        assert!(matches!(admission.admit(1), Err(Refusal::QueueFull { bytes: 10_000, limit: 10_000 })));
        permit.shrink_to(9_999);
        drop(admission.admit(1).unwrap());
        drop(permit);
        assert_eq!(admission.in_flight_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn memory_under_way_is_bounded_below_a_large_queue() {
        let admission = admission(u64::MAX, 0);
        let permit = admission.admit(MAX_IN_FLIGHT_BYTES - MIN_REQUEST_BYTES).unwrap();
        let last = admission.admit(1).unwrap();
        assert!(matches!(admission.admit(1), Err(Refusal::Busy { bytes: MAX_IN_FLIGHT_BYTES })));
        drop((permit, last));
        assert!(admission.admit(MAX_IN_FLIGHT_BYTES + 1).is_ok());
    }

    #[test]
    fn a_body_of_unknown_length_takes_room_as_it_comes() {
        let admission = admission(1_000_000, 0);
        let mut permit = admission.admit(0).unwrap();
        permit.cover(MIN_REQUEST_BYTES).unwrap();
        assert_eq!(admission.in_flight_bytes.load(Ordering::Relaxed), MIN_REQUEST_BYTES);
        permit.cover(MIN_REQUEST_BYTES + 1).unwrap();
        assert_eq!(admission.in_flight_bytes.load(Ordering::Relaxed), MIN_REQUEST_BYTES + GROWTH_BYTES);
        admission.set_queued_bytes(1_000_000);
        assert!(matches!(permit.cover(500_000), Err(Refusal::QueueFull { bytes: 1_000_000, .. })));
        drop(permit);
        assert_eq!(admission.in_flight_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_disk_and_a_closed_door_are_refused() {
        assert!(matches!(admission(1, u64::MAX).admit(1), Err(Refusal::DiskFull { .. })));
        let admission = admission(1, 0);
        admission.close();
        assert!(matches!(admission.admit(1), Err(Refusal::ShuttingDown)));
    }
}
