//! OpenTelemetry's exponential histogram for durations.
//!
//! Bucket `i` at scale `s` counts values in `(base^i, base^(i+1)]`, `base = 2^(2^-s)`
//! (OpenTelemetry data model, "ExponentialHistogram"). A plain one starts fine and halves its resolution whenever its
//! range grows, for ever: one outlier costs a cumulative histogram its precision. This one is bounded at both ends:
//!
//! - values up to [`ZERO_THRESHOLD_SECONDS`] are counted as zero: nobody asks which part of 100 µs it was;
//! - it starts two scales above its *floor*, the finest scale at which twenty octaves (100 µs to 105 s) fit into
//!   `max_buckets`: for 160 buckets scale 3, an error of at most 4.4 %;
//! - at the floor it holds its whole range without merging. Only an export of more than `max_buckets` must choose: what
//!   lies beyond them is counted in the last bucket while it is at most one value in a thousand (sum and maximum stay
//!   exact), and from then on the resolution is halved, for good, because slow requests are this series' nature.

use crate::otlp::wire::{Open, put_double, put_fixed64, put_sint, put_varint};

/// Durations up to this one, in seconds, are counted as zero.
pub const ZERO_THRESHOLD_SECONDS: f64 = 1e-4;

/// Durations above this one, in seconds, are counted in its bucket: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// Of a double.
const MANTISSA_BITS: u32 = 52;

/// Octaves that must fit into `max_buckets` at the floor: from 100 µs to 105 s.
const FLOOR_OCTAVES: f64 = 20.0;

/// How many scales above its floor a histogram starts.
const START_ABOVE_FLOOR: i32 = 2;

/// Of how many values one may be folded into the last bucket.
const FOLDED_ONE_IN: u64 = 1000;

/// What all histograms of a configuration have in common.
#[derive(Debug, Clone)]
pub struct Layout {
    max_buckets: usize,
    floor_scale: i32,
    start_scale: i32,
    table_scale: i32,
    /// An octave, from 1 up to but without 2, in equal slices narrower than any bucket at `table_scale`: so the first bits of
    /// a mantissa find the bucket but for one comparison.
    slices: Vec<Slice>,
}

/// Twice as many as buckets: half a bucket of an octave's mean width is less than its first, the narrowest.
const SLICES_PER_BUCKET: u32 = 2;

/// A slice of an octave.
#[derive(Debug, Clone, Copy)]
struct Slice {
    /// The bucket of the slice's first value; the octave's own first is the last of the octave below, -1.
    bucket: i32,
    /// The next bucket's lower bound.
    next_bound: f64,
}

impl Layout {
    /// For exports of at most `max_buckets` buckets, 16 or more.
    pub fn new(max_buckets: usize) -> Self {
        let floor_scale = (max_buckets as f64 / FLOOR_OCTAVES).log2().floor() as i32;
        let start_scale = floor_scale + START_ABOVE_FLOOR;
        let table_scale = start_scale.max(0);
        let buckets = 1u32 << table_scale;
        let bounds: Vec<f64> =
            (0..buckets).map(|index| (f64::from(index) / f64::from(buckets)).exp2()).collect();
        let slices = SLICES_PER_BUCKET * buckets;
        let slice = |number| {
            let first = 1.0 + f64::from(number) / f64::from(slices);
            let begun = bounds.partition_point(|&bound| bound < first);
            Slice { bucket: begun as i32 - 1, next_bound: bounds.get(begun).copied().unwrap_or(2.0) }
        };
        let slices = (0..slices).map(slice).collect();
        Self { max_buckets, floor_scale, start_scale, table_scale, slices }
    }

    /// The bucket of a normal, positive value.
    fn index(&self, value: f64, scale: i32) -> i32 {
        let bits = value.to_bits();
        let exponent = ((bits >> MANTISSA_BITS) & 0x7ff) as i32 - 1023;
        let mantissa = bits & ((1 << MANTISSA_BITS) - 1);
        let from_1_to_2 = f64::from_bits(mantissa | 1023 << MANTISSA_BITS);
        let slice_bits = SLICES_PER_BUCKET.ilog2() + self.table_scale as u32;
        let slice = self.slices.get((mantissa >> (MANTISSA_BITS - slice_bits)) as usize);
        // Upper bounds are inclusive: a power of two belongs to the bucket below it.
        let below = slice.map_or(0, |slice| slice.bucket + i32::from(from_1_to_2 > slice.next_bound));
        ((exponent << self.table_scale) + below) >> (self.table_scale - scale)
    }
}

