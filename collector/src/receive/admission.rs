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
        let bytes = bytes.max(MIN_REQUEST_BYTES);
        let before = self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        let permit = Permit { admission: Arc::clone(self), bytes };
        let waiting = before.saturating_add(self.queued_bytes());
        if waiting >= self.max_queue_bytes {
            return Err(Refusal::QueueFull { bytes: waiting, limit: self.max_queue_bytes });
        }
        // A request that is larger than all of the memory bound still passes alone.
        if before > 0 && before.saturating_add(bytes) > MAX_IN_FLIGHT_BYTES {
            return Err(Refusal::Busy { bytes: before });
        }
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
    /// Corrects the size, once it is known.
    pub fn shrink_to(&mut self, bytes: u64) {
        let bytes = bytes.max(MIN_REQUEST_BYTES);
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.admission.in_flight_bytes.fetch_sub(surplus, Ordering::AcqRel);
            self.bytes = bytes;
        }
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
    fn a_full_disk_and_a_closed_door_are_refused() {
        assert!(matches!(admission(1, u64::MAX).admit(1), Err(Refusal::DiskFull { .. })));
        let admission = admission(1, 0);
        admission.close();
        assert!(matches!(admission.admit(1), Err(Refusal::ShuttingDown)));
    }
}
