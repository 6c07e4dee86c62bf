//! The same plugin, configuration and requests through real Envoy and through the host of `host-test/`: what is exported
//! and what is counted is equal field by field, but for times, ports and ids. What the plugin's behaviour tests show in the
//! host, they show for Envoy because of this one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::StatusCode;
use offpath_host_test::{self as host, Headers, PluginModule, Request, VmRole};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::artefacts;
use xtask::fetch::{self, ENVOY_1_40, Release};
use xtask::harness::bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode};
use xtask::harness::envoy::Envoy;
use xtask::harness::receiver::{Behaviour, Receiver};
use xtask::harness::upstream::Upstream;
use xtask::harness::{load, otlp, wait};
use xtask::project::Project;

/// One request: the bytes for Envoy, and what Envoy knows of it in the end, for the host.
struct Exchange {
    bytes: Vec<u8>,
    in_host: Request,
    /// The response's status; without one, the client goes away.
    status: Option<u16>,
}

/// What Envoy sets in a request on its way upstream.
const REQUEST_ID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// A `GET` over a connection of its own, with these headers, that reaches the application.
fn get(target: &str, headers: &[(&str, &[u8])], status: u16) -> Exchange {
    request("GET", target, headers, "", status)
}

fn request(method: &str, target: &str, headers: &[(&str, &[u8])], body: &str, status: u16) -> Exchange {
    let mut bytes =
        format!("{method} {target} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    let route = if target.starts_with("/orders") { "orders" } else { "reports" };
    let mut in_host = Request::new(method, target);
    for (name, value) in headers {
        in_host = in_host.header(name, value);
    }
    if !body.is_empty() {
        bytes.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
        in_host = in_host.header("content-length", body.len().to_string());
    }
    let reply = b"{\"ok\":true}\n".len() as u64;
    let in_host = in_host
        .bytes(body.len() as u64, reply)
        .header("x-forwarded-for", "127.0.0.1")
        .header("x-forwarded-proto", "http")
        .header("x-envoy-external-address", "127.0.0.1")
        .header("x-request-id", REQUEST_ID)
        .with(|info| info.route_name = Some(route.into()))
        .with(|info| {
            info.response_headers =
                Some(answer(&[("content-type", "application/json"), ("content-length", "12")]))
        });
    bytes.extend([b"\r\n", body.as_bytes()].concat());
    Exchange { bytes, in_host: loopback(in_host), status: Some(status) }
}

/// A response's headers, with those that Envoy adds.
fn answer(headers: &[(&str, &str)]) -> Headers {
    let added = [("date", "Sun, 01 Jun 2025 12:00:00 GMT"), ("server", "envoy"), ("connection", "close")];
    headers.iter().chain(&added).collect::<Vec<_>>().into_iter().copied().collect()
}

/// Everybody is on this machine; ports are not compared.
fn loopback(request: Request) -> Request {
    request.with(|info| {
        info.source_address = b"127.0.0.1:40312".to_vec();
        info.cluster_name = info.cluster_name.is_some().then(|| b"app".to_vec());
        info.virtual_host_name = info.virtual_host_name.is_some().then(|| b"app".to_vec());
        if let Some(upstream) = &mut info.upstream {
            upstream.address = Some(b"127.0.0.1:9000".to_vec());
        }
    })
}

fn exchanges(mode: Mode) -> Vec<Exchange> {
    let trace: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut all = vec![
        get(
            "/orders/7?token=hunter2&n=1",
            &[("traceparent", trace), ("authorization", b"Bearer hunter2")],
            200,
        ),
        get("/orders/8?status=404", &[("user-agent", b"differential/1"), ("x-listed", b"seen")], 404),
        get("/reports/daily?status=503", &[("user-agent", b""), ("x-listed", b"\xff\xc3\x28")], 503),
        get("/orders/%00%ff%c3%28?a=%00&&=&code", &[("traceparent", b"00-zz-zz-zz")], 200),
        get(&format!("/orders/{}", "long".repeat(700)), &[], 200),
        get("/orders/1", &[("x-listed", b"one"), ("x-listed", b"two")], 200),
        get("/orders/1", &[("content-type", b"application/grpc"), ("te", b"trailers")], 200),
        request("POST", "/orders?status=201", &[("x-listed", b"")], "ten bytes!", 201),
        request("OPTIONS", "/reports", &[], "", 200),
        request("DELETE", "/orders/7?status=500", &[], "", 500),
        reset_by_the_application(),
        answered_by_envoy(),
        without_a_route(),
        malformed(),
    ];
    // A filter never hears of it.
    if mode == Mode::AccessLogger {
        all.push(Exchange {
            bytes: b"GET /orders".to_vec(),
            in_host: loopback(Request::abandoned()),
            status: None,
        });
    }
    all
}

fn reset_by_the_application() -> Exchange {
    const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    let mut exchange = get("/orders/1?end=reset", &[], 503);
    exchange.in_host = exchange
        .in_host
        .flags(UPSTREAM_CONNECTION_TERMINATION)
        .bytes(0, 95)
        .with(|info| info.backend_latency = None)
        .with(|info| {
            info.response_code_details =
                Some(b"upstream_reset_before_response_started{connection_termination}".to_vec())
        })
        .with(|info| {
            info.response_headers = Some(answer(&[("content-type", "text/plain"), ("content-length", "95")]))
        });
    exchange
}

fn answered_by_envoy() -> Exchange {
    let mut exchange = get("/teapot", &[], 418);
    exchange.in_host = exchange.in_host.without_upstream("direct_response").bytes(0, 0).with(|info| {
        info.cluster_name = None;
        info.route_name = Some(Vec::new());
        info.response_headers = Some(answer(&[]));
    });
    exchange
}

fn without_a_route() -> Exchange {
    const NO_ROUTE_FOUND: u64 = 1 << 8;
    let mut exchange = get("/nowhere", &[], 404);
    exchange.in_host =
        exchange.in_host.without_upstream("route_not_found").flags(NO_ROUTE_FOUND).bytes(0, 0).with(|info| {
            info.cluster_name = None;
            info.route_name = None;
            info.virtual_host_name = None;
            info.response_headers = Some(answer(&[]));
        });
    exchange
}

fn malformed() -> Exchange {
    let bytes = b"BREW /orders HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_vec();
    Exchange { bytes, in_host: loopback(Request::malformed()), status: Some(400) }
}

/// What a run exported and counted, as far as it can be compared.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Each record, as sorted lines of text.
    records: Vec<Vec<String>>,
    /// Each series of the last exports, with how many requests it counted.
    series: BTreeMap<Vec<String>, u64>,
    /// The resource of every export, without the sender's id.
    resources: BTreeSet<Vec<String>>,
    /// What every call had in its headers.
    headers: BTreeSet<Vec<String>>,
    /// Counters and gauges, as the plugin named them.
    counted: BTreeMap<String, u64>,
}

