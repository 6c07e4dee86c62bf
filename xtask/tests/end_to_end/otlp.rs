//! What goes over the wire, read by a decoder that is not ours.

use std::{collections::BTreeMap, time::SystemTime};

use hyper::header;
use serde_json::{Value, json};
use xtask::{
    fetch::Release,
    harness::{
        bootstrap::Mode,
        load,
        receiver::{Call, Receiver},
        wait,
    },
};

use crate::{
    otlp_decoder::{attributes, list, log_records, metrics},
    proxy::{EVERYWHERE, Proxy, bootstrap},
};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN_ID: &str = "b7ad6b7169203331";

/// Each target, and how often it is asked for.
const TARGETS: [(&str, u64); 3] =
    [("/orders/7?token=hunter2&n=1", 20), ("/orders/8?status=404", 12), ("/reports/daily?status=503", 8)];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_sends_is_otlp_with_the_names_of_the_semantic_conventions() {
    for (release, mode) in EVERYWHERE {
        let receiver = Receiver::start().await.unwrap();
        let quick = [("metrics.interval", json!("1s")), ("batch.max_delay", json!("100ms"))];
        let proxy = Proxy::start(release, bootstrap(release, mode, &quick).await, receiver.address()).await;
        let begin = unix_nanos();
        send(&proxy).await;
        wait::until("all records and points have arrived", async || {
            let metrics = metrics(&receiver.calls(), proxy.folder()).await;
            Ok((proxy.accounting().await?.delivered == total() && latest_count(&metrics) == total())
                .then_some(()))
        })
        .await
        .unwrap();

        let calls = receiver.calls();
        calls.iter().for_each(|call| check_call(call, release));
        let compressed = calls.iter().any(|call| call.header("content-encoding") == Some("gzip"));
        assert_eq!(compressed, release.compresses_upstream_requests);
        check_batch_ids_are_unique(&calls);
        let records = log_records(&calls, proxy.folder()).await;
        assert_eq!(records.len() as u64, total());
        for record in &records {
            check_record(record, begin, mode);
        }
        check_senders(&calls, &records, mode);
        let metrics = metrics(&calls, proxy.folder()).await;
        check_histograms(&metrics);
        check_exemplars(&metrics, begin);
    }
}

fn total() -> u64 {
    TARGETS.iter().map(|(_, count)| count).sum()
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

async fn send(proxy: &Proxy) {
    for (target, count) in TARGETS {
        load::keep_alive(proxy.address(), 4, count, move |_| {
            let mut request = load::get(target)?;
            request.headers_mut().insert("traceparent", format!("00-{TRACE_ID}-{SPAN_ID}-01").parse()?);
            request.headers_mut().insert(header::AUTHORIZATION, "Bearer hunter2".parse()?);
            Ok(request)
        })
        .await
        .unwrap();
    }
}

fn check_call(call: &Call, release: Release) {
    assert_eq!(call.header("content-type"), Some("application/x-protobuf"), "{call:?}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(call.header("user-agent"), Some(format!("OTel-OTLP-Exporter-offpath/{version}").as_str()));
    match call.header("content-encoding") {
        Some(encoding) => assert_eq!(encoding, "gzip"),
        // Too small to be worth it, as the shipped configuration has it.
        None if release.compresses_upstream_requests => assert!(call.body.len() < 512, "{call:?}"),
        None => {}
    }
}

fn check_batch_ids_are_unique(calls: &[Call]) {
    let mut ids: Vec<&str> = calls.iter().map(|call| call.header("x-offpath-batch").unwrap()).collect();
    ids.sort_unstable();
    let sent = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), sent, "nothing was sent twice here, so no id comes twice");
}

/// The uuid of the batch ids is the instance that records and points name.
fn check_senders(calls: &[Call], records: &[Value], mode: Mode) {
    let senders: Vec<&str> = calls
        .iter()
        .map(|call| call.header("x-offpath-batch").unwrap().rsplit_once('-').unwrap().0)
        .collect();
    for record in records {
        let resource = attributes(&record["resource"]);
        let instance = resource["service.instance.id"]["stringValue"].as_str().unwrap();
        assert!(senders.contains(&instance), "{instance} is none of {senders:?}");
        assert_eq!(resource["service.name"], json!({"stringValue": "edge"}));
        // A dynamic module is not told.
        let node_id = (mode != Mode::DynamicModule).then(|| json!({"stringValue": "edge-1"}));
        assert_eq!(resource.get("envoy.node.id").cloned(), node_id);
    }
}

