//! What waits to be worked on: for how long, in which order, as part of which batch, and what becomes of it when all ends.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use super::tests::{MS, NOW, OK, observe, pipeline, points};
use super::*;
use crate::testing::Told;

/// A request with these values instead of ordinary ones.
fn observe_told(pipeline: &mut Pipeline, told: &Told, now: u64) {
    let captured = told.captured(pipeline.plan());
    let kept = pipeline.judge(&captured, now);
    pipeline.observe(captured, kept, now);
}

fn log_records(body: &[u8]) -> Vec<LogRecord> {
    let mut request = ExportLogsServiceRequest::decode(body).unwrap();
    request.resource_logs.remove(0).scope_logs.remove(0).log_records
}

#[test]
fn requests_are_worked_on_sixteen_at_a_time_or_with_the_next_tick() {
    let mut pipeline = pipeline("");
    for (requests, encoded) in [(1, 0), (14, 0), (1, 16), (15, 16), (1, 32), (3, 32)] {
        (0..requests).for_each(|_| observe(&mut pipeline, NOW));
        assert_eq!(pipeline.batcher.records(), encoded);
        assert_eq!(pipeline.has_new_measurements, encoded > 0, "measured when they are encoded");
    }
    assert_eq!(pipeline.ledger().get(Stat::RecordsPending), 35, "whatever was done with them yet");
    pipeline.tick(NOW + 250 * MS);
    assert_eq!(pipeline.batcher.records(), 35);
    observe(&mut pipeline, NOW + 250 * MS);
    pipeline.drain(NOW + 250 * MS);
    assert_eq!(pipeline.take_next(NOW).unwrap().items, 36);
}

#[test]
fn large_requests_are_worked_on_before_there_are_sixteen() {
    let path = format!("/{}", "x".repeat(20_000));
    let mut pipeline = pipeline("");
    for encoded in [0, 0, 0, 4, 4] {
        observe_told(&mut pipeline, &Told::ordinary().text("request.path", &path), NOW);
        assert_eq!(pipeline.batcher.records(), encoded);
    }
}