/// One export call: path, headers, body.
type Call = (String, BTreeMap<String, String>, Vec<u8>);

impl Outcome {
    fn new(calls: &[Call], counted: BTreeMap<String, u64>) -> Self {
        let mut outcome = Self { counted, ..Self::default() };
        let mut series_by_sender = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (path, headers, body) in calls {
            outcome.headers.insert(comparable_headers(path, headers));
            if !seen.insert(&headers["x-offpath-batch"]) {
                continue;
            }
            if path == "/v1/logs" {
                outcome.add_records(body);
            } else {
                let sender = headers["x-offpath-batch"].rsplit_once('-').unwrap().0;
                series_by_sender.insert(sender, outcome.series(body));
            }
        }
        outcome.records.sort();
        // Cumulative: what a sender said last is all that it has seen.
        for (key, count) in series_by_sender.into_values().flatten() {
            *outcome.series.entry(key).or_default() += count;
        }
        outcome
    }

    fn add_records(&mut self, body: &[u8]) {
        for resource in ExportLogsServiceRequest::decode(body).unwrap().resource_logs {
            self.resources.insert(lines(&resource.resource.unwrap().attributes));
            for scope in resource.scope_logs {
                let name = scope.scope.unwrap();
                for mut record in scope.log_records {
                    assert!(
                        record.time_unix_nano > 0 && record.observed_time_unix_nano >= record.time_unix_nano
                    );
                    let mut fields = lines(&std::mem::take(&mut record.attributes));
                    (record.time_unix_nano, record.observed_time_unix_nano) = (0, 0);
                    record.body = record.body.map(without_last_word);
                    fields.push(format!("{record:?} {name:?} {}", scope.schema_url));
                    self.records.push(fields);
                }
            }
        }
    }

