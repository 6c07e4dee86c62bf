//! gRPC calls, whose status is in the trailers or, where there is no message, in the headers: HTTP says 200 either way.

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use serde_json::{Value, json};
use xtask::harness::{load, receiver::Receiver, wait};

use crate::{
    otlp_decoder::{attributes, list, log_records, metrics},
    proxy::{EVERYWHERE, Proxy, bootstrap},
};

/// A method, how it is answered, and what is told of it: the status, and whether it failed.
pub(crate) const CALLS: [(&str, &str, &str, bool); 6] = [
    ("/shop.Cart/Add", "grpc_trailers=0", "OK", false),
    ("/shop.Cart/Pay", "grpc_trailers=14", "UNAVAILABLE", true),
    ("/shop.Cart/List", "grpc_headers=0", "OK", false),
    ("/shop.Cart/Find", "grpc_headers=5", "NOT_FOUND", true),
    ("/shop.Cart/Odd", "grpc_headers=99", "UNKNOWN", true),
    // A server that says nothing has failed.
    ("/shop.Cart/Break", "grpc_trailers=", "UNKNOWN", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_is_an_error_wherever_its_status_is() {
    for (release, mode) in EVERYWHERE {
        let receiver = Receiver::start().await.unwrap();
        let keys = [
            ("metrics.interval", json!("1s")),
            ("batch.max_delay", json!("100ms")),
            // Failed ones are always kept, and the one that is not gRPC is left out.
            ("logs.sample_ratio", json!(0)),
            ("routes", json!([{"template": "/shop.Cart/{method}", "sample_ratio": 1}])),
        ];
        let bootstrap = bootstrap(release, mode, &keys).await.with_http2_application().unwrap();
        let proxy = Proxy::start(release, bootstrap, receiver.address()).await;
        let mut client = load::http2(proxy.address()).await.unwrap();
        let calls = CALLS.map(|(path, answer, ..)| (format!("{path}?{answer}"), "application/grpc"));
        let plain = ("/plain?grpc_trailers=14".to_owned(), "application/json");
        for (target, content_type) in calls.into_iter().chain([plain]) {
            let request = Request::post(format!("http://shop.example{target}"))
                .header("content-type", content_type)
                .header("te", "trailers")
                .body(Empty::new())
                .unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200, "{target}");
            response.into_body().collect().await.unwrap();
        }
        let series = wait::until("all records and points have arrived", async || {
            let series = series(&metrics(&receiver.calls(), proxy.folder()).await);
            let all = series.iter().map(|(_, count)| count).sum::<u64>() == CALLS.len() as u64 + 1;
            let delivered = proxy.accounting().await?.delivered == CALLS.len() as u64;
            Ok((all && delivered).then_some(series))
        })
        .await
        .unwrap();
        check_records(&log_records(&receiver.calls(), proxy.folder()).await);
        let told: Vec<_> = series.iter().map(|(error_type, count)| (error_type.as_str(), *count)).collect();
        assert_eq!(told, [("NOT_FOUND", 1), ("UNAVAILABLE", 1), ("UNKNOWN", 2), ("no gRPC", 1), ("none", 2)]);
    }
}

fn check_records(records: &[Value]) {
    assert_eq!(records.len(), CALLS.len());
    for record in records.iter().map(|record| &record["record"]) {
        let attributes = attributes(record);
        let text = |name: &str| attributes.get(name).and_then(|value| value["stringValue"].as_str());
        let path = text("url.path").unwrap();
        let (_, _, status, failed) = CALLS.iter().find(|call| call.0 == path).unwrap();
        assert_eq!(attributes["http.response.status_code"]["intValue"], "200", "{path}");
        assert_eq!(text("rpc.response.status_code"), Some(*status), "{path}");
        assert_eq!(text("rpc.system.name"), Some("grpc"), "{path}");
        assert_eq!(text("error.type"), failed.then_some(*status), "{path}");
        assert_eq!(record["severityText"], if *failed { "ERROR" } else { "INFO" }, "{path}");
    }
}

/// How many requests the newest points of all senders have, by their error.
fn series(metrics: &[Value]) -> Vec<(String, u64)> {
    let mut newest = std::collections::BTreeMap::new();
    for metric in metrics.iter().filter(|metric| metric["metric"]["name"] == "http.server.request.duration") {
        let sender = attributes(&metric["resource"])["service.instance.id"].to_string();
        newest.insert(sender, list(&metric["metric"]["exponentialHistogram"], "dataPoints"));
    }
    let mut by_error = std::collections::BTreeMap::new();
    for point in newest.into_values().flatten() {
        let attributes = attributes(point);
        let error = match attributes.get("rpc.system.name") {
            Some(_) => {
                attributes.get("error.type").map_or("none", |error| error["stringValue"].as_str().unwrap())
            }
            None => "no gRPC",
        };
        *by_error.entry(error.to_owned()).or_insert(0) +=
            point["count"].as_str().unwrap().parse::<u64>().unwrap();
    }
    by_error.into_iter().collect()
}
