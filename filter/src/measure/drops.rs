//! What was dropped, as OTLP counters, so that loss shows where the records would have been, too.
//!
//! The counts of [`crate::ledger`] come in before each export; points of two sums go to [`super::export`], one for each
//! reason that there ever was. The metrics' names are those that an OTLP receiver turns into the names of the proxy's own
//! statistics. What is dropped after the last export of a root context is in those only.

use super::export::{Kind, Metric, Part, SumPoint, Writer};
use crate::config::Temporality;
use crate::ledger::{Ledger, Reason};
use crate::otlp::attribute::put_str;

use super::ExportedRequest;

/// Field number of the attributes in a `NumberDataPoint`.
const POINT_ATTRIBUTES: u32 = 7;

/// A metric, and where the ledger has it.
type Counted = (Metric, fn(&Ledger, Reason) -> u64);

/// Both metrics.
const COUNTED: [Counted; 2] = [
    (
        Metric {
            name: "offpath.records.dropped",
            description: "Log records that were dropped.",
            unit: "{record}",
            kind: Kind::Sum,
        },
        Ledger::records_dropped,
    ),
    (
        Metric {
            name: "offpath.metric_points.dropped",
            description: "Data points of metrics that were dropped.",
            unit: "{point}",
            kind: Kind::Sum,
        },
        Ledger::points_dropped,
    ),
];

/// The counters of one root context.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// By metric and reason.
    counters: [[Counter; Reason::ALL.len()]; COUNTED.len()],
}

#[derive(Debug, Default)]
struct Counter {
    /// At the last export: never less than before, whatever the ledger takes back.
    total: u64,
    /// Of it what earlier deltas told.
    told: u64,
    /// Since when, where some of it could not be delivered before.
    handed_back_since_unix_nano: Option<u64>,
}

/// A part of one counter's total, told by a delta.
#[derive(Debug)]
pub(super) struct Told {
    metric: usize,
    reason: Reason,
    start_unix_nano: u64,
    count: u64,
}

impl Drops {
    /// Whether records were dropped since the last export. Of data points not: were each export to tell of the points that
    /// the last one lost, a drain would have no end.
    pub(super) fn are_new(&self, ledger: &Ledger) -> bool {
        let [records, _] = &self.counters;
        Reason::ALL
            .into_iter()
            .zip(records)
            .any(|(reason, known)| ledger.records_dropped(reason) > known.total)
    }

    /// Takes over what has been counted by now.
    pub(super) fn count(&mut self, ledger: &Ledger) {
        for ((_, counted), counters) in COUNTED.iter().zip(&mut self.counters) {
            for (reason, counter) in Reason::ALL.into_iter().zip(counters) {
                counter.total = counter.total.max(counted(ledger, reason));
            }
        }
    }

    /// Writes all that was dropped since `start_unix_nano`, and with delta temporality what came back.
    pub(super) fn export<Take: FnMut(ExportedRequest)>(
        &mut self,
        writer: &mut Writer<'_, Take>,
        temporality: Temporality,
        start_unix_nano: u64,
    ) {
        let mut attributes = Vec::new();
        for (index, ((metric, _), counters)) in COUNTED.iter().zip(&mut self.counters).enumerate() {
            for (reason, counter) in Reason::ALL.into_iter().zip(counters) {
                let count = counter.total - counter.told;
                if count == 0 {
                    continue;
                }
                let handed_back = counter.handed_back_since_unix_nano.unwrap_or(u64::MAX);
                let start_unix_nano = start_unix_nano.min(handed_back);
                attributes.clear();
                put_str(&mut attributes, POINT_ATTRIBUTES, "reason", reason.as_str());
                let point = SumPoint { attributes: &attributes, start_unix_nano, count };
                let part = || Part::Drops(Told { metric: index, reason, start_unix_nano, count });
                writer.sum(metric, &point, part);
                if temporality == Temporality::Delta {
                    *counter = Counter { total: counter.total, told: counter.total, ..Counter::default() };
                }
            }
        }
    }

