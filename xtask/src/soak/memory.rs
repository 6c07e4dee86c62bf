//! Memory over time: whether it is flat, and a picture of it.

use std::fmt::Write as _;

use anyhow::ensure;

/// The share of the run at its beginning that is not judged: caches fill, and V8 compiles.
const WARM_UP: f64 = 0.2;

/// How much more the last third of what is judged may take than the first: a leak grows without end, noise does not.
const MAX_GROWTH_BYTES: u64 = 8 << 20;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 240.0;

/// Envoy's memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) seconds: f64,
    pub(super) resident_bytes: u64,
}

impl Sample {
    pub(super) fn mebibytes(&self) -> f64 {
        self.resident_bytes as f64 / f64::from(1 << 20)
    }
}

/// All samples of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    samples: Vec<Sample>,
}

impl Memory {
    pub(super) fn note(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.samples.len()).unwrap_or(u32::MAX)
    }

    /// Compares the medians of the first and the last third after the warm-up.
    ///
    /// # Errors
    /// When memory has grown.
    pub(super) fn verdict(&self) -> anyhow::Result<String> {
        let judged = self.samples.get((self.samples.len() as f64 * WARM_UP) as usize..).unwrap_or_default();
        let third = judged.len() / 3;
        ensure!(third > 0, "{} samples say nothing about memory: run longer", self.samples.len());
        let [first, last] = [judged.get(..third), judged.get(judged.len() - third..)].map(median);
        ensure!(
            last <= first + MAX_GROWTH_BYTES,
            "Envoy's memory grew from {:.1} to {:.1} MiB (medians of the first and the last third after the warm-up)",
            mebibytes(first),
            mebibytes(last)
        );
        Ok(format!(
            "Envoy's memory is flat: {:.1} MiB in the first third after the warm-up, {:.1} MiB in the last (medians; {} MiB more would be a failure)",
            mebibytes(first),
            mebibytes(last),
            MAX_GROWTH_BYTES >> 20
        ))
    }

    /// A curve over the run, from 0.
    pub(super) fn svg(&self) -> String {
        let seconds = self.samples.last().map_or(1.0, |sample| sample.seconds);
        let top = self.samples.iter().map(Sample::mebibytes).fold(1.0, f64::max) * 1.2;
        let mut points = String::new();
        for sample in &self.samples {
            let (x, y) = (WIDTH * sample.seconds / seconds, HEIGHT * (1.0 - sample.mebibytes() / top));
            // Writing to a string cannot fail.
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-50 -20 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>\n\
             <polyline points=\"{points}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"1.5\"/>\n\
             <text x=\"-45\" y=\"10\">{top:.0} MiB</text><text x=\"-45\" y=\"{HEIGHT}\">0</text>\n\
             <text x=\"0\" y=\"{label}\">Envoy's resident memory over {seconds:.0} s</text>\n</svg>\n",
            WIDTH + 70.0,
            HEIGHT + 50.0,
            label = HEIGHT + 20.0,
        )
    }
}

fn median(samples: Option<&[Sample]>) -> u64 {
    let mut bytes: Vec<u64> =
        samples.unwrap_or_default().iter().map(|sample| sample.resident_bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).copied().unwrap_or(0)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(mebibytes: impl IntoIterator<Item = u64>) -> Memory {
        let samples = mebibytes.into_iter().enumerate();
        Memory {
            samples: samples
                .map(|(at, mebibytes)| Sample { seconds: at as f64, resident_bytes: mebibytes << 20 })
                .collect(),
        }
    }

    #[test]
    fn memory_that_only_wavers_is_flat() {
        memory((0..60).map(|n| 100 + n % 9)).verdict().unwrap();
    }

    #[test]
    fn a_warm_up_is_no_leak() {
        memory([40, 60, 80, 100].into_iter().chain(std::iter::repeat_n(120, 26))).verdict().unwrap();
    }

    #[test]
    fn memory_that_grows_without_end_is_a_failure() {
        memory((0..60).map(|n| 100 + n)).verdict().unwrap_err();
    }

    #[test]
    fn too_short_a_run_shows_nothing() {
        memory([100, 100]).verdict().unwrap_err();
    }
}
