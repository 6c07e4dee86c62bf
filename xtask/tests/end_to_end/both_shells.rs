//! The wasm plugin and the dynamic module in the same Envoy, on the same requests: what they make of each is equal, field by field.

use std::{collections::BTreeMap, path::Path};

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    metrics::v1::metric::Data,
};
use prost::Message as _;
use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode},
    load, otlp,
    receiver::{Call, Receiver},
    wait,
};

use crate::{
    grpc::CALLS,
    hostile::{closing, finished, hostile, send_all},
    proxy::{ENVOY_1_40, Proxy, bootstrap, folder},
};

/// The names by which each shell is known to the receiver.
const SHELLS: [&str; 2] = ["wasm", "native"];

/// All that both can be told, but for the name. What depends on chance (which requests without a trace are kept) is left out.
fn keys(shell: &str, more: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        // The module does not know the node's.
        ("resource", json!({"service.name": shell, "envoy.node.id": "edge-1"})),
        ("batch.max_delay", json!("100ms")),
        ("metrics.interval", json!("1s")),
        ("metrics.histograms", json!(["duration", "upstream", "proxy"])),
        (
            "logs.request_headers",
            json!(["x-bytes", "x-many-7", "x-listed", "host", "authorization", "referer"]),
        ),
        ("logs.response_headers", json!(["x-listed", "content-type", "server", "set-cookie"])),
    ];
    keys.extend(more.iter().cloned());
    keys
}