    /// Tells again what a delta could not deliver.
    pub(super) fn absorb(&mut self, told: Told) {
        let Told { metric, reason, start_unix_nano, count } = told;
        let counters = self.counters.get_mut(metric);
        if let Some(counter) = counters.and_then(|counters| counters.get_mut(reason as usize)) {
            counter.told = counter.told.saturating_sub(count);
            let since = counter.handed_back_since_unix_nano.get_or_insert(start_unix_nano);
            *since = start_unix_nano.min(*since);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
    use prost::Message;

    use super::super::{DeltaPoints, Measurements};
    use super::*;
    use crate::ledger::Stat;
    use crate::otlp::envelope::Envelope;
    use crate::testing::config;

    const START: u64 = 1_700_000_000_000_000_000;

    struct Fixture {
        ledger: Ledger,
        measurements: Measurements,
        deltas: Vec<DeltaPoints>,
    }

    impl Fixture {
        fn new(temporality: &str) -> Self {
            let config = config(&format!(r#""metrics":{{"temporality":"{temporality}"}}"#));
            Self {
                ledger: Ledger::default(),
                measurements: Measurements::new(&config.metrics, START),
                deltas: Vec::new(),
            }
        }

        /// What an export tells: metric, reason, start and end since `START`, count.
        fn export(&mut self, now: u64) -> Vec<(String, String, u64, u64, i64)> {
            self.measurements.count_drops(&self.ledger);
            let envelope = Envelope::new([("service.name", "shop")].into_iter(), "offpath", "0");
            let mut points = Vec::new();
            let deltas = &mut self.deltas;
            self.measurements.export(&envelope, 4096, START + now, |request| {
                let decoded = ExportMetricsServiceRequest::decode(request.body.as_slice()).unwrap();
                let before = points.len();
                for metric in &decoded.resource_metrics[0].scope_metrics[0].metrics {
                    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
                    let unit = if metric.name.contains("records") { "{record}" } else { "{point}" };
                    assert!(sum.is_monotonic && metric.unit == unit, "{metric:?}");
                    assert_eq!(sum.aggregation_temporality, if request.delta.is_some() { 1 } else { 2 });
                    points.extend(sum.data_points.iter().map(|point| {
                        let [reason] = &point.attributes[..] else { panic!("{point:?}") };
                        assert_eq!(reason.key, "reason");
                        let Some(Value::StringValue(text)) = &reason.value.as_ref().unwrap().value else {
                            panic!("{point:?}")
                        };
                        let Some(number_data_point::Value::AsInt(count)) = point.value else {
                            panic!("{point:?}")
                        };
                        let (start, end) = (point.start_time_unix_nano, point.time_unix_nano);
                        (metric.name.clone(), text.clone(), start - START, end - START, count)
                    }));
                }
                assert_eq!((points.len() - before) as u64, request.points);
                deltas.extend(request.delta);
            });
            points
        }
    }

    fn records(reason: &str, start: u64, end: u64, count: i64) -> (String, String, u64, u64, i64) {
        ("offpath.records.dropped".to_owned(), reason.to_owned(), start, end, count)
    }

    #[test]
    fn each_reason_that_there_ever_was_has_a_point() {
        let mut fixture = Fixture::new("cumulative");
        assert_eq!(fixture.export(1), []);
        fixture.ledger.dropped(Reason::Expired, 3);
        fixture.ledger.dropped_for_another(Reason::VmLost, 5);
        fixture.ledger.add(Stat::PointsDropped(Reason::Rejected), 2);
        let points = ("offpath.metric_points.dropped".to_owned(), "rejected".to_owned(), 0, 2, 2);
        assert_eq!(fixture.export(2), [records("expired", 0, 2, 3), records("vm_lost", 0, 2, 5), points]);
        // Each export tells all of it again, whether or not there is more.
        fixture.ledger.dropped(Reason::Expired, 4);
        assert_eq!(fixture.export(3)[0], records("expired", 0, 3, 7));
        assert_eq!(fixture.export(4).len(), 3);
    }

    #[test]
    fn a_delta_tells_what_is_new_and_what_came_back() {
        let mut fixture = Fixture::new("delta");
        fixture.ledger.dropped(Reason::Expired, 3);
        assert_eq!(fixture.export(10), [records("expired", 0, 10, 3)]);
        assert_eq!(fixture.export(20), []);
        fixture.ledger.dropped(Reason::Expired, 4);
        fixture.ledger.dropped(Reason::Rejected, 1);
        fixture.measurements.absorb(fixture.deltas.pop().unwrap());
        // Only what came back begins earlier.
        assert_eq!(fixture.export(30), [records("rejected", 20, 30, 1), records("expired", 0, 30, 7)]);
        assert_eq!(fixture.export(40), []);
    }

    #[test]
    fn a_count_that_is_taken_back_does_not_fall() {
        for (temporality, expected) in [("cumulative", vec![records("expired", 0, 2, 3)]), ("delta", vec![])]
        {
            let mut fixture = Fixture::new(temporality);
            fixture.ledger.dropped(Reason::Expired, 3);
            fixture.export(1);
            // Another worker has counted the three as lost before they were told.
            fixture.ledger.lost();
            assert_eq!(fixture.ledger.records_dropped(Reason::Expired), 0);
            assert_eq!(fixture.export(2), expected, "{temporality}");
        }
    }

    #[test]
    fn only_dropped_records_are_news() {
        let mut fixture = Fixture::new("cumulative");
        fixture.ledger.add(Stat::PointsDropped(Reason::Expired), 1);
        assert!(!fixture.measurements.has_new_drops(&fixture.ledger));
        fixture.ledger.dropped(Reason::Expired, 1);
        assert!(fixture.measurements.has_new_drops(&fixture.ledger));
        fixture.export(1);
        assert!(!fixture.measurements.has_new_drops(&fixture.ledger));
    }
}
