//! What becomes of records: each answer's meaning, and the identity after every step.

use offpath_host_test::{Answer, Proxy, get};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message as _;
use serde_json::json;

use crate::support::{assert_accounted_for, dropped, millis, proxy, secs};

/// Three records in a sealed batch whose call is under way.
fn three_records_under_way() -> Proxy {
    let mut proxy = proxy(json!({"batch": {"max_records": 3}, "metrics": {"enabled": false}}));
    for path in ["/1", "/2", "/3"] {
        proxy.request(get(path)).respond(200).unwrap();
        assert_accounted_for(&proxy);
    }
    assert_eq!(proxy.gauge("offpath_records_pending"), 3);
    assert_eq!(proxy.cluster("otlp").pending().len(), 1);
    proxy
}

fn partial(rejected: i64) -> Answer {
    let response = ExportLogsServiceResponse {
        partial_success: Some(ExportLogsPartialSuccess {
            rejected_log_records: rejected,
            error_message: "no room".into(),
        }),
    };
    Answer::status(200).with_body(response.encode_to_vec())
}

#[test]
fn an_answer_decides_what_becomes_of_a_batch() {
    let full = Answer::status(200).with_body(ExportLogsServiceResponse::default().encode_to_vec());
    // Answer, delivered, rejected, still pending.
    let cases = [
        (Answer::status(200), 3, 0, 0),
        (Answer::status(202), 3, 0, 0),
        (full, 3, 0, 0),
        (Answer::status(200).with_body("not protobuf \u{7f}"), 3, 0, 0),
        (partial(1), 2, 1, 0),
        (partial(3), 0, 3, 0),
        (partial(99), 0, 3, 0),
        (partial(-1), 3, 0, 0),
        (Answer::status(400), 0, 3, 0),
        (Answer::status(404), 0, 3, 0),
        (Answer::status(413), 0, 3, 0),
        (Answer::status(408), 0, 3, 0),
        (Answer::status(500), 0, 3, 0),
        (Answer::status(301), 0, 3, 0),
        (Answer::status(429), 0, 0, 3),
        (Answer::status(502), 0, 0, 3),
        (Answer::status(503), 0, 0, 3),
        (Answer::status(504), 0, 0, 3),
        (Answer::timeout(), 0, 0, 3),
        (Answer::connection_refused(), 0, 0, 3),
        (Answer::Reset, 0, 0, 3),
    ];
    for (answer, delivered, rejected, pending) in cases {
        let mut proxy = three_records_under_way();
        let held = proxy.gauge("offpath_queue_bytes");
        proxy.cluster("otlp").answer(answer.clone()).unwrap();
        assert_accounted_for(&proxy);
        let seen = (
            proxy.counter("offpath_records_delivered_total"),
            dropped(&proxy, "rejected"),
            proxy.gauge("offpath_records_pending"),
            proxy.gauge("offpath_queue_bytes"),
        );
        assert_eq!(seen, (delivered, rejected, pending, if pending > 0 { held } else { 0 }), "{answer:?}");
        // What is over is over: it is never sent again.
        proxy.advance(secs(2)).unwrap();
        assert_eq!(proxy.cluster("otlp").pending().len(), usize::from(pending > 0), "{answer:?}");
    }
}

#[test]
fn a_status_that_is_no_number_or_missing_is_no_delivery() {
    for answer in [
        Answer::status(200).header("x", "y"),
        Answer::Response {
            headers: [(":status", "2xx")].into_iter().collect(),
            body: Vec::new(),
            trailers: None,
        },
        Answer::Response { headers: [("x", "y")].into_iter().collect(), body: Vec::new(), trailers: None },
    ] {
        let is_ok = answer == Answer::status(200).header("x", "y");
        let mut proxy = three_records_under_way();
        proxy.cluster("otlp").answer(answer).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), if is_ok { 3 } else { 0 });
    }
}

#[test]
fn how_long_calls_took_is_in_the_proxys_histogram() {
    let mut proxy = three_records_under_way();
    proxy.advance(millis(70)).unwrap();
    proxy.cluster("otlp").answer(200).unwrap();
    assert_eq!(proxy.histogram("offpath_export_milliseconds"), [70]);
}

#[test]
fn the_identity_holds_over_workers_and_after_every_step() {
    let config = json!({"batch": {"max_records": 4, "max_delay": "100ms"}, "metrics": {"interval": "1s"}});
    let mut proxy = crate::support::builder(config).workers(3).start().unwrap();
    let answers = [Answer::status(200), Answer::status(503), Answer::Reset, partial(2), Answer::status(400)];
    for step in 0..200_usize {
        proxy.request(get(format!("/{step}"))).on_worker(step % 3).respond(200).unwrap();
        assert_accounted_for(&proxy);
        proxy.advance(millis(7)).unwrap();
        assert_accounted_for(&proxy);
        if step % 3 == 0 && !proxy.cluster("otlp").pending().is_empty() {
            proxy.cluster("otlp").answer(answers[step / 3 % answers.len()].clone()).unwrap();
            assert_accounted_for(&proxy);
        }
    }
    proxy.cluster("otlp").serve(200, millis(1));
    proxy.cluster("otlp").answer_all(200).unwrap();
    proxy.advance(secs(60)).unwrap();
    assert_accounted_for(&proxy);
    assert_eq!(proxy.counter("offpath_records_captured_total"), 200);
    assert_eq!(proxy.gauge("offpath_records_pending"), 0);
    assert_eq!(proxy.gauge("offpath_queue_bytes"), 0);
}
