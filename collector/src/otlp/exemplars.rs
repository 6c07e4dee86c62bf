//! The exemplars of a data point: requests that stand for what it counts.
//!
//! In: OTLP's `Exemplar`s, as many as a sender likes. Out: those that lead to a request, and of those that are collected into
//! [`Exemplars`] the slowest of each of [`PARTS`] parts of the range, so one of every part in which there are any, and the
//! slowest of all among them. Dropped here, for nothing leads from them to a request: those without a valid trace id,
//! without a time, or whose value is no finite number.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1 as otlp;
use opentelemetry_proto::tonic::metrics::v1::exemplar::Value;

use super::traces::id;

/// How many parts there are, each four times as long as the one before it: the same as the plugin's.
pub const PARTS: usize = 8;

/// The first part ends at 2 to this power, 1 ms where the unit is a second; the next ones at 4, 16, 63 and 250 ms, 1 and 4 s.
const FIRST_END_LOG2: f64 = -10.0;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// What was measured, in the metric's unit.
    pub value: f64,
    /// When.
    pub time_unix_nano: i64,
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Its span, if that is known.
    pub span_id: Option<[u8; 8]>,
}

impl Exemplar {
    /// Those of a data point that lead to a request.
    #[must_use]
    pub fn of_point(list: &[otlp::Exemplar]) -> Vec<Self> {
        list.iter().filter_map(Self::of).collect()
    }

    fn of(exemplar: &otlp::Exemplar) -> Option<Self> {
        let value = match exemplar.value? {
            Value::AsDouble(value) => value,
            Value::AsInt(value) => value as f64,
        };
        let trace_id = id(&exemplar.trace_id, 16)?.try_into().ok()?;
        let span_id = id(&exemplar.span_id, 8).and_then(|bytes| bytes.try_into().ok());
        let time_unix_nano = i64::try_from(exemplar.time_unix_nano).ok().filter(|time| *time > 0)?;
        value.is_finite().then_some(Self { value, time_unix_nano, trace_id, span_id })
    }
}

/// The slowest of each part of the range, by the number of the part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exemplars(BTreeMap<u8, Exemplar>);

impl Exemplars {
    /// Takes one in, if there is no slower one in its part.
    pub fn offer(&mut self, exemplar: Exemplar) {
        let kept = self.0.entry(part(exemplar.value)).or_insert(exemplar);
        if exemplar.value > kept.value {
            *kept = exemplar;
        }
    }

    /// Each with the number of its part, the slowest first.
    pub fn slowest_first(&self) -> impl Iterator<Item = (u8, &Exemplar)> {
        self.0.iter().rev().map(|(part, exemplar)| (*part, exemplar))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Exemplar> for Exemplars {
    fn from_iter<I: IntoIterator<Item = Exemplar>>(list: I) -> Self {
        let mut exemplars = Self::default();
        list.into_iter().for_each(|exemplar| exemplars.offer(exemplar));
        exemplars
    }
}

/// Which part of the range a value belongs to: the first one up to its end, zero and below included.
fn part(value: f64) -> u8 {
    // The logarithm of zero is minus infinity, that of a negative number is none; both become 0.
    let part = ((value.log2() - FIRST_END_LOG2) / 2.0).floor() + 1.0;
    part.clamp(0.0, (PARTS - 1) as f64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(value: f64, number: u8) -> otlp::Exemplar {
        otlp::Exemplar {
            time_unix_nano: 7,
            trace_id: vec![number; 16],
            span_id: vec![number; 8],
            value: Some(Value::AsDouble(value)),
            ..otlp::Exemplar::default()
        }
    }

    fn told(list: &[otlp::Exemplar]) -> Vec<(u8, f64, u8)> {
        let exemplars: Exemplars = Exemplar::of_point(list).into_iter().collect();
        exemplars.slowest_first().map(|(part, kept)| (part, kept.value, kept.trace_id[0])).collect()
    }

    #[test]
    fn each_part_of_the_range_keeps_its_slowest() {
        let list = [(0.02, 1), (0.06, 2), (0.03, 3), (9.0, 4), (5.0, 5), (0.0, 6), (-1.0, 7)]
            .map(|(value, number)| exemplar(value, number));
        assert_eq!(told(&list), [(7, 9.0, 4), (3, 0.06, 2), (0, 0.0, 6)]);
    }

    #[test]
    fn parts_begin_and_end_where_the_plugins_do() {
        let values = [
            (0.000_9, 0),
            (0.001, 1),
            (0.003, 1),
            (0.004, 2),
            (0.015, 2),
            (0.016, 3),
            (0.06, 3),
            (0.063, 4),
            (0.24, 4),
            (0.26, 5),
            (0.9, 5),
            (1.0, 6),
            (3.9, 6),
            (4.0, 7),
            (1e300, 7),
        ];
        for (value, expected) in values {
            assert_eq!(part(value), expected, "{value}");
        }
    }

    #[test]
    fn what_leads_to_no_request_is_left_out() {
        let whole = exemplar(1.0, 1);
        let without = [
            otlp::Exemplar { trace_id: vec![], ..whole.clone() },
            otlp::Exemplar { trace_id: vec![0; 16], ..whole.clone() },
            otlp::Exemplar { trace_id: vec![1; 15], ..whole.clone() },
            otlp::Exemplar { time_unix_nano: 0, ..whole.clone() },
            otlp::Exemplar { time_unix_nano: u64::MAX, ..whole.clone() },
            otlp::Exemplar { value: None, ..whole.clone() },
            exemplar(f64::NAN, 1),
            exemplar(f64::INFINITY, 1),
        ];
        for exemplar in without {
            assert_eq!(Exemplar::of_point(std::slice::from_ref(&exemplar)), [], "{exemplar:?}");
        }
        let without_span = otlp::Exemplar { span_id: vec![0; 8], value: Some(Value::AsInt(2)), ..whole };
        let [kept] = Exemplar::of_point(&[without_span])[..] else { panic!() };
        assert_eq!((kept.span_id, kept.value), (None, 2.0));
    }
}
