//! The promises of the histogram: its error, its bounds, its buckets.

use super::*;
use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
use proptest::prelude::*;
use prost::Message;

/// What a receiver gets.
fn exported(histogram: &mut Histogram, layout: &Layout) -> ExponentialHistogramDataPoint {
    let mut out = Vec::new();
    histogram.settle(layout);
    histogram.encode(layout, 1, 2, &mut out);
    ExponentialHistogramDataPoint::decode(out.as_slice()).unwrap()
}

fn histogram_of(layout: &Layout, values: &[f64]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|&value| histogram.record(layout, value));
    histogram
}

/// The quantile that a receiver computes: the nearest rank's bucket, and the value in it that is nearest to all others.
fn quantile(point: &ExponentialHistogramDataPoint, q: f64) -> f64 {
    let base = 2f64.powf(2f64.powi(-point.scale));
    let positive = point.positive.as_ref().unwrap();
    let mut rank = ((q * point.count as f64).ceil() as u64).max(1);
    if rank <= point.zero_count {
        return 0.0;
    }
    rank -= point.zero_count;
    for (index, count) in (positive.offset..).zip(&positive.bucket_counts) {
        if rank <= *count {
            let lower = base.powi(index);
            return 2.0 * lower * base / (1.0 + base);
        }
        rank -= count;
    }
    panic!("counts do not add up to {}", point.count)
}

