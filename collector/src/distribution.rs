//! Exponential histograms: merging, differences, quantiles.
//!
//! In: OTLP's `ExponentialHistogramDataPoint`s and what the store kept of earlier ones. Out: the interval's own
//! distribution for the store, merged ones for [`crate::query::latency`]. Nothing is dropped: merging and downscaling
//! keep every count, and a difference has exactly as many measurements as were added.
//!
//! Bucket `i` at scale `s` holds the values in `(base^i, base^(i+1)]` with `base = 2^(2^-s)`. Buckets are kept sparse,
//! since an index is any 32-bit number that a client likes to send.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets as OtlpBuckets;
use prost::Message;

/// The scales that are accepted: those that OpenTelemetry's SDKs use.
pub const SCALES: std::ops::RangeInclusive<i32> = -10..=20;

/// Counts by bucket index; no count is 0.
pub type Buckets = BTreeMap<i32, u64>;

/// How many measurements lie where.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// The resolution, within [`SCALES`].
    pub scale: i32,
    /// Values of at most this magnitude are counted by `zero_count`.
    pub zero_threshold: f64,
    /// Measurements around zero.
    pub zero_count: u64,
    /// Measurements above the threshold.
    pub positive: Buckets,
    /// Measurements below minus the threshold, by the index of their magnitude.
    pub negative: Buckets,
}

/// Why a data point is no distribution.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// The scale is out of range.
    #[error("scale `{0}` is out of range: {min} to {max} are allowed", min = SCALES.start(), max = SCALES.end())]
    Scale(i32),
    /// The zero threshold is negative or no number.
    #[error("zero_threshold `{0}` is out of range: 0 or a positive number is allowed")]
    ZeroThreshold(f64),
    /// A bucket's index does not fit 32 bits.
    #[error("a bucket's index is beyond 32 bits: offset `{0}`")]
    Index(i32),
    /// Buckets and count contradict each other.
    #[error("count `{count}` is not the sum of the buckets, `{buckets}`")]
    Count {
        /// What the point says.
        count: u64,
        /// What its buckets say.
        buckets: u128,
    },
}

impl Distribution {
    /// The distribution of a data point.
    ///
    /// # Errors
    /// [`Invalid`] when the point contradicts itself or is out of range.
    pub fn from_point(point: &ExponentialHistogramDataPoint) -> Result<Self, Invalid> {
        if !SCALES.contains(&point.scale) {
            return Err(Invalid::Scale(point.scale));
        }
        if !(point.zero_threshold.is_finite() && point.zero_threshold >= 0.0) {
            return Err(Invalid::ZeroThreshold(point.zero_threshold));
        }
        let distribution = Self {
            scale: point.scale,
            zero_threshold: point.zero_threshold,
            zero_count: point.zero_count,
            positive: sparse(point.positive.as_ref())?,
            negative: sparse(point.negative.as_ref())?,
        };
        let buckets = distribution.total();
        if buckets != u128::from(point.count) {
            return Err(Invalid::Count { count: point.count, buckets });
        }
        Ok(distribution)
    }

