//! The parts together: what leaves when, under which name, and that every record has one end.

use super::*;
use crate::testing::{Told, config};

pub(super) const NOW: u64 = 1_700_000_000_000_000_000;
pub(super) const MS: u64 = 1_000_000;
pub(super) const OK: Answer<'_> = Answer { status: Some(200), retry_after: b"", body: b"" };

pub(super) fn pipeline(sections: &str) -> Pipeline {
    Pipeline::new(config(sections), &Node::default(), [7; 16], NOW).unwrap()
}

pub(super) fn observe(pipeline: &mut Pipeline, now: u64) {
    let captured = Told::ordinary().captured(pipeline.plan());
    let kept = pipeline.judge(&captured, now);
    pipeline.observe(captured, kept, now);
}

/// Sends all that may be sent, under the tokens from `first_token` on; returns the paths and batch names.
fn send(pipeline: &mut Pipeline, first_token: u32) -> Vec<(String, String)> {
    let mut calls = Vec::new();
    while let Some(batch) = pipeline.take_next(NOW) {
        let headers = pipeline.call_headers(&batch);
        let header = |name: &str| headers.iter().find(|header| header.0 == name).unwrap().1.clone();
        calls.push((header(":path"), header("x-offpath-batch")));
        pipeline.dispatched(batch, first_token + calls.len() as u32 - 1, NOW);
    }
    calls
}

#[test]
fn a_pipeline_without_data_sends_nothing() {
    let mut pipeline = pipeline("");
    for second in 0..3600 {
        pipeline.tick(NOW + second * 1000 * MS);
        assert!(pipeline.take_next(NOW).is_none());
    }
    pipeline.drain(NOW);
    assert!(pipeline.take_next(NOW).is_none() && pipeline.is_drained());
}

#[test]
fn logs_leave_when_old_enough_and_metrics_when_due_under_one_sequence() {
    let mut pipeline = pipeline(r#""metrics":{"interval":"2s"}"#);
    observe(&mut pipeline, NOW);
    pipeline.tick(NOW + 500 * MS);
    assert!(send(&mut pipeline, 1).is_empty());
    pipeline.tick(NOW + 751 * MS);
    let id = "07070707-0707-4707-8707-070707070707";
    assert_eq!(send(&mut pipeline, 1), [("/v1/logs".to_owned(), format!("{id}-1"))]);
    pipeline.tick(NOW + 2000 * MS);
    assert_eq!(send(&mut pipeline, 2), [("/v1/metrics".to_owned(), format!("{id}-2"))]);
    pipeline.answered(1, OK, NOW);
    pipeline.answered(2, OK, NOW);
    pipeline.tick(NOW + 2500 * MS);
    assert!(send(&mut pipeline, 3).is_empty(), "not due again");
    // After a machine's sleep one export is made, not a thousand.
    pipeline.tick(NOW + 2_000_000 * MS);
    assert_eq!(send(&mut pipeline, 3).len(), 1);
    pipeline.tick(NOW + 2_000_001 * MS);
    assert!(send(&mut pipeline, 4).is_empty());
}

#[test]
fn calls_carry_the_contracts_headers() {
    let config = Config::parse(
        br#"{"collector":{"cluster":"c","authority":"a","path_prefix":"/otlp","headers":{"Authorization":"Bearer t"}},
             "batch":{"max_records":1}}"#,
    );
    let mut pipeline = Pipeline::new(config.unwrap(), &Node::default(), [0; 16], NOW).unwrap();
    observe(&mut pipeline, NOW);
    let batch = pipeline.take_next(NOW).unwrap();
    let headers: Vec<_> =
        pipeline.call_headers(&batch).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(
        headers,
        [
            ":method: POST",
            ":path: /otlp/v1/logs",
            ":authority: a",
            "content-type: application/x-protobuf",
            &format!("user-agent: OTel-OTLP-Exporter-offpath/{VERSION}"),
            "x-offpath-batch: 00000000-0000-4000-8000-000000000000-1",
            "authorization: Bearer t",
        ]
    );
}

