//! Distributions merged, subtracted and asked for quantiles, against exact values.

use super::*;

fn index(value: f64, scale: i32) -> i32 {
    (value.log2() * f64::from(scale).exp2()).ceil() as i32 - 1
}

fn of(values: &[f64], scale: i32) -> Distribution {
    let mut distribution = Distribution { scale, zero_threshold: 1e-4, ..Distribution::default() };
    for value in values {
        if value.abs() <= distribution.zero_threshold {
            distribution.zero_count += 1;
        } else if *value > 0.0 {
            *distribution.positive.entry(index(*value, scale)).or_default() += 1;
        } else {
            *distribution.negative.entry(index(-value, scale)).or_default() += 1;
        }
    }
    distribution
}

#[test]
fn quantiles_at_scale_3_are_within_5_percent_of_the_exact_ones() {
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..20 {
        // 1 ms to 60 s, log-uniform, with a lump somewhere.
        let lump = 10_f64.powf(random.f64() * 4.7 - 3.0);
        let mut values: Vec<f64> = (0..5_000)
            .map(|_| if random.bool() { lump } else { 10_f64.powf(random.f64() * 4.778 - 3.0) })
            .collect();
        let distribution = of(&values, 3);
        values.sort_by(f64::total_cmp);
        for quantile in [0.5, 0.9, 0.95, 0.99, 0.999] {
            let exact = values[(quantile * values.len() as f64).ceil() as usize - 1];
            let estimate = distribution.quantile(quantile).unwrap();
            let error = (estimate - exact).abs() / exact;
            assert!(error < 0.05, "round {round}, p{quantile}: {estimate} for {exact}");
        }
    }
}

#[test]
fn ranks_are_the_nearest() {
    let values: Vec<f64> = (1..=100).map(f64::from).collect();
    let distribution = of(&values, 10);
    for (quantile, exact) in [(0.0, 1.0), (0.01, 1.0), (0.07, 7.0), (0.5, 50.0), (0.95, 95.0), (1.0, 100.0)] {
        let estimate = distribution.quantile(quantile).unwrap();
        assert!((estimate - exact).abs() / exact < 0.001, "{quantile}: {estimate} for {exact}");
    }
    assert_eq!(Distribution::default().quantile(0.5), None);
}

#[test]
fn signs_keep_their_order_and_zero_is_zero() {
    let distribution = of(&[-8.0, -2.0, 0.0, 4.0], 5);
    let at = |quantile| distribution.quantile(quantile).unwrap();
    assert!((at(0.25) + 8.0).abs() < 0.2 && (at(0.5) + 2.0).abs() < 0.05);
    assert_eq!(at(0.75), 0.0);
    assert!((at(1.0) - 4.0).abs() < 0.1);
}

#[test]
fn merging_at_different_scales_equals_recording_at_the_lower_one() {
    let (a, b) = ([0.002, 0.5, 7.0, -3.0], [0.0021, 0.6, 0.0, 70.0]);
    let mut merged = of(&a, 6);
    merged.merge(&of(&b, 2));
    assert_eq!(merged, of(&[a, b].concat(), 2));
    let mut reverse = of(&b, 2);
    reverse.merge(&of(&a, 6));
    assert_eq!(merged, reverse);
}

#[test]
fn merging_with_a_wider_zero_bucket_keeps_every_count() {
    let mut merged = of(&[0.002, 0.5], 3);
    let wide = Distribution { scale: 3, zero_threshold: 0.00198, zero_count: 5, ..Distribution::default() };
    merged.merge(&wide);
    // 0.00198 lies inside the bucket of 0.002, so that the whole bucket joins the zero bucket.
    assert_eq!((merged.count(), merged.zero_count), (7, 6));
    assert!(merged.zero_threshold > 0.002);
}

#[test]
fn a_difference_is_what_was_added() {
    let (first, added) = ([0.002, 0.5, -7.0], [0.5, 0.9, 0.0, -7.5]);
    let later = of(&[first.as_slice(), &added].concat(), 4);
    assert_eq!(later.since(&of(&first, 4)), of(&added, 4));
    // Also when the sender has lowered its scale in between, or raised it.
    assert_eq!(of(&[first.as_slice(), &added].concat(), 2).since(&of(&first, 4)), of(&added, 2));
    assert_eq!(later.since(&of(&first, 2)), of(&added, 2));
}

#[test]
fn a_bucket_that_fell_is_never_negative_and_the_count_holds() {
    let earlier = Distribution { positive: [(1, 5), (2, 1)].into(), ..Distribution::default() };
    let later = Distribution { positive: [(1, 3), (2, 4), (3, 1)].into(), ..Distribution::default() };
    let since = later.since(&earlier);
    assert_eq!(since.positive, Buckets::from([(2, 1), (3, 1)]));
    let fell_above = Distribution { positive: [(1, 9)].into(), ..Distribution::default() };
    assert_eq!(fell_above.since(&earlier).positive, Buckets::from([(1, 3)]));
}

#[test]
fn stored_bytes_read_back_equal() {
    let distribution = of(&[-2.0, 0.0, 0.003, 0.003, 900.0], 7);
    assert_eq!(Distribution::from_bytes(&distribution.to_bytes()).unwrap(), distribution);
}

#[test]
fn extreme_indexes_cost_nothing_and_stay_finite() {
    let extreme = Distribution {
        scale: -10,
        positive: [(i32::MIN, 1), (i32::MAX, 1)].into(),
        ..Distribution::default()
    };
    let mut merged = extreme.clone();
    merged.merge(&extreme);
    assert_eq!(merged.count(), 4);
    assert!(merged.quantile(1.0).unwrap().is_finite() && merged.quantile(0.1).unwrap().is_finite());
}

#[test]
fn contradictory_points_are_refused() {
    let point = |scale, count, offset| ExponentialHistogramDataPoint {
        scale,
        count,
        positive: Some(OtlpBuckets { offset, bucket_counts: vec![1, 2] }),
        ..ExponentialHistogramDataPoint::default()
    };
    assert_eq!(Distribution::from_point(&point(3, 3, 0)).unwrap().count(), 3);
    assert_eq!(Distribution::from_point(&point(3, 4, 0)), Err(Invalid::Count { count: 4, buckets: 3 }));
    assert_eq!(Distribution::from_point(&point(21, 3, 0)), Err(Invalid::Scale(21)));
    assert_eq!(Distribution::from_point(&point(-11, 3, 0)), Err(Invalid::Scale(-11)));
    assert_eq!(Distribution::from_point(&point(3, 3, i32::MAX)), Err(Invalid::Index(i32::MAX)));
}
