//! Whether the machine let this command run: a clock that is looked at ten times a second. When a virtual machine is paused,
//! or everything is stopped for a while, all latencies hold that pause, and the report has to say so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const LOOK: Duration = Duration::from_millis(100);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Vigil {
    longest_ms: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Vigil {
    /// Begins.
    #[must_use]
    pub fn start() -> Self {
        let vigil = Self { longest_ms: Arc::default(), stop: Arc::default() };
        let (longest_ms, stop) = (Arc::clone(&vigil.longest_ms), Arc::clone(&vigil.stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let before = Instant::now();
                thread::sleep(LOOK);
                let late = before.elapsed().saturating_sub(LOOK);
                longest_ms.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        vigil
    }

    /// By how much it was late at most since the last time it was asked, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self) -> u64 {
        self.longest_ms.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