    /// How many measurements there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::try_from(self.total()).unwrap_or(u64::MAX)
    }

    fn total(&self) -> u128 {
        let buckets = self.positive.values().chain(self.negative.values());
        u128::from(self.zero_count) + buckets.map(|count| u128::from(*count)).sum::<u128>()
    }

    /// Adds `other`. The lower resolution of the two and the wider zero bucket of the two are what can be kept.
    pub fn merge(&mut self, other: &Self) {
        if self.total() == 0 {
            self.clone_from(other);
            return;
        }
        let mut other = other.clone();
        align(self, &mut other);
        self.zero_count = self.zero_count.saturating_add(other.zero_count);
        add(&mut self.positive, other.positive);
        add(&mut self.negative, other.negative);
    }

    /// What was added since `earlier`, given that this is the later state of one cumulative stream.
    ///
    /// The result holds exactly the difference of the two counts. Where a sender's bucket fell, which a sound one never
    /// does, the missing counts are taken from the buckets next above it, so that no bucket is negative.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (mut later, mut earlier) = (self.clone(), earlier.clone());
        align(&mut later, &mut earlier);
        let mut line = line(&later, &earlier);
        let mut debt = 0_i128;
        for (_, change) in &mut line {
            let settled = *change + debt;
            (*change, debt) = (settled.max(0), settled.min(0));
        }
        for (_, change) in line.iter_mut().rev() {
            let paid = (*change).min(-debt);
            *change -= paid;
            debt += paid;
        }
        let mut result = Self { scale: later.scale, zero_threshold: later.zero_threshold, ..Self::default() };
        for (place, change) in line {
            let count = u64::try_from(change).unwrap_or(0);
            match place {
                Place::Zero => result.zero_count = count,
                Place::Positive(index) if count > 0 => drop(result.positive.insert(index, count)),
                Place::Negative(index) if count > 0 => drop(result.negative.insert(index, count)),
                Place::Positive(_) | Place::Negative(_) => {}
            }
        }
        result
    }

    /// The value at `quantile` (0 to 1) by nearest rank, or none when there are no measurements.
    ///
    /// The estimate of a bucket is the value whose relative error is the least it can be for any value in it,
    /// `(base - 1) / (base + 1)` at most: 4.3 % at scale 3. The zero bucket is estimated as 0.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        // Without the factor, 0.07 * 100 would be above 7 in floating point and give rank 8.
        let rank = (quantile * total as f64 * (1.0 - 1e-12)).ceil().max(1.0) as u128;
        let negative =
            self.negative.iter().rev().map(|(index, count)| (-estimate(*index, self.scale), *count));
        let positive = self.positive.iter().map(|(index, count)| (estimate(*index, self.scale), *count));
        let mut below = 0_u128;
        let mut last = 0.0;
        for (value, count) in negative.chain([(0.0, self.zero_count)]).chain(positive) {
            below += u128::from(count);
            if count > 0 {
                last = value;
            }
            if below >= rank {
                break;
            }
        }
        Some(last)
    }

    fn downscale(&mut self, scale: i32) {
        let Some(shift) = self.scale.checked_sub(scale).filter(|shift| *shift > 0) else {
            return;
        };
        // 2^shift neighbouring buckets become one; an arithmetic shift rounds down for negative indexes too.
        let merged = |buckets: &Buckets| {
            let mut result = Buckets::new();
            add(&mut result, buckets.iter().map(|(index, count)| (index >> shift.min(31), *count)));
            result
        };
        (self.positive, self.negative) = (merged(&self.positive), merged(&self.negative));
        self.scale = scale;
    }

    /// Widens the zero bucket to `threshold`, or to the end of the last bucket that this reaches into.
    fn widen_zero(&mut self, threshold: f64) {
        if threshold <= self.zero_threshold {
            return;
        }
        self.zero_threshold = threshold;
        for buckets in [&mut self.positive, &mut self.negative] {
            while let Some(lowest) = buckets.first_entry() {
                let index = *lowest.key();
                // A threshold that is a bucket's bound is not within the bucket, whatever the last bits say.
                if bound(index, self.scale) * (1.0 + 1e-9) >= threshold {
                    break;
                }
                self.zero_count = self.zero_count.saturating_add(lowest.remove());
                self.zero_threshold = self.zero_threshold.max(bound(index.saturating_add(1), self.scale));
            }
        }
    }
}

/// Where on the number line a count belongs.
#[derive(Debug, Clone, Copy)]
enum Place {
    Negative(i32),
    Zero,
    Positive(i32),
}

