//! Exemplars: requests with a trace that stand for what a histogram counts, so that whoever sees a slow bucket finds a
//! trace and a record of it.
//!
//! The range of durations is divided into [`PARTS`] parts, and the slowest request of each is kept: so the slowest of all
//! is always among them, and there is one of every part in which there were requests. Nearly every request is only
//! compared with the one that is kept; its `traceparent` is read when it takes that one's place. What is kept are at most
//! eight times 48 bytes for each histogram, and none before the first request with a trace. Each export takes them out.
//! Source: opentelemetry-proto, `metrics/v1/metrics.proto`, `Exemplar`.

use crate::otlp::wire::{bytes_field_len, put_bytes, put_double, put_fixed64, put_header};
use crate::request::TraceContext;

/// How many parts there are, each four times as long as the one before it.
const PARTS: usize = 8;

/// The first part ends at 2 to this power of a second, 1 ms; the next ones at 4, 16, 63 and 250 ms, 1 and 4 s.
const FIRST_END_LOG2: i32 = -10;

/// Field number of exemplars in a data point.
const POINT_EXEMPLARS: u32 = 11;

/// An encoded `Exemplar`: two fixed integers, and two ids with tag and length.
const EXEMPLAR_BYTES: usize = 2 * 9 + bytes_field_len(16) + bytes_field_len(8);

/// The exemplars of one histogram since the last export.
#[derive(Debug, Clone, Default)]
pub(super) struct Exemplars {
    slowest: Option<Box<[Option<Exemplar>; PARTS]>>,
}

