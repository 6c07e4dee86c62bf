//! Whether the machine let this command run: a clock that is looked at ten times a second. When a virtual machine is paused,
//! or everything is stopped for a while, all latencies hold that pause, and the report has to say so. So it does when the
//! processors were busy: then whatever was measured waited for them.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

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

/// The time of all processors together, as the kernel counts it: used by anybody, and in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorTime {
    busy: u64,
    all: u64,
}

impl ProcessorTime {
    /// From the machine's start until now.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read `/proc/stat`")?;
        Self::from_text(&text).context("`/proc/stat` is not as it is known here")
    }

    /// The first line's columns: user, nice, system, idle, waiting for a disk, interrupts (two), stolen; what follows is
    /// in the first ones already.
    fn from_text(text: &str) -> Option<Self> {
        let columns = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let columns: Vec<u64> = columns.map(str::parse).collect::<Result<_, _>>().ok()?;
        let all = columns.iter().sum();
        let idle: u64 = columns.get(3..5)?.iter().sum();
        Some(Self { busy: all - idle, all })
    }

    /// How much of the time since `earlier` was used, in per cent.
    #[must_use]
    pub fn busy_percent_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 / all as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_neither_idle_nor_waiting_for_a_disk() {
        let time = |text| ProcessorTime::from_text(text).unwrap();
        let before = time("cpu  10 0 10 100 10 0 0 0 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let after = time("cpu  20 5 30 150 20 1 2 2 7 7\n");
        assert_eq!(
            (before, after),
            (ProcessorTime { busy: 20, all: 130 }, ProcessorTime { busy: 60, all: 230 },)
        );
        assert_eq!(after.busy_percent_since(before), 40.0);
        assert_eq!(ProcessorTime::from_text("intr 1 2 3"), None);
    }
}
