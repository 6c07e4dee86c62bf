//! Processors, and what a program has used of them: the kernel's own count for each of its threads, in nanoseconds
//! (`/proc/PID/task/TID/schedstat`), which needs no permission and costs the program nothing.

use std::{fs, ops::Sub, path::Path};

use anyhow::{Context as _, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that are told apart while something is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What is measured has this one, and nothing else is put on it.
    pub measured: usize,
    /// Everything else has these: load generators, upstreams, receivers.
    pub others: Vec<usize>,
}

impl Split {
    /// The first processor that this program may use for what is measured, the rest for all else.
    ///
    /// # Errors
    /// When there is only one, or the system does not say.
    pub fn of_this_machine() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot see which processors may be used")?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        let measured = allowed.next().context("no processor may be used")?;
        let others: Vec<usize> = allowed.collect();
        ensure!(!others.is_empty(), "two processors are needed: one for Envoy, one for the load generator");
        Ok(Self { measured, others })
    }

    /// Puts the calling thread, and all threads and programs that it will start, on [`Split::others`].
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn leave_measured(&self) -> anyhow::Result<()> {
        let mut set = CpuSet::new();
        self.others.iter().for_each(|&cpu| set.set(cpu));
        sched_setaffinity(None, &set).context("cannot choose processors")
    }
}

/// Processor time, by what Envoy's threads are for; in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTimes {
    /// The threads that handle requests, `wrk:worker_0` and on.
    pub workers: u64,
    /// The thread that the process began with.
    pub main: u64,
    /// All others: writers of files, gRPC, V8's compilers.
    pub others: u64,
}

impl ThreadTimes {
    /// What the process has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of_process(id: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{id}/task");
        let mut times = Self::default();
        for thread in
            fs::read_dir(&folder).with_context(|| format!("cannot read `{folder}`: it has ended"))?
        {
            let thread = thread.with_context(|| format!("cannot read `{folder}`"))?.path();
            // A thread may end between the two; what it used is then in nobody's count any more.
            if let Ok((name, nanoseconds)) = read_thread(&thread) {
                let is_main = thread.file_name().is_some_and(|file| file.to_str() == Some(&id.to_string()));
                *times.of_kind(is_main, &name) += nanoseconds;
            }
        }
        Ok(times)
    }

    fn of_kind(&mut self, is_main: bool, name: &str) -> &mut u64 {
        if is_main {
            &mut self.main
        } else if name.starts_with("wrk:") {
            &mut self.workers
        } else {
            &mut self.others
        }
    }

    /// All threads.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.workers + self.main + self.others
    }
}

impl Sub for ThreadTimes {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            workers: self.workers.saturating_sub(earlier.workers),
            main: self.main.saturating_sub(earlier.main),
            others: self.others.saturating_sub(earlier.others),
        }
    }
}

fn read_thread(folder: &Path) -> anyhow::Result<(String, u64)> {
    let name = fs::read_to_string(folder.join("comm"))?;
    let times = fs::read_to_string(folder.join("schedstat"))?;
    Ok((name.trim_end().to_owned(), on_processor_ns(&times)?))
}

/// The first of the three numbers in a `schedstat`: nanoseconds on a processor. The others are the wait for one, and
/// how often it was given one.
fn on_processor_ns(schedstat: &str) -> anyhow::Result<u64> {
    schedstat
        .split_ascii_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("not a schedstat: `{schedstat}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_processor_is_the_first_number_of_a_schedstat() {
        assert_eq!(on_processor_ns("123456789 42 7\n").unwrap(), 123_456_789);
        assert!(on_processor_ns("").is_err());
        assert!(on_processor_ns("x 1 2").is_err());
    }

    #[test]
    fn threads_are_told_apart_by_their_names() {
        let mut times = ThreadTimes::default();
        *times.of_kind(true, "envoy") += 1;
        *times.of_kind(false, "wrk:worker_0") += 20;
        *times.of_kind(false, "wrk:worker_1") += 20;
        *times.of_kind(false, "AccessLogFlush") += 300;
        assert_eq!(times, ThreadTimes { workers: 40, main: 1, others: 300 });
        assert_eq!(times.total(), 341);
    }

    #[test]
    fn this_process_has_used_some_time() {
        assert!(ThreadTimes::of_process(std::process::id()).unwrap().total() > 0);
    }
}
