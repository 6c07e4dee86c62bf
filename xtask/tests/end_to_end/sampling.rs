//! Which requests become records in real Envoy: exactly those that the configuration, the trace and the answer say.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::{common::v1::any_value::Value as Any, logs::v1::LogRecord};
use serde_json::json;
use xtask::harness::{envoy::Accounting, load, otlp, receiver::Receiver, wait};

use crate::proxy::{EVERYWHERE, Proxy, bootstrap};

const REQUESTS: u64 = 1000;
const RATIO: f64 = 0.1;

/// The last seven bytes of the nth request's trace id: spread evenly, and the same in every run.
fn randomness(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
}

/// Every seventh request fails, and every eleventh is a health check.
fn target(n: u64) -> String {
    match (n % 7, n % 11) {
        (0, _) => format!("/orders/{n}?status=503&n={n}"),
        (_, 0) => format!("/health?n={n}"),
        _ => format!("/orders/{n}?n={n}"),
    }
}

/// The weight of the nth request's record, if it has one.
fn expected(n: u64) -> Option<f64> {
    // Source: OpenTelemetry's specification, "TraceState: Probability Sampling".
    let threshold = ((1.0 - RATIO) * (1_u64 << 56) as f64) as u64;
    match (n % 7, n % 11) {
        (0, _) => Some(1.0),
        (_, 0) => None,
        _ => (randomness(n) >= threshold).then_some(1.0 / RATIO),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_kept_exactly_as_the_trace_and_the_answer_say_and_all_requests_are_accounted_for() {
    let kept: BTreeMap<u64, f64> = (0..REQUESTS).filter_map(|n| Some((n, expected(n)?))).collect();
    let delivered = kept.len() as u64;
    for (release, mode) in EVERYWHERE {
        let receiver = Receiver::start().await.unwrap();
        let keys = [
            ("logs.sample_ratio", json!(RATIO)),
            ("routes", json!(["/orders/{id}", {"template": "/health", "sample_ratio": 0}])),
            ("metrics.interval", json!("1s")),
            ("batch.max_delay", json!("100ms")),
        ];
        let proxy = Proxy::start(release, bootstrap(release, mode, &keys).await, receiver.address()).await;
        let statuses = load::keep_alive(proxy.address(), 4, REQUESTS, |n| {
            let mut request = load::get(&target(n))?;
            let traceparent = format!("00-4bf92f3577b34da6a3{:014x}-00f067aa0ba902b7-01", randomness(n));
            request.headers_mut().insert("traceparent", traceparent.parse()?);
            Ok(request)
        })
        .await
        .unwrap();
        assert_eq!(statuses.values().sum::<u64>(), REQUESTS);

        let settled = Accounting {
            captured: REQUESTS,
            sampled_out: REQUESTS - delivered,
            delivered,
            ..Accounting::default()
        };
        wait::until_equal("the plugin's accounting", &settled, async || proxy.accounting().await)
            .await
            .unwrap();
        let fallbacks = proxy.stats("offpath_capture_fallbacks_total").await.unwrap();
        assert_eq!(fallbacks.values().sum::<u64>(), 0, "{release:?} {mode:?}");

        let calls = receiver.calls();
        let records: Vec<LogRecord> = calls
            .iter()
            .filter(|call| call.path.ends_with("/v1/logs"))
            .flat_map(|call| otlp::log_records(call).unwrap())
            .collect();
        let weights: BTreeMap<u64, f64> =
            records.iter().map(|record| (number(record), weight(record))).collect();
        assert_eq!(weights, kept, "{release:?} {mode:?}");
        let routes: BTreeSet<_> =
            records.iter().map(|record| otlp::text(&record.attributes, "http.route")).collect();
        assert_eq!(routes, BTreeSet::from([Some("/orders/{id}")]));
        assert!(records.iter().all(|record| otlp::text(&record.attributes, "user_agent.original").is_some()));
    }
}

fn number(record: &LogRecord) -> u64 {
    let query = otlp::text(&record.attributes, "url.query").unwrap();
    query.rsplit_once("n=").unwrap().1.parse().unwrap()
}

fn weight(record: &LogRecord) -> f64 {
    let weight = record.attributes.iter().find(|attribute| attribute.key == "offpath.sample.weight").unwrap();
    match weight.value.as_ref().unwrap().value {
        Some(Any::DoubleValue(weight)) => weight,
        ref other => panic!("the weight is {other:?}"),
    }
}