/// The changes from `earlier` to `later`, from the lowest values to the highest.
fn line(later: &Distribution, earlier: &Distribution) -> Vec<(Place, i128)> {
    let changes = |later: &Buckets, earlier: &Buckets| {
        let mut changes: BTreeMap<i32, i128> =
            later.iter().map(|(index, count)| (*index, i128::from(*count))).collect();
        for (index, count) in earlier {
            *changes.entry(*index).or_default() -= i128::from(*count);
        }
        changes
    };
    let negative = changes(&later.negative, &earlier.negative).into_iter().rev();
    let positive = changes(&later.positive, &earlier.positive).into_iter();
    let zero = i128::from(later.zero_count) - i128::from(earlier.zero_count);
    negative
        .map(|(index, change)| (Place::Negative(index), change))
        .chain([(Place::Zero, zero)])
        .chain(positive.map(|(index, change)| (Place::Positive(index), change)))
        .collect()
}

/// Brings two distributions to one scale and one zero bucket.
fn align(a: &mut Distribution, b: &mut Distribution) {
    let scale = a.scale.min(b.scale);
    a.downscale(scale);
    b.downscale(scale);
    // Widening one may swallow a bucket and so reach beyond the other's threshold: it ends, since buckets do.
    while a.zero_threshold < b.zero_threshold || b.zero_threshold < a.zero_threshold {
        let threshold = a.zero_threshold.max(b.zero_threshold);
        a.widen_zero(threshold);
        b.widen_zero(threshold);
    }
}

fn add(buckets: &mut Buckets, more: impl IntoIterator<Item = (i32, u64)>) {
    for (index, count) in more {
        let sum = buckets.entry(index).or_default();
        *sum = sum.saturating_add(count);
    }
}

fn sparse(buckets: Option<&OtlpBuckets>) -> Result<Buckets, Invalid> {
    let mut result = Buckets::new();
    let Some(buckets) = buckets else { return Ok(result) };
    for (position, count) in buckets.bucket_counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let index = i32::try_from(position).ok().and_then(|position| buckets.offset.checked_add(position));
        result.insert(index.ok_or(Invalid::Index(buckets.offset))?, *count);
    }
    Ok(result)
}

/// The lower bound of bucket `index`.
fn bound(index: i32, scale: i32) -> f64 {
    (f64::from(index) * f64::from(-scale).exp2()).exp2()
}

fn estimate(index: i32, scale: i32) -> f64 {
    let (lower, upper) = (bound(index, scale), bound(index.saturating_add(1), scale));
    // The harmonic mean of the bounds; written so that no infinite bound makes it NaN.
    (2.0 / (1.0 / lower + 1.0 / upper)).min(f64::MAX)
}

/// How a distribution lies in the store: protobuf, since its packed varints make sparse buckets small.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(sint32, tag = "1")]
    scale: i32,
    #[prost(double, tag = "2")]
    zero_threshold: f64,
    #[prost(uint64, tag = "3")]
    zero_count: u64,
    #[prost(sint32, repeated, tag = "4")]
    positive_index: Vec<i32>,
    #[prost(uint64, repeated, tag = "5")]
    positive_count: Vec<u64>,
    #[prost(sint32, repeated, tag = "6")]
    negative_index: Vec<i32>,
    #[prost(uint64, repeated, tag = "7")]
    negative_count: Vec<u64>,
}

impl Distribution {
    /// The bytes for the store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Stored {
            scale: self.scale,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            positive_index: self.positive.keys().copied().collect(),
            positive_count: self.positive.values().copied().collect(),
            negative_index: self.negative.keys().copied().collect(),
            negative_count: self.negative.values().copied().collect(),
        }
        .encode_to_vec()
    }

    /// What [`Distribution::to_bytes`] wrote.
    ///
    /// # Errors
    /// Prost's, when the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let stored = Stored::decode(bytes)?;
        Ok(Self {
            scale: stored.scale,
            zero_threshold: stored.zero_threshold,
            zero_count: stored.zero_count,
            positive: stored.positive_index.into_iter().zip(stored.positive_count).collect(),
            negative: stored.negative_index.into_iter().zip(stored.negative_count).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