#[test]
fn disabled_signals_are_neither_captured_nor_sent() {
    let mut pipeline = pipeline(r#""logs":{"enabled":false},"metrics":{"enabled":false}"#);
    observe(&mut pipeline, NOW);
    pipeline.drain(NOW);
    assert!(pipeline.take_next(NOW).is_none() && pipeline.is_drained());
    assert_eq!(pipeline.ledger().get(Stat::RecordsCaptured), 0);
}

#[test]
fn what_is_not_kept_is_counted_and_measured() {
    for (sampling, stat) in [
        (r#""sample_ratio":0"#, Stat::RecordsSampledOut),
        (r#""max_records_per_second":1"#, Stat::RecordsDropped(Reason::RateLimited)),
    ] {
        let mut pipeline = pipeline(&format!(r#""logs":{{{sampling}}},"metrics":{{"interval":"1s"}}"#));
        (0..3).for_each(|_| observe(&mut pipeline, NOW));
        let kept = pipeline.ledger().get(Stat::RecordsPending);
        assert_eq!(pipeline.ledger().get(stat), 3 - kept, "{sampling}");
        assert_eq!(pipeline.ledger().get(Stat::RecordsCaptured), 3, "{sampling}");
        pipeline.tick(NOW + 1000 * MS);
        let metrics = std::iter::from_fn(|| pipeline.take_next(NOW)).last().unwrap();
        assert_eq!(points(&metrics.body), [(3, NOW)], "{sampling}");
    }
}

#[test]
fn routes_that_contradict_each_other_are_rejected() {
    let config = config(r#""routes":["/a/{b}","/a/{c}"]"#);
    let error = Pipeline::new(config, &Node::default(), [0; 16], NOW).unwrap_err().to_string();
    assert!(error.contains("`routes[1]`"), "{error}");
}

#[test]
fn a_drain_sends_everything_and_then_is_done() {
    let mut pipeline = pipeline("");
    observe(&mut pipeline, NOW);
    pipeline.drain(NOW);
    let calls = send(&mut pipeline, 1);
    assert_eq!(calls.iter().map(|call| call.0.as_str()).collect::<Vec<_>>(), ["/v1/logs", "/v1/metrics"]);
    assert!(!pipeline.is_drained());
    pipeline.answered(1, OK, NOW);
    assert!(!pipeline.is_drained());
    // A stream of the old configuration ends late.
    observe(&mut pipeline, NOW);
    pipeline.answered(2, OK, NOW);
    assert!(!pipeline.is_drained());
    pipeline.tick(NOW);
    assert_eq!(send(&mut pipeline, 3).len(), 2);
    pipeline.answered(3, OK, NOW);
    pipeline.answered(4, OK, NOW);
    assert!(pipeline.is_drained());
    assert_eq!(pipeline.ledger().get(Stat::RecordsDelivered), 2);
}

#[test]
fn a_clock_that_was_set_back_delays_nothing_for_long() {
    const HOUR: u64 = 3600 * 1000 * MS;
    let mut pipeline = pipeline(r#""metrics":{"interval":"2s"}"#);
    observe(&mut pipeline, NOW);
    pipeline.tick(NOW - HOUR);
    assert_eq!(send(&mut pipeline, 1).len(), 1, "the record");
    pipeline.tick(NOW - HOUR + 2000 * MS);
    assert_eq!(send(&mut pipeline, 2).len(), 1, "the histograms");
}

#[test]
fn the_smallest_batch_and_record_that_the_ranges_allow_are_taken() {
    let sections = r#""logs":{"max_record_bytes":512},"batch":{"max_bytes":512,"max_records":1}"#;
    let mut pipeline = pipeline(sections);
    observe(&mut pipeline, NOW);
    assert!(pipeline.take_next(NOW).unwrap().body.len() <= 512);
}

#[test]
fn a_resource_that_leaves_no_room_for_a_record_is_rejected() {
    let sections = |len: usize| {
        format!(
            r#""resource":{{"k":"{}"}},"logs":{{"max_record_bytes":512}},"batch":{{"max_bytes":2048}}"#,
            "x".repeat(len)
        )
    };
    assert!(Pipeline::new(config(&sections(1000)), &Node::default(), [0; 16], NOW).is_ok());
    let error =
        Pipeline::new(config(&sections(1800)), &Node::default(), [0; 16], NOW).unwrap_err().to_string();
    assert!(error.contains("`resource`") && error.contains("2048"), "{error}");
}

#[test]
fn a_delta_that_was_refused_is_in_the_next_export() {
    let mut pipeline =
        pipeline(r#""logs":{"enabled":false},"metrics":{"temporality":"delta","interval":"1s"}"#);
    observe(&mut pipeline, NOW);
    pipeline.tick(NOW + 1000 * MS);
    let first = pipeline.take_next(NOW).unwrap();
    assert_eq!(points(&first.body), [(1, NOW)]);
    pipeline.dispatched(first, 1, NOW);
    pipeline.answered(1, Answer { status: Some(400), ..OK }, NOW);
    observe(&mut pipeline, NOW + 1500 * MS);
    pipeline.tick(NOW + 2000 * MS);
    assert_eq!(points(&pipeline.take_next(NOW).unwrap().body), [(2, NOW)]);
}

#[test]
fn drops_leave_with_the_histograms_and_where_there_are_none_left_with_the_drain() {
    let mut pipeline = pipeline(r#""metrics":{"interval":"1s"},"batch":{"max_records":1}"#);
    observe(&mut pipeline, NOW);
    assert_eq!(send(&mut pipeline, 1).len(), 1);
    pipeline.answered(1, Answer { status: Some(400), ..OK }, NOW);
    pipeline.tick(NOW + 1000 * MS);
    assert_eq!(dropped(&pipeline.take_next(NOW).unwrap().body), [("rejected".to_owned(), 1)]);

    observe(&mut pipeline, NOW + 1000 * MS);
    assert_eq!(send(&mut pipeline, 2).len(), 1);
    pipeline.drain(NOW + 1000 * MS);
    assert_eq!(send(&mut pipeline, 3).len(), 1, "the histograms");
    pipeline.answered(3, OK, NOW);
    pipeline.answered(2, Answer { status: Some(400), ..OK }, NOW);
    assert!(!pipeline.is_drained(), "nobody has been told yet");
    pipeline.tick(NOW + 1000 * MS);
    let last = pipeline.take_next(NOW).unwrap();
    assert_eq!(dropped(&last.body), [("rejected".to_owned(), 2)]);
    // What becomes of it is not told: a drain has an end.
    pipeline.dispatched(last, 4, NOW);
    pipeline.answered(4, Answer { status: Some(400), ..OK }, NOW);
    assert!(pipeline.is_drained());
}

#[test]
fn without_metrics_no_drops_are_exported() {
    let mut pipeline = pipeline(r#""metrics":{"enabled":false},"batch":{"max_records":1}"#);
    observe(&mut pipeline, NOW);
    assert_eq!(send(&mut pipeline, 1).len(), 1);
    pipeline.answered(1, Answer { status: Some(400), ..OK }, NOW);
    pipeline.tick(NOW + 60_000 * MS);
    pipeline.drain(NOW + 60_000 * MS);
    assert!(pipeline.take_next(NOW).is_none() && pipeline.is_drained());
}

#[test]
fn a_pipeline_may_be_handed_from_thread_to_thread() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&pipeline(""));
}

/// Reason and count of each point of `offpath.records.dropped`.
fn dropped(body: &[u8]) -> Vec<(String, i64)> {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
    use prost::Message;
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let metrics = request.resource_metrics[0].scope_metrics[0].metrics.iter();
    let sums = metrics.filter_map(|metric| match metric.data.as_ref().unwrap() {
        Data::Sum(sum) if metric.name == "offpath.records.dropped" => Some(sum.data_points.clone()),
        _ => None,
    });
    let told = sums.flatten().map(|point| {
        let reason = point.attributes[0].value.as_ref().unwrap().value.clone();
        match (reason, point.value) {
            (Some(Value::StringValue(reason)), Some(number_data_point::Value::AsInt(count))) => {
                (reason, count)
            }
            other => panic!("{other:?}"),
        }
    });
    told.collect()
}

/// Count and start time of each data point of a histogram.
pub(super) fn points(body: &[u8]) -> Vec<(u64, u64)> {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use prost::Message;
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let points = metrics.iter().flat_map(|metric| match metric.data.as_ref().unwrap() {
        Data::ExponentialHistogram(histogram) => histogram.data_points.clone(),
        _ => Vec::new(),
    });
    points.map(|point| (point.count, point.start_time_unix_nano)).collect()
}
