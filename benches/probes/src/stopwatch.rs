//! How long a request's steps take by the clock: a histogram fine enough for single host calls. Its quartiles go to the
//! proxy's log, where `cargo xtask bench probes` reads them. Unlike processor time by the turn, which has all that a
//! request costs, this has the calls alone, and what interrupts one call does not touch the others.

/// The width of a bucket, in nanoseconds.
const BUCKET_NS: u64 = 20;

/// The last one takes everything longer.
const BUCKETS: usize = 16_384;

/// Forgotten at the beginning: code is compiled, pages are touched.
const WARM_UP: u64 = 1000;

/// Told after so many requests, and again.
const INTERVAL: u64 = 500;

/// All durations so far.
#[derive(Debug)]
pub struct Stopwatch {
    name: String,
    counts: Vec<u32>,
    seen: u64,
}

impl Stopwatch {
    /// For the probe of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), counts: vec![0; BUCKETS], seen: 0 }
    }

    /// Takes one duration; every now and then there is a line to tell, `stopwatch NAME COUNT Q1 MEDIAN Q3`, in
    /// nanoseconds.
    pub fn note(&mut self, nanoseconds: u64) -> Option<String> {
        self.seen += 1;
        if self.seen <= WARM_UP {
            return None;
        }
        let bucket = usize::try_from(nanoseconds / BUCKET_NS).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.seen.is_multiple_of(INTERVAL).then(|| {
            let [first, median, third] = [1, 2, 3].map(|quarters| self.quartile(quarters));
            format!("stopwatch {} {} {first} {median} {third}", self.name, self.seen - WARM_UP)
        })
    }

    /// The middle of the bucket that so many quarters of the durations lie in or below.
    fn quartile(&self, quarters: u64) -> u64 {
        let rank = (self.seen - WARM_UP) * quarters / 4;
        let mut below = 0;
        for (bucket, count) in (0..).zip(&self.counts) {
            below += u64::from(*count);
            if below >= rank {
                return bucket * BUCKET_NS + BUCKET_NS / 2;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_what_came_after_the_warm_up_are_told_now_and_then() {
        let mut stopwatch = Stopwatch::new("x");
        for _ in 0..WARM_UP {
            assert_eq!(stopwatch.note(1_000_000), None);
        }
        let lines: Vec<String> = (0..INTERVAL).filter_map(|n| stopwatch.note(n * 10)).collect();
        assert_eq!(lines, ["stopwatch x 500 1250 2490 3750"]);
    }

    #[test]
    fn a_duration_beyond_the_last_bucket_is_in_it() {
        let mut stopwatch = Stopwatch::new("x");
        let lines: Vec<String> = (0..WARM_UP + INTERVAL).filter_map(|_| stopwatch.note(u64::MAX)).collect();
        assert_eq!(lines, ["stopwatch x 500 327670 327670 327670"]);
    }
}