    fn series(&mut self, body: &[u8]) -> Vec<(Vec<String>, u64)> {
        let mut series = Vec::new();
        for resource in ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics {
            self.resources.insert(lines(&resource.resource.unwrap().attributes));
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let Some(Data::ExponentialHistogram(histogram)) = metric.data else { panic!("{metric:?}") };
                for point in histogram.data_points {
                    let mut key = lines(&point.attributes);
                    key.push(format!(
                        "{} {} {}",
                        metric.name, metric.unit, histogram.aggregation_temporality
                    ));
                    series.push((key, point.count));
                }
            }
        }
        series
    }
}

/// Attributes as sorted lines, without times, ports and ids.
fn lines(attributes: &[KeyValue]) -> Vec<String> {
    let mut lines: Vec<String> = attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            let compared = match (attribute.key.as_str(), value) {
                ("http.server.request.duration" | "envoy.upstream.duration", Some(Any::DoubleValue(_))) => {
                    "a time".to_owned()
                }
                ("envoy.request.id" | "service.instance.id", Some(Any::StringValue(id))) => {
                    format!("{} bytes of id", id.len())
                }
                ("envoy.upstream.address", Some(Any::StringValue(address))) => {
                    address.rsplit_once(':').unwrap().0.to_owned()
                }
                (_, value) => format!("{value:?}"),
            };
            format!("{} = {compared}", attribute.key)
        })
        .collect();
    lines.sort();
    lines
}

/// A record's body ends with how long the request took.
fn without_last_word(body: AnyValue) -> AnyValue {
    let Some(Any::StringValue(text)) = body.value else { panic!("{body:?}") };
    AnyValue { value: Some(Any::StringValue(text.rsplit_once(' ').unwrap().0.to_owned())) }
}

/// What the plugin itself says in a call's headers.
fn comparable_headers(path: &str, headers: &BTreeMap<String, String>) -> Vec<String> {
    let id = &headers["x-offpath-batch"];
    let own = ["content-type", "user-agent", "x-tenant"].map(|name| format!("{name}: {}", headers[name]));
    let id = format!("x-offpath-batch: {} bytes of id", id.rsplit_once('-').unwrap().0.len());
    own.into_iter().chain([path.to_owned(), id]).collect()
}

/// The plugin's keys, with each record in a batch of its own: requests come to either of Envoy's workers.
fn keys() -> Vec<(&'static str, Value)> {
    vec![
        ("batch.max_records", json!(1)),
        ("batch.max_delay", json!("100ms")),
        ("collector.headers", json!({"x-tenant": "shop"})),
        ("logs.request_headers", json!(["x-listed", "authorization"])),
        ("logs.response_headers", json!(["server"])),
        ("metrics.interval", json!("1s")),
        ("metrics.histograms", json!(["duration", "upstream", "proxy"])),
        ("retry.initial_backoff", json!("50ms")),
        ("retry.max_backoff", json!("100ms")),
    ]
}

/// How the receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Takes,
    Refuses,
    /// Until something was sent.
    IsNotReadyAtFirst,
}

impl Receiving {
    fn first_status(self) -> u16 {
        match self {
            Self::Takes => 200,
            Self::Refuses => 400,
            Self::IsNotReadyAtFirst => 503,
        }
    }

    fn status(self) -> u16 {
        if self == Self::Refuses { 400 } else { 200 }
    }
}

/// Whether a run has come to its end: everything was exported and has its end.
fn is_over(outcome: &Outcome, requests: u64) -> bool {
    let counted = |name: &str| outcome.counted.get(name).copied().unwrap_or_default();
    let measured: u64 = outcome
        .series
        .iter()
        .filter(|(key, _)| key.iter().any(|line| line.starts_with("http.server")))
        .map(|(_, count)| count)
        .sum();
    counted("offpath_records_captured_total") == requests
        && (counted("offpath_records_pending"), counted("offpath_queue_bytes")) == (0, 0)
        && measured == requests
}