#[test]
fn a_batch_is_sealed_by_its_last_record_however_many_make_one() {
    for max_records in [1, 2, 15, 16, 17, 31, 33, 100] {
        let mut pipeline =
            pipeline(&format!(r#""metrics":{{"enabled":false}},"batch":{{"max_records":{max_records}}}"#));
        for request in 1..=3 * max_records {
            observe(&mut pipeline, NOW);
            let sealed = pipeline.take_next(NOW);
            let is_last = request % max_records == 0;
            assert_eq!(sealed.as_ref().map(|batch| batch.items), is_last.then_some(max_records), "{request}");
            if let Some(batch) = sealed {
                pipeline.dispatched(batch, 1, NOW);
                pipeline.answered(1, OK, NOW);
            }
        }
        assert_eq!(pipeline.ledger().get(Stat::RecordsDelivered), 3 * max_records as i64);
    }
}

#[test]
fn requests_that_are_left_out_wait_too_and_are_no_part_of_a_batch() {
    let mut pipeline = pipeline(r#""logs":{"sample_ratio":0},"batch":{"max_records":3}"#);
    let failed = Told::ordinary().int("response.code", 503);
    for failed_before in 0..3 {
        assert_eq!(pipeline.backlog.records(), failed_before);
        (0..4).for_each(|_| observe(&mut pipeline, NOW));
        assert!(!pipeline.has_new_measurements && pipeline.take_next(NOW).is_none());
        observe_told(&mut pipeline, &failed, NOW);
    }
    assert!(pipeline.has_new_measurements && pipeline.backlog.is_empty());
    assert_eq!(pipeline.take_next(NOW).unwrap().items, 3);
    for is_measured in [false, true] {
        pipeline.has_new_measurements = false;
        (0..if is_measured { 1 } else { 15 }).for_each(|_| observe(&mut pipeline, NOW));
        assert_eq!(pipeline.has_new_measurements, is_measured);
    }
    assert_eq!(pipeline.ledger().get(Stat::RecordsSampledOut), 28);
}

#[test]
fn a_request_that_nobody_counts_does_not_wait() {
    let mut pipeline = pipeline(r#""logs":{"sample_ratio":0},"metrics":{"enabled":false}"#);
    observe(&mut pipeline, NOW);
    assert!(pipeline.backlog.is_empty());
    assert_eq!(pipeline.ledger().get(Stat::RecordsSampledOut), 1);
}

#[test]
fn a_record_is_as_old_as_its_request_however_long_that_has_waited() {
    // The next look is a quarter of a second later: up to three quarters a batch may be left open, and no longer.
    for (ended, is_sealed) in [(0, true), (100, true), (101, false), (850, false)] {
        let mut pipeline = pipeline(r#""metrics":{"enabled":false}"#);
        observe(&mut pipeline, NOW + ended * MS);
        observe(&mut pipeline, NOW + 851 * MS);
        pipeline.tick(NOW + 851 * MS);
        let sealed = pipeline.take_next(NOW);
        assert_eq!(sealed.is_some(), is_sealed, "{ended} ms");
        pipeline.drain(NOW + 999 * MS);
        let batch = sealed.or_else(|| pipeline.take_next(NOW)).unwrap();
        let records = log_records(&batch.body);
        let observed: Vec<_> = records.iter().map(|record| record.observed_time_unix_nano).collect();
        assert_eq!(observed, [NOW + ended * MS, NOW + 851 * MS]);
    }
}

#[test]
fn requests_that_are_worked_on_together_keep_what_was_decided_on_each_and_have_their_routes() {
    let routes = r#"["/orders/{id}",{"template":"/carts/{id}","sample_ratio":0.5}]"#;
    let mut pipeline = pipeline(&format!(r#""metrics":{{"enabled":false}},"routes":{routes}"#));
    // The last digit of the trace's id decides: the highest one is in any share.
    let traceparent = format!("00-{}-00f067aa0ba902b7-01", "f".repeat(32));
    for path in ["/carts/1", "/orders/2", "/carts/3", "/"] {
        let told = Told::ordinary().text("request.headers.traceparent", &traceparent);
        observe_told(&mut pipeline, &told.text("request.path", path), NOW);
    }
    pipeline.drain(NOW);
    let body = pipeline.take_next(NOW).unwrap().body;
    let told: Vec<_> = log_records(&body)
        .iter()
        .map(|record| {
            let attribute = |key: &str| {
                let attribute = record.attributes.iter().find(|attribute| attribute.key == key);
                attribute.map(|attribute| {
                    format!("{:?}", attribute.value.as_ref().unwrap().value.as_ref().unwrap())
                })
            };
            (attribute("http.route"), attribute("offpath.sample.weight").unwrap())
        })
        .collect();
    let [carts, orders] =
        ["/carts/{id}", "/orders/{id}"].map(|route| Some(format!("StringValue({route:?})")));
    let [one, two] = ["1.0", "2.0"].map(|weight| format!("DoubleValue({weight})"));
    assert_eq!(told, [(carts.clone(), two.clone()), (orders, one.clone()), (carts, two), (None, one)]);
}

#[test]
fn what_waits_when_all_is_abandoned_is_lost_to_the_shutdown() {
    let mut pipeline = pipeline(r#""logs":{"sample_ratio":0},"batch":{"max_records":20}"#);
    let failed = Told::ordinary().int("response.code", 503);
    // Twenty are sealed, three are in the open batch, five wait, as do two without a record.
    for requests in [20, 3, 5] {
        pipeline.tick(NOW);
        (0..requests).for_each(|_| observe_told(&mut pipeline, &failed, NOW));
    }
    (0..2).for_each(|_| observe(&mut pipeline, NOW));
    assert_eq!((pipeline.batcher.records(), pipeline.backlog.records()), (3, 5));
    pipeline.abandon();
    assert_eq!(pipeline.ledger().get(Stat::RecordsDropped(Reason::Shutdown)), 28);
    assert_eq!(pipeline.ledger().get(Stat::RecordsPending), 0);
}

#[test]
fn what_waits_when_all_is_forgotten_is_measured_and_no_record() {
    let mut pipeline = pipeline(r#""metrics":{"interval":"1s"}"#);
    (0..5).for_each(|_| observe(&mut pipeline, NOW));
    pipeline.forget();
    assert_eq!(pipeline.ledger().get(Stat::RecordsPending), 0);
    observe(&mut pipeline, NOW);
    assert_eq!(pipeline.ledger().get(Stat::RecordsPending), 1);
    pipeline.tick(NOW + 1000 * MS);
    let batches: Vec<_> = std::iter::from_fn(|| pipeline.take_next(NOW)).collect();
    assert_eq!(batches[0].items, 1, "the record since then");
    assert_eq!(points(&batches[1].body), [(6, NOW)]);
    assert_eq!(batches.len(), 2);
}