/// A histogram of durations in seconds.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    zero_count: u64,
    /// Of `counts`; meaningless while they are empty.
    scale: i32,
    /// The bucket that `counts` begins with.
    offset: i32,
    counts: Vec<u64>,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, layout: &Layout, seconds: f64) {
        self.min = if self.count == 0 { seconds } else { self.min.min(seconds) };
        self.max = self.max.max(seconds);
        self.sum += seconds;
        self.count += 1;
        if seconds <= ZERO_THRESHOLD_SECONDS {
            self.zero_count += 1;
            return;
        }
        let seconds = seconds.min(MAX_SECONDS);
        let index = layout.index(seconds, self.scale);
        match self.count_at(index) {
            Some(count) => *count += 1,
            None => self.record_in_new_bucket(layout, seconds),
        }
    }

    /// Counts all that `other`, of the same layout, has counted.
    pub fn merge(&mut self, layout: &Layout, mut other: Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
        self.zero_count += other.zero_count;
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.scale = other.scale;
        }
        loop {
            while other.scale > self.scale {
                other.halve_resolution();
            }
            while self.scale > other.scale {
                self.halve_resolution();
            }
            if self.cover(layout, other.offset, other.offset + other.counts.len() as i32 - 1) {
                break;
            }
            self.halve_resolution();
        }
        let at = usize::try_from(other.offset - self.offset).unwrap_or(0);
        for (known, added) in self.counts.iter_mut().skip(at).zip(&other.counts) {
            *known += added;
        }
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all durations, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Makes an export of at most `max_buckets` possible, see the module's documentation.
    pub fn settle(&mut self, layout: &Layout) {
        while self.folded(layout) > (self.count / FOLDED_ONE_IN).max(1) {
            self.halve_resolution();
        }
    }

    /// Appends the fields of an `ExponentialHistogramDataPoint` to `out`, all but its attributes. Expects
    /// [`Histogram::settle`] before it.
    pub fn encode(&self, layout: &Layout, start_unix_nano: u64, now_unix_nano: u64, out: &mut Vec<u8>) {
        put_fixed64(out, 2, start_unix_nano);
        put_fixed64(out, 3, now_unix_nano);
        put_fixed64(out, 4, self.count);
        put_double(out, 5, self.sum);
        put_sint(out, 6, i64::from(if self.counts.is_empty() { layout.start_scale } else { self.scale }));
        put_fixed64(out, 7, self.zero_count);
        let positive = Open::<3>::begin(out, 8);
        put_sint(out, 1, i64::from(self.offset));
        let packed = Open::<3>::begin(out, 2);
        let (exported, beyond) =
            self.counts.split_at_checked(layout.max_buckets).unwrap_or((&self.counts, &[]));
        let folded: u64 = beyond.iter().sum();
        if let Some((last, others)) = exported.split_last() {
            others.iter().for_each(|&count| put_varint(out, count));
            put_varint(out, last + folded);
        }
        packed.end(out);
        positive.end(out);
        put_double(out, 12, self.min);
        put_double(out, 13, self.max);
        put_double(out, 14, ZERO_THRESHOLD_SECONDS);
    }

    /// How many values lie beyond the buckets that can be exported.
    fn folded(&self, layout: &Layout) -> u64 {
        self.counts.get(layout.max_buckets..).unwrap_or_default().iter().sum()
    }

    fn count_at(&mut self, index: i32) -> Option<&mut u64> {
        usize::try_from(index - self.offset).ok().and_then(|at| self.counts.get_mut(at))
    }

    /// Makes the bucket of `value` one of `counts`, and counts it.
    #[cold]
    fn record_in_new_bucket(&mut self, layout: &Layout, value: f64) {
        if self.counts.is_empty() {
            self.scale = layout.start_scale;
        }
        loop {
            let index = layout.index(value, self.scale);
            if self.cover(layout, index, index) {
                if let Some(count) = self.count_at(index) {
                    *count += 1;
                }
                return;
            }
            self.halve_resolution();
        }
    }

    /// Widens `counts` to cover the buckets from `first` to `last`; `false` when that wants a lower scale.
    fn cover(&mut self, layout: &Layout, first: i32, last: i32) -> bool {
        if self.counts.is_empty() {
            self.offset = first;
        }
        let end = self.offset + self.counts.len() as i32;
        let (first, last) = (self.offset.min(first), (end - 1).max(last));
        let width = (last - first + 1) as usize;
        if width > layout.max_buckets && self.scale > layout.floor_scale {
            return false;
        }
        if first < self.offset {
            let missing = (self.offset - first) as usize;
            self.counts.splice(..0, std::iter::repeat_n(0, missing));
            self.offset = first;
        }
        self.counts.resize(width, 0);
        true
    }

    /// Merges each two neighbours: bucket `i` becomes bucket `i >> 1`, exactly.
    ///
    /// With offset -3 the buckets -3, -2, -1, 0 become -2, -1, -1, 0, so the merged ones begin at -2.
    fn halve_resolution(&mut self) {
        let merged_offset = self.offset >> 1;
        let mut merged = vec![0; self.counts.len() / 2 + 1];
        for (index, count) in (self.offset..).zip(&self.counts) {
            if let Some(place) =
                usize::try_from((index >> 1) - merged_offset).ok().and_then(|at| merged.get_mut(at))
            {
                *place += count;
            }
        }
        while merged.last() == Some(&0) {
            merged.pop();
        }
        self.counts = merged;
        self.offset = merged_offset;
        self.scale -= 1;
    }
}

#[cfg(test)]
mod tests;