/// Takes out of what was counted what depends on how often an interval was over or a try was made.
fn comparable(mut outcome: Outcome, calls: &[Call]) -> Outcome {
    let metrics: BTreeSet<&String> = calls
        .iter()
        .filter(|(path, ..)| path == "/v1/metrics")
        .map(|(_, headers, _)| &headers["x-offpath-batch"])
        .collect();
    for (name, count) in &mut outcome.counted {
        match name.as_str() {
            "offpath_batches_sent_total" => *count -= metrics.len() as u64,
            "offpath_batches_retried_total" | "offpath_metric_points_dropped_total.reason.rejected" => {
                *count = (*count).min(1)
            }
            _ => {}
        }
    }
    // Which slots there are depends on which workers had requests.
    outcome.counted.retain(|name, _| !name.starts_with("offpath_vm_"));
    outcome
}

async fn in_envoy(
    project: &Project,
    release: Release,
    bootstrap: Bootstrap,
    mode: Mode,
    receiving: Receiving,
) -> Outcome {
    let behave = |status| Behaviour::Answer(StatusCode::from_u16(status).unwrap());
    let receiver = Receiver::start().await.unwrap();
    receiver.behave(behave(receiving.first_status()));
    let upstream = Upstream::start().await.unwrap();
    let folder = project.target().join("differential");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = TempDir::new_in(folder).unwrap();
    let bootstrap = bootstrap.with_servers(upstream.address(), receiver.address()).unwrap();
    let binary = fetch::envoy(project, release).unwrap();
    let envoy = Envoy::start(&binary, &bootstrap, folder.path()).await.unwrap();
    let exchanges = exchanges(mode);
    let requests = exchanges.len() as u64;
    for exchange in exchanges {
        let Some(status) = exchange.status else {
            load::send_and_leave(envoy.address(), &exchange.bytes).await.unwrap();
            continue;
        };
        let answer = load::raw(envoy.address(), &exchange.bytes).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    wait::until("something was sent", async || Ok((!receiver.calls().is_empty()).then_some(())))
        .await
        .unwrap();
    receiver.behave(behave(receiving.status()));
    let finished = wait::until("the run is over", async || {
        let counted = envoy.stats(r"^wasmcustom\.offpath_").await?;
        let counted: BTreeMap<String, u64> = counted
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("wasmcustom.")?.to_owned(), value)))
            .collect();
        let calls: Vec<Call> = receiver.calls().iter().map(received).collect();
        let sent: BTreeSet<&String> =
            calls.iter().map(|(_, headers, _)| &headers["x-offpath-batch"]).collect();
        let all_are_here = counted.get("offpath_batches_sent_total") == Some(&(sent.len() as u64));
        let outcome = Outcome::new(&calls, counted);
        Ok((all_are_here && is_over(&outcome, requests)).then(|| comparable(outcome, &calls)))
    })
    .await;
    finished.unwrap_or_else(|error| panic!("{error:#}; Envoy's log:\n{}", envoy.log().unwrap()))
}

fn received(call: &xtask::harness::receiver::Call) -> Call {
    let headers =
        call.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (call.path.clone(), headers.collect(), otlp::body(call).unwrap().to_vec())
}