/// The module as it ships, and the plugin as it ships beside it.
async fn both(more: &[(&'static str, Value)], native_log: &Path) -> Bootstrap {
    let manager = |of: &mut Bootstrap| of.at(HTTP_CONNECTION_MANAGER).unwrap().clone();
    let [wasm, native] = SHELLS;
    let plugin = manager(&mut bootstrap(ENVOY_1_40, Mode::AccessLogger, &keys(wasm, more)).await);
    let mut both = bootstrap(ENVOY_1_40, Mode::DynamicModule, &keys(native, more)).await;
    let loggers = both.at(&format!("{HTTP_CONNECTION_MANAGER}/access_log")).unwrap();
    loggers.as_array_mut().unwrap().push(plugin["access_log"][0].clone());
    let mut both = hostile(both, native_log).unwrap();
    let routes = both.at(&format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes")).unwrap();
    let add = |value: &str| json!({"header": {"key": "x-listed", "value": value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"});
    routes.as_array_mut().unwrap().extend([
        json!({
            "name": "retried",
            "match": {"path": "/retried"},
            "route": {"cluster": "app", "retry_policy": {"retry_on": "5xx", "num_retries": 2}},
            "response_headers_to_add": [add("first"), add("second, third"), add("")],
        }),
        json!({"match": {"path": "/nobody"}, "route": {"cluster": "nobody"}}),
        json!({"match": {"path": "/unknown"}, "route": {"cluster": "unknown"}}),
        json!({"match": {"path": "/late"}, "route": {"cluster": "app", "timeout": "0.05s"}}),
        json!({"match": {"prefix": "/shop.Cart"}, "route": {"cluster": "app"}}),
    ]);
    both.at(&format!("{HTTP_CONNECTION_MANAGER}/route_config")).unwrap()["validate_clusters"] = json!(false);
    // The client says where it comes from: an address of either family.
    both.at(HTTP_CONNECTION_MANAGER).unwrap()["xff_num_trusted_hops"] = json!(1);
    let nobody = json!({"name": "nobody", "load_assignment": {"cluster_name": "nobody"}});
    both.at("/static_resources/clusters").unwrap().as_array_mut().unwrap().push(nobody);
    both
}

/// How many they are.
async fn send_more(proxy: &Proxy) -> u64 {
    let forwarded = |address: &str| format!("X-Forwarded-For: {address}\r\n").into_bytes();
    let requests = [
        closing(b"GET /retried?status=503 HTTP/1.1", b"X-Listed: a\r\nX-Listed: b, c\r\nX-Listed:\r\n"),
        closing(b"GET /retried?end=reset HTTP/1.1", b"Referer: /a?token=1\r\nReferer: /b\r\n"),
        closing(b"GET /retried HTTP/1.1", b"User-Agent: one\r\nUser-Agent: two\r\n"),
        closing(b"GET /nobody HTTP/1.1", b""),
        closing(b"GET /unknown HTTP/1.1", b""),
        closing(b"GET /late?delay_ms=500 HTTP/1.1", b""),
        closing(b"GET /orders/1?status=404 HTTP/1.1", &forwarded("2001:db8::7")),
        closing(b"GET /orders/1?status=204 HTTP/1.1", &forwarded("192.0.2.7")),
        closing(b"HEAD /orders/1 HTTP/1.1", b""),
        closing(b"CONNECT shop.example:443 HTTP/1.1", b""),
        closing(b"GET http://other.example/orders/1#part HTTP/1.1", b""),
        closing(
            b"GET /orders/1 HTTP/1.1",
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX-Request-Id: mine\r\n",
        ),
        [closing(b"POST /orders HTTP/1.1", b"Content-Length: 5\r\n"), b"12345".to_vec()].concat(),
    ];
    for request in &requests {
        let answer = load::raw(proxy.address(), request).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(request));
    }
    requests.len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn both_make_the_same_records_and_points_of_whatever_envoy_finishes() {
    let (folder, receiver) = (folder().await, Receiver::start().await.unwrap());
    let native_log = folder.path().join("native.log");
    let proxy = Proxy::start(ENVOY_1_40, both(&[], &native_log).await, receiver.address()).await;
    let mut sent = 0;
    for _ in 0..2 {
        sent += send_all(&proxy).await + send_more(&proxy).await;
    }
    proxy.until_idle().await;
    let made = wait::until("both have recorded and measured every request", async || {
        let finished = finished(&native_log, Mode::AccessLogger)?.len() as u64;
        // What the shells have counted by now is all that there will be; Envoy's own log is written a moment later.
        let is_complete = finished >= sent && proxy.accounting().await?.captured == 2 * finished;
        let made = Made::of_each(&receiver.calls());
        let all =
            made.iter().all(|made| made.records.len() as u64 == finished && made.measured() == finished);
        Ok((is_complete && all).then_some(made))
    })
    .await
    .unwrap();
    assert_equal(made);
}

/// Calls of gRPC, and requests of which the trace says whether they are kept.
#[tokio::test(flavor = "multi_thread")]
async fn both_keep_the_same_requests_and_say_the_same_of_grpc() {
    let (folder, receiver) = (folder().await, Receiver::start().await.unwrap());
    let sampling = [("logs.sample_ratio", json!(0.5)), ("logs.sample_by", json!("trace"))];
    let bootstrap = both(&sampling, &folder.path().join("native.log")).await;
    let proxy =
        Proxy::start(ENVOY_1_40, bootstrap.with_http2_application().unwrap(), receiver.address()).await;
    let calls = CALLS.map(|(path, answer, ..)| format!("{path}?{answer}"));
    let odd = ["-1", "16", "17", "+5", "005", "x", "99999999999999999999"];
    let odd = odd.map(|status| format!("/shop.Cart/Odd?grpc_headers={}", status.replace('+', "%2B")));
    let http =
        [200, 400, 401, 403, 404, 429, 500, 502, 503, 504].map(|status| format!("/orders/1?status={status}"));
    let local = ["/nobody", "/nowhere", "/teapot"].map(str::to_owned);
    let targets = [calls.to_vec(), odd.to_vec(), http.to_vec(), local.to_vec()].concat();
    let mut client = load::http2(proxy.address()).await.unwrap();
    let mut sent = 0;
    for content_type in ["application/grpc", "application/grpc+proto", "application/json"] {
        for target in &targets {
            sent += 1;
            let request = Request::post(format!("http://shop.example{target}"))
                .header("content-type", content_type)
                .header("te", "trailers")
                .header("traceparent", format!("00-{:016x}{:016x}-00f067aa0ba902b7-01", 1, sent << 50))
                .body(Empty::new())
                .unwrap();
            let response = client.send_request(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }
    let made = wait::until("both have decided on every request, and measured it", async || {
        let accounting = proxy.accounting().await?;
        let ended = accounting.delivered + accounting.sampled_out == 2 * sent;
        let made = Made::of_each(&receiver.calls());
        Ok((ended && made.iter().all(|made| made.measured() == sent)).then_some(made))
    })
    .await
    .unwrap();
    assert!((1..sent).contains(&(made[0].records.len() as u64)), "{made:?}");
    assert_equal(made);
}

/// What a shell has made of the requests.
#[derive(Debug, Default)]
struct Made {
    /// As text, sorted; without when they were written.
    records: Vec<String>,
    /// By sender, as text, what it said last of each series, sorted; without when that was, and without exemplars.
    points: BTreeMap<String, Vec<(String, u64)>>,
}

impl Made {
    /// In the order of [`SHELLS`].
    fn of_each(calls: &[Call]) -> [Self; 2] {
        let mut all: BTreeMap<String, Self> = BTreeMap::new();
        for call in calls {
            let body = otlp::body(call).unwrap();
            if call.path == "/v1/logs" {
                for resource in ExportLogsServiceRequest::decode(body).unwrap().resource_logs {
                    let attributes = resource.resource.unwrap().attributes;
                    let made =
                        all.entry(otlp::text(&attributes, "service.name").unwrap().to_owned()).or_default();
                    for mut record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                        assert!(record.observed_time_unix_nano >= record.time_unix_nano);
                        record.observed_time_unix_nano = 0;
                        made.records.push(format!("{record:#?}"));
                    }
                    made.records.sort();
                }
            } else {
                for resource in ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics {
                    let attributes = resource.resource.unwrap().attributes;
                    let made =
                        all.entry(otlp::text(&attributes, "service.name").unwrap().to_owned()).or_default();
                    let sender = otlp::text(&attributes, "service.instance.id").unwrap().to_owned();
                    let points = made.points.entry(sender).or_default();
                    points.clear();
                    for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                        let Some(Data::ExponentialHistogram(histogram)) = metric.data else { continue };
                        for mut point in histogram.data_points {
                            (point.start_time_unix_nano, point.time_unix_nano) = (0, 0);
                            point.exemplars.clear();
                            points.push((format!("{} {point:#?}", metric.name), point.count));
                        }
                    }
                    points.sort();
                }
            }
        }
        SHELLS.map(|shell| all.remove(shell).unwrap_or_default())
    }

    /// How many requests are in the histograms.
    fn measured(&self) -> u64 {
        let points =
            self.points.values().flatten().filter(|(text, _)| text.starts_with("http.server.request"));
        points.map(|(_, count)| count).sum()
    }

    /// Without the senders' names: each worker has one of each shell, which see the same requests.
    fn series(&self) -> Vec<&Vec<(String, u64)>> {
        let mut series: Vec<_> = self.points.values().collect();
        series.sort();
        series
    }
}

fn assert_equal([wasm, native]: [Made; 2]) {
    let only_in = |some: &[String], other: &[String]| {
        some.iter().filter(|record| !other.contains(record)).cloned().collect::<Vec<_>>().join("\n")
    };
    let (in_wasm, in_native) =
        (only_in(&wasm.records, &native.records), only_in(&native.records, &wasm.records));
    assert!(
        in_wasm.is_empty() && in_native.is_empty(),
        "only in wasm:\n{in_wasm}\nonly in native:\n{in_native}"
    );
    assert_eq!(wasm.records, native.records);
    assert_eq!(wasm.series(), native.series());
}
