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

mod exchanges;
mod outcome;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::StatusCode;
use offpath_host_test::{self as host, PluginModule, VmRole};
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

use crate::exchanges::exchanges;
use crate::outcome::{Call, Outcome, comparable, is_over};

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