fn in_host(project: &Project, configuration: Value, mode: Mode, receiving: Receiving) -> Outcome {
    let module = PluginModule::compile(&std::fs::read(project.plugin()).unwrap()).unwrap();
    let mut proxy = host::Proxy::load(&module)
        .config(configuration)
        .mode(if mode == Mode::AccessLogger { host::Mode::AccessLogger } else { host::Mode::HttpFilter })
        .failure_policy(host::FailurePolicy::FailReload)
        .workers(2)
        .node("edge-1", "edge")
        .vm_id("offpath")
        .cluster("offpath_collector")
        .start()
        .unwrap();
    let exchanges = exchanges(mode);
    let requests = exchanges.len() as u64;
    for (number, exchange) in exchanges.into_iter().enumerate() {
        let request = proxy.request(exchange.in_host).on_worker(number % 2);
        match exchange.status {
            Some(status) => request.respond(status),
            None => request.reset(),
        }
        .unwrap();
        proxy.advance(Duration::from_millis(10)).unwrap();
    }
    let mut calls: Vec<Call> = Vec::new();
    for _ in 0..1000 {
        while !proxy.cluster("offpath_collector").pending().is_empty() {
            let status = if calls.is_empty() { receiving.first_status() } else { receiving.status() };
            let call = proxy.cluster("offpath_collector").answer(status).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let headers = call.headers.iter().map(|(name, value)| (text(name), text(value))).collect();
            calls.push((call.path().to_owned(), headers, call.body.clone()));
        }
        let counted = [proxy.counters("offpath_"), proxy.gauges("offpath_")].concat().into_iter().collect();
        let outcome = Outcome::new(&calls, counted);
        if is_over(&outcome, requests) {
            assert_eq!(proxy.calls_made_by(VmRole::Main), 0);
            return comparable(outcome, &calls);
        }
        proxy.advance(Duration::from_millis(50)).unwrap();
    }
    panic!("the run does not end: {:?}", proxy.counters("offpath_"));
}

/// The shipped file with the plugin's keys, a route that Envoy answers itself, and none for all other paths.
fn bootstrap(project: &Project, release: Release, mode: Mode) -> (Bootstrap, Value) {
    let shipped = Bootstrap::shipped(project, mode).unwrap().for_release(release).unwrap();
    let mut bootstrap = shipped.with_plugin_keys(&keys()).unwrap();
    let routes = format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes");
    let routes = bootstrap.at(&routes).unwrap().as_array_mut().unwrap();
    routes.retain(|route| route["name"] != "other");
    routes.push(json!({"match": {"path": "/teapot"}, "direct_response": {"status": 418}}));
    // How many digits the upstream's milliseconds have would be in the response's size.
    let router = if mode == Mode::AccessLogger { 0 } else { 1 };
    let router = format!("{HTTP_CONNECTION_MANAGER}/http_filters/{router}/typed_config");
    bootstrap.at(&router).unwrap()["suppress_envoy_headers"] = json!(true);
    let configuration = bootstrap.plugin("/configuration/value").unwrap().as_str().unwrap().to_owned();
    (bootstrap, serde_json::from_str(&configuration).unwrap())
}

async fn check(release: Release, mode: Mode, receiving: Receiving) {
    let project = Project::locate().unwrap();
    artefacts::build_plugin(&project).unwrap();
    let (bootstrap, configuration) = bootstrap(&project, release, mode);
    let hosted = in_host(&project, configuration, mode, receiving);
    let real = in_envoy(&project, release, bootstrap, mode, receiving).await;
    let what = format!("{mode:?} in {}, the receiver {receiving:?}", release.version);
    let only_in = |some: &Outcome, other: &Outcome| -> Vec<String> {
        let unmatched = some.records.iter().filter(|record| !other.records.contains(record));
        unmatched.map(|record| record.join("\n  ")).collect()
    };
    let (in_host, in_envoy) = (only_in(&hosted, &real), only_in(&real, &hosted));
    assert!(
        in_host.is_empty() && in_envoy.is_empty(),
        "{what}: records only in the host:\n{}\n\nonly in Envoy:\n{}",
        in_host.join("\n"),
        in_envoy.join("\n"),
    );
    assert_eq!(hosted, real, "{what}: the host's outcome is not Envoy's");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_logger_exports_and_counts_alike_in_envoy_and_in_the_host() {
    for release in fetch::ENVOY_RELEASES {
        check(release, Mode::AccessLogger, Receiving::Takes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_exports_and_counts_alike_in_envoy_and_in_the_host() {
    for release in fetch::ENVOY_RELEASES {
        check(release, Mode::HttpFilter, Receiving::Takes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_alike_in_envoy_and_in_the_host() {
    check(ENVOY_1_40, Mode::AccessLogger, Receiving::Refuses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_alike_in_envoy_and_in_the_host() {
    check(ENVOY_1_40, Mode::AccessLogger, Receiving::IsNotReadyAtFirst).await;
}