#[derive(Debug, Clone, Copy)]
struct Exemplar {
    seconds: f64,
    time_unix_nano: u64,
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl Exemplars {
    /// A request that took so long has ended; `trace` is asked for only if it is to be kept.
    pub(super) fn offer(
        &mut self,
        seconds: f64,
        time_unix_nano: u64,
        trace: impl FnOnce() -> Option<TraceContext>,
    ) {
        let part = part_of(seconds);
        if self.kept(part).is_none_or(|kept| seconds > kept.seconds) {
            self.keep(part, seconds, time_unix_nano, trace());
        }
    }

    /// Keeps of each part the slowest of both.
    pub(super) fn merge(&mut self, other: Self) {
        let Some(others) = other.slowest else { return };
        let Some(slowest) = &mut self.slowest else {
            self.slowest = Some(others);
            return;
        };
        for (kept, other) in slowest.iter_mut().zip(*others) {
            if other.is_some_and(|other| kept.is_none_or(|kept| other.seconds > kept.seconds)) {
                *kept = other;
            }
        }
    }

    /// Appends them to a data point that ends at `now_unix_nano`, the slowest first, and no more than fit into
    /// `max_bytes`: a point is worth more than its exemplars.
    pub(super) fn encode(&self, now_unix_nano: u64, max_bytes: usize, out: &mut Vec<u8>) {
        let kept = self.slowest.iter().flat_map(|slowest| slowest.iter().rev().flatten());
        for exemplar in kept.take(max_bytes / bytes_field_len(EXEMPLAR_BYTES)) {
            put_header(out, POINT_EXEMPLARS, EXEMPLAR_BYTES);
            // Where a clock was set back, none is later than its point.
            put_fixed64(out, 2, exemplar.time_unix_nano.min(now_unix_nano));
            put_double(out, 3, exemplar.seconds);
            put_bytes(out, 4, &exemplar.span_id);
            put_bytes(out, 5, &exemplar.trace_id);
        }
    }

    fn kept(&self, part: usize) -> Option<&Exemplar> {
        self.slowest.as_ref()?.get(part)?.as_ref()
    }

    #[cold]
    fn keep(&mut self, part: usize, seconds: f64, time_unix_nano: u64, trace: Option<TraceContext>) {
        let Some(TraceContext { trace_id, span_id, .. }) = trace else { return };
        if let Some(kept) = self.slowest.get_or_insert_default().get_mut(part) {
            *kept = Some(Exemplar { seconds, time_unix_nano, trace_id, span_id });
        }
    }
}

/// Which part of the range a duration, not negative, belongs to.
fn part_of(seconds: f64) -> usize {
    let floor_log2 = (seconds.to_bits() >> (f64::MANTISSA_DIGITS - 1)) as i32 - (f64::MAX_EXP - 1);
    // Two octaves, a factor of four, are a part.
    let part = (floor_log2 - FIRST_END_LOG2 + 2) >> 1;
    part.clamp(0, PARTS as i32 - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
    use opentelemetry_proto::tonic::metrics::v1::exemplar::Value;
    use prost::Message;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn trace(number: u8) -> Option<TraceContext> {
        Some(TraceContext { trace_id: [number; 16], span_id: [number; 8], flags: 0 })
    }

    /// Durations in seconds, each with the number of its trace.
    fn exemplars(offered: &[(f64, u8)]) -> Exemplars {
        let mut exemplars = Exemplars::default();
        offered.iter().for_each(|&(seconds, number)| exemplars.offer(seconds, NOW, || trace(number)));
        exemplars
    }

    fn told(exemplars: &Exemplars) -> Vec<(f64, u8)> {
        decoded(exemplars, NOW, usize::MAX)
            .into_iter()
            .map(|(seconds, number, _)| (seconds, number))
            .collect()
    }

    fn decoded(exemplars: &Exemplars, now: u64, max_bytes: usize) -> Vec<(f64, u8, u64)> {
        let mut out = Vec::new();
        exemplars.encode(now, max_bytes, &mut out);
        assert!(out.len() <= max_bytes);
        let point = ExponentialHistogramDataPoint::decode(out.as_slice()).unwrap();
        let told = point.exemplars.iter().map(|exemplar| {
            let Some(Value::AsDouble(seconds)) = exemplar.value else { panic!("{exemplar:?}") };
            let number = exemplar.trace_id[0];
            assert_eq!(
                (&exemplar.trace_id[..], &exemplar.span_id[..]),
                (&[number; 16][..], &[number; 8][..])
            );
            (seconds, number, exemplar.time_unix_nano)
        });
        told.collect()
    }

    #[test]
    fn each_part_of_the_range_keeps_its_slowest() {
        let offered =
            [(0.0, 1), (0.000_9, 2), (0.02, 3), (0.06, 4), (0.03, 5), (9.0, 6), (86_401.0, 7), (5.0, 8)];
        assert_eq!(told(&exemplars(&offered)), [(86_401.0, 7), (0.06, 4), (0.000_9, 2)]);
    }

    #[test]
    fn a_part_is_four_times_as_long_as_the_one_before() {
        let parts: Vec<_> = [
            0.0, 1e-9, 0.000_9, 0.001, 0.003, 0.004, 0.015, 0.016, 0.06, 0.063, 0.24, 0.26, 0.9, 1.0, 3.9,
            4.0, 1e9,
        ]
        .map(part_of)
        .into();
        assert_eq!(parts, [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    }

    #[test]
    fn what_has_no_trace_takes_no_place_and_no_memory() {
        let mut exemplars = Exemplars::default();
        exemplars.offer(1.0, NOW, || None);
        assert!(exemplars.slowest.is_none());
        exemplars.offer(1.0, NOW, || trace(1));
        exemplars.offer(2.0, NOW, || None);
        exemplars.offer(1.0, NOW, || panic!("it is not slower"));
        assert_eq!(told(&exemplars), [(1.0, 1)]);
        assert_eq!(size_of::<Option<Exemplar>>(), 48);
    }

    #[test]
    fn merging_keeps_the_slowest_of_both() {
        let all = [(0.5, 1), (0.6, 2), (0.002, 3), (3.0, 4)];
        for split in 0..=all.len() {
            let mut merged = exemplars(&all[..split]);
            merged.merge(exemplars(&all[split..]));
            assert_eq!(told(&merged), [(3.0, 4), (0.6, 2), (0.002, 3)], "split at {split}");
        }
    }

    #[test]
    fn the_slowest_come_first_and_only_as_many_as_fit() {
        let exemplars = exemplars(&[(0.5, 1), (0.002, 2), (3.0, 3)]);
        for (max_bytes, expected) in [(0, 0), (47, 0), (48, 1), (95, 1), (96, 2), (144, 3), (1000, 3)] {
            let told = decoded(&exemplars, NOW, max_bytes);
            let numbers: Vec<_> = told.iter().map(|told| told.1).collect();
            assert_eq!(numbers, [3, 1, 2][..expected], "{max_bytes} bytes");
        }
    }

    #[test]
    fn none_is_later_than_its_point() {
        assert_eq!(decoded(&exemplars(&[(1.0, 1)]), NOW - 7, 1000), [(1.0, 1, NOW - 7)]);
        assert_eq!(decoded(&exemplars(&[(1.0, 1)]), NOW + 7, 1000), [(1.0, 1, NOW)]);
    }
}