fn check_record(record: &Value, begin: u64, mode: Mode) {
    let record = &record["record"];
    let attributes = attributes(record);
    let text = |name: &str| attributes.get(name).and_then(|value| value["stringValue"].as_str());
    let integer =
        |name: &str| attributes.get(name).and_then(|value| value["intValue"].as_str()?.parse::<u64>().ok());

    let time: u64 = record["timeUnixNano"].as_str().unwrap().parse().unwrap();
    assert!((begin..unix_nanos()).contains(&time), "not the request's start: {time}");
    assert_eq!(record["traceId"], TRACE_ID);
    assert_eq!(record["spanId"], SPAN_ID);
    assert_eq!(record["eventName"], "http.server.request");

    let status = integer("http.response.status_code").unwrap();
    let (severity, path, query, route) = match status {
        200 => ("INFO", "/orders/7", "token=REDACTED&n=1", "orders"),
        404 => ("WARN", "/orders/8", "status=404", "orders"),
        503 => ("ERROR", "/reports/daily", "status=503", "reports"),
        other => panic!("nobody asked for a {other}"),
    };
    assert_eq!(record["severityText"], severity);
    assert_eq!(record["severityNumber"], format!("SEVERITY_NUMBER_{severity}"));
    let body = record["body"]["stringValue"].as_str().unwrap();
    assert!(body.starts_with(&format!("GET {path} {status} ")), "{body}");

    for (name, expected) in [
        ("http.request.method", "GET"),
        ("url.path", path),
        ("url.query", query),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "offpath-load/1"),
        ("envoy.upstream.cluster", "app"),
        ("envoy.route.name", route),
        ("envoy.response.code_details", "via_upstream"),
    ] {
        assert_eq!(text(name), Some(expected), "{name} ({mode:?})");
    }
    assert!(text("envoy.request.id").is_some_and(|id| !id.is_empty()));
    assert!(text("envoy.upstream.address").is_some_and(|address| address.starts_with("127.0.0.1:")));
    assert_eq!(text("error.type"), (status == 503).then_some("503"));
    // Head and body, as the conventions define it; the body alone is 12 bytes.
    assert!(integer("http.response.size").is_some_and(|bytes| bytes > 12));
    let seconds = attributes["http.server.request.duration"]["doubleValue"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&seconds), "{seconds}");

    let whole = record.to_string();
    assert!(!whole.contains("hunter2"), "a secret: {whole}");
    assert!(!attributes.keys().any(|name| name.contains("authorization")), "nobody listed it: {whole}");
}

/// Requests in the last export of each sender.
fn latest_count(metrics: &[Value]) -> u64 {
    latest_points(metrics).iter().map(|point| count(&point["count"])).sum()
}

/// Cumulative: what a sender said last is all that it has seen.
fn latest_points(metrics: &[Value]) -> Vec<&Value> {
    let mut by_sender = BTreeMap::new();
    for metric in metrics.iter().filter(|metric| metric["metric"]["name"] == "http.server.request.duration") {
        let points = list(&metric["metric"]["exponentialHistogram"], "dataPoints");
        let sender = attributes(&metric["resource"])["service.instance.id"].to_string();
        by_sender.insert(sender, points);
    }
    by_sender.into_values().flatten().collect()
}

/// Over all its exports, what each series has for exemplars: requests of ours, the slowest of all among them.
fn check_exemplars(metrics: &[Value], begin: u64) {
    // By sender and attributes: the slowest exemplar, and the slowest request, which a cumulative point keeps.
    let mut slowest = BTreeMap::new();
    for metric in metrics.iter().filter(|metric| metric["metric"]["name"] == "http.server.request.duration") {
        let sender = attributes(&metric["resource"])["service.instance.id"].to_string();
        for point in list(&metric["metric"]["exponentialHistogram"], "dataPoints") {
            let (exemplar_max, max) =
                slowest.entry((sender.clone(), point["attributes"].to_string())).or_insert((0.0_f64, 0.0));
            *max = point["max"].as_f64().unwrap();
            assert!(list(point, "exemplars").len() <= 8, "{point}");
            for exemplar in list(point, "exemplars") {
                assert_eq!((&exemplar["traceId"], &exemplar["spanId"]), (&json!(TRACE_ID), &json!(SPAN_ID)));
                let time = count(&exemplar["timeUnixNano"]);
                assert!((begin..=count(&point["timeUnixNano"])).contains(&time), "{point}");
                *exemplar_max = exemplar_max.max(exemplar["asDouble"].as_f64().unwrap());
            }
        }
    }
    assert!(!slowest.is_empty());
    for (series, (exemplar_max, max)) in slowest {
        assert!((exemplar_max - max).abs() < 1e-12, "{series:?}: {exemplar_max} s, not {max} s");
    }
}

/// A 64-bit integer, which the JSON mapping writes as a string, and leaves out when it is 0.
fn count(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

fn check_histograms(metrics: &[Value]) {
    for metric in metrics.iter().filter(|metric| metric["metric"]["name"] == "http.server.request.duration") {
        assert_eq!(metric["metric"]["unit"], "s");
        let histogram = &metric["metric"]["exponentialHistogram"];
        assert_eq!(histogram["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
    }
    let mut by_status = BTreeMap::new();
    for point in latest_points(metrics) {
        let buckets: u64 = list(&point["positive"], "bucketCounts").iter().map(count).sum();
        assert_eq!(buckets + count(&point["zeroCount"]), count(&point["count"]), "{point}");
        assert!(point["sum"].as_f64().is_some_and(|sum| sum > 0.0), "{point}");
        let attributes = attributes(point);
        assert_eq!(attributes["http.request.method"], json!({"stringValue": "GET"}));
        assert_eq!(attributes["url.scheme"], json!({"stringValue": "http"}));
        assert_eq!(attributes["network.protocol.version"], json!({"stringValue": "1.1"}));
        assert_eq!(attributes["envoy.upstream.cluster"], json!({"stringValue": "app"}));
        assert!(attributes.contains_key("envoy.route.name"), "{point}");
        let status = attributes["http.response.status_code"]["intValue"].as_str().unwrap().to_owned();
        *by_status.entry(status).or_insert(0) += count(&point["count"]);
    }
    assert_eq!(
        by_status,
        BTreeMap::from([("200".to_owned(), 20), ("404".to_owned(), 12), ("503".to_owned(), 8)])
    );
}