fn assert_quantiles_within(values: &[f64], outlier: Option<f64>, error: f64) -> Result<(), TestCaseError> {
    let layout = Layout::new(160);
    let mut all = values.to_vec();
    all.extend(outlier);
    let point = exported(&mut histogram_of(&layout, &all), &layout);
    all.sort_by(f64::total_cmp);
    for q in [0.5, 0.9, 0.95, 0.99, 0.999] {
        let exact = all[((q * all.len() as f64).ceil() as usize).max(1) - 1];
        // The outlier is what it is; the promise is for 1 ms to 60 s.
        if (1e-3..=60.0).contains(&exact) {
            let told = quantile(&point, q);
            prop_assert!(
                (told - exact).abs() <= error * exact,
                "p{q}: {told} for {exact}, scale {}",
                point.scale
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_value_lies_within_its_buckets_bounds(
        exponent in -14i32..17,
        bucket in 0u32..128,
        ulps in -2i64..=2,
        max_buckets in 16usize..=640,
    ) {
        let layout = Layout::new(max_buckets);
        // Bounds, and the values next to them, are where a table would go wrong.
        let bound = |index: i32, scale: i32| (f64::from(index) * 2f64.powi(-scale)).exp2();
        let value = f64::from_bits(
            (2f64.powi(exponent) * (f64::from(bucket) / 128.0).exp2()).to_bits().wrapping_add_signed(ulps),
        );
        for scale in layout.start_scale - 4..=layout.start_scale {
            let index = layout.index(value, scale);
            let (lower, upper) = (bound(index, scale), bound(index + 1, scale));
            prop_assert!(lower < value * (1.0 + 1e-15) && value <= upper * (1.0 + 1e-15), "{value} in bucket {index} at scale {scale}");
        }
    }

    #[test]
    fn quantiles_of_any_mix_of_1_ms_to_60_s_are_within_5_percent(
        exponents in proptest::collection::vec(0.0..=1.0f64, 1..3000),
    ) {
        let values: Vec<f64> = exponents.iter().map(|x| 1e-3 * 60_000f64.powf(*x)).collect();
        assert_quantiles_within(&values, None, 0.05)?;
    }

    #[test]
    fn one_outlier_of_any_size_leaves_them_within_5_percent(
        exponents in proptest::collection::vec(0.0..=1.0f64, 2..3000),
        outlier in prop_oneof![1e-9..1e-3f64, 60.0..1e6f64],
    ) {
        let values: Vec<f64> = exponents.iter().map(|x| 1e-3 * 60_000f64.powf(*x)).collect();
        assert_quantiles_within(&values, Some(outlier), 0.05)?;
    }

    #[test]
    fn merging_two_is_counting_all_in_one(
        ours in proptest::collection::vec(prop_oneof![0.0..2.0f64, 0.0..1e5f64, 1e-5..1e-3f64], 0..100),
        theirs in proptest::collection::vec(prop_oneof![0.0..2.0f64, 0.0..1e5f64, 1e-5..1e-3f64], 0..100),
        max_buckets in 16usize..=640,
    ) {
        let layout = Layout::new(max_buckets);
        let mut merged = histogram_of(&layout, &ours);
        merged.merge(&layout, histogram_of(&layout, &theirs));
        let all: Vec<f64> = ours.into_iter().chain(theirs).collect();
        let (merged, counted) = (exported(&mut merged, &layout), exported(&mut histogram_of(&layout, &all), &layout));
        prop_assert_eq!((merged.count, merged.zero_count, merged.max), (counted.count, counted.zero_count, counted.max));
        prop_assert_eq!((merged.scale, merged.positive), (counted.scale, counted.positive));
    }

    #[test]
    fn every_value_is_in_exactly_one_bucket_and_no_bound_is_exceeded(
        values in proptest::collection::vec(prop_oneof![0.0..2.0f64, 0.0..1e7f64, 1e-5..1e-3f64], 0..500),
        max_buckets in 16usize..=640,
    ) {
        let layout = Layout::new(max_buckets);
        let mut histogram = histogram_of(&layout, &values);
        let point = exported(&mut histogram, &layout);
        let buckets = point.positive.unwrap().bucket_counts;
        prop_assert!(buckets.len() <= max_buckets);
        prop_assert!(histogram.counts.len() <= 2 * max_buckets);
        prop_assert_eq!(point.zero_count + buckets.iter().sum::<u64>(), values.len() as u64);
        prop_assert_eq!(point.count, values.len() as u64);
    }
}

#[test]
fn bounds_are_exclusive_below_and_inclusive_above() {
    let layout = Layout::new(160);
    assert_eq!((layout.floor_scale, layout.start_scale), (3, 5));
    for (value, scale, index) in [
        (1.0, 0, -1),
        (1.000_001, 0, 0),
        (2.0, 0, 0),
        (2.000_001, 0, 1),
        (4.0, 1, 3),
        (0.5, 3, -9),
        (1.0, 5, -1),
        (2f64.powf(1.0 / 32.0) * 1.000_001, 5, 1),
    ] {
        assert_eq!(layout.index(value, scale), index, "{value} at scale {scale}");
    }
}

#[test]
fn the_zero_threshold_is_inclusive() {
    let layout = Layout::new(160);
    let point = exported(&mut histogram_of(&layout, &[0.0, 1e-4, 1.001e-4]), &layout);
    assert_eq!((point.zero_count, point.count, point.zero_threshold), (2, 3, 1e-4));
}

#[test]
fn a_few_values_far_out_are_folded_and_many_halve_the_resolution() {
    let layout = Layout::new(160);
    let mut values = vec![1e-3; 2000];
    values.extend([3600.0, 7200.0]);
    let mut histogram = histogram_of(&layout, &values);
    let point = exported(&mut histogram, &layout);
    assert_eq!((point.scale, point.max, point.positive.unwrap().bucket_counts[159]), (3, Some(7200.0), 2));

    histogram.record(&layout, 3600.0);
    let point = exported(&mut histogram, &layout);
    assert_eq!((point.scale, point.count), (2, 2003));
    assert!((quantile(&point, 0.999) - 3600.0).abs() < 0.09 * 3600.0);
}

#[test]
fn the_range_grows_in_both_directions_without_losing_a_count() {
    let layout = Layout::new(16);
    let mut histogram = Histogram::default();
    for (n, value) in [1.0, 0.9, 1.1, 100.0, 1e-3, 80_000.0, 2e-4].into_iter().enumerate() {
        histogram.record(&layout, value);
        assert_eq!(histogram.counts.iter().sum::<u64>(), n as u64 + 1, "after {value}");
    }
}
