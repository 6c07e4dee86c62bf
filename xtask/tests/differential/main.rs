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
use offpath_host_test::{self as host, Answer, PluginModule, VmRole};
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
fn keys(receiving: Receiving) -> Vec<(&'static str, Value)> {
    let timeout = if receiving == Receiving::HangsAtFirst { "1s" } else { "1m" };
    vec![
        ("batch.max_records", json!(1)),
        ("batch.max_delay", json!("100ms")),
        ("collector.timeout", json!(timeout)),
        ("collector.headers", json!({"x-tenant": "shop"})),
        ("logs.request_headers", json!(["x-listed", "authorization"])),
        ("logs.response_headers", json!(["server"])),
        ("metrics.interval", json!("1s")),
        ("metrics.histograms", json!(["duration", "upstream", "proxy"])),
        ("retry.initial_backoff", json!("50ms")),
        ("retry.max_backoff", json!("100ms")),
    ]
}

/// How the receiver behaves: in the end as at first, unless it is said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Takes,
    Refuses,
    /// Until something was sent again.
    IsNotReadyAtFirst,
    /// Until something was sent again.
    ResetsAtFirst,
    /// Until something was sent again.
    ResetsWithinFirstAnswers,
    /// Until something was sent again.
    HangsAtFirst,
}

impl Receiving {
    fn fails_at_first(self) -> bool {
        !matches!(self, Self::Takes | Self::Refuses)
    }

    /// What it does at first.
    fn first(self) -> Behaviour {
        match self {
            Self::Takes => Behaviour::HEALTHY,
            Self::Refuses => Behaviour::Answer(StatusCode::BAD_REQUEST),
            Self::IsNotReadyAtFirst => Behaviour::Answer(StatusCode::SERVICE_UNAVAILABLE),
            Self::ResetsAtFirst => Behaviour::Reset,
            Self::ResetsWithinFirstAnswers => Behaviour::ResetWithinAnswer,
            Self::HangsAtFirst => Behaviour::Hang,
        }
    }

    /// What the plugin gets for an answer to its first call; nothing until the call's time is over.
    fn first_answer(self) -> Option<Answer> {
        match self {
            Self::Takes => Some(Answer::status(200)),
            Self::Refuses => Some(Answer::status(400)),
            Self::IsNotReadyAtFirst => Some(Answer::status(503)),
            Self::ResetsAtFirst => Some(Answer::connection_terminated()),
            Self::ResetsWithinFirstAnswers => Some(Answer::Reset),
            Self::HangsAtFirst => None,
        }
    }

    fn later_answer(self) -> Answer {
        Answer::status(if self == Self::Refuses { 400 } else { 200 })
    }
}

/// What both go through.
#[derive(Clone, Copy, Debug)]
struct Run {
    release: Release,
    mode: Mode,
    receiving: Receiving,
    /// Whether the plugin gets another configuration when half of the requests are over.
    reconfigures: bool,
}

impl Run {
    fn new(mode: Mode, receiving: Receiving) -> Self {
        Self { release: ENVOY_1_40, mode, receiving, reconfigures: false }
    }
}

/// What the other configuration has that the first has not.
fn other_keys() -> [(&'static str, Value); 1] {
    [("resource", json!({"service.version": "2"}))]
}

async fn in_envoy(project: &Project, bootstrap: Bootstrap, run: Run) -> Outcome {
    let receiver = Receiver::start().await.unwrap();
    receiver.behave(run.receiving.first());
    let upstream = Upstream::start().await.unwrap();
    let folder = project.target().join("differential");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = TempDir::new_in(folder).unwrap();
    let bootstrap = bootstrap.with_servers(upstream.address(), receiver.address()).unwrap();
    let listener_file = folder.path().join("listener.json");
    bootstrap.write_listener(&listener_file).unwrap();
    let binary = fetch::envoy(project, run.release).unwrap();
    let watching = bootstrap.clone().with_listener_from(&listener_file).unwrap();
    let envoy = Envoy::start(&binary, &watching, folder.path()).await.unwrap();
    let exchanges = exchanges(run.mode);
    let requests = exchanges.len() as u64;
    for (number, exchange) in exchanges.into_iter().enumerate() {
        if run.reconfigures && number as u64 == requests / 2 {
            bootstrap
                .clone()
                .with_plugin_keys(&other_keys())
                .unwrap()
                .write_listener(&listener_file)
                .unwrap();
            let draining = r"^listener_manager\.total_(listeners|filter_chains)_draining$";
            wait::until("the old listener drains", async || {
                Ok((envoy.stats(draining).await?.values().sum::<u64>() > 0).then_some(()))
            })
            .await
            .unwrap();
        }
        let Some(status) = exchange.status else {
            load::send_and_leave(envoy.address(), &exchange.bytes).await.unwrap();
            continue;
        };
        let answer = load::raw(envoy.address(), &exchange.bytes).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    if run.receiving.fails_at_first() {
        wait::until("something was sent again", async || {
            let retried = envoy.stats(r"^wasmcustom\.offpath_batches_retried_total$").await?;
            Ok((retried.values().sum::<u64>() > 0).then_some(()))
        })
        .await
        .unwrap();
        receiver.behave(Behaviour::HEALTHY);
    }
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

fn next_call(proxy: &mut host::Proxy) -> Option<host::Call> {
    proxy.cluster("offpath_collector").pending().into_iter().next()
}

fn in_host(project: &Project, configurations: [Value; 2], run: Run) -> Outcome {
    let [configuration, other] = configurations;
    let module = PluginModule::compile(&std::fs::read(project.plugin()).unwrap()).unwrap();
    let mode = if run.mode == Mode::AccessLogger { host::Mode::AccessLogger } else { host::Mode::HttpFilter };
    let mut proxy = host::Proxy::load(&module)
        .config(configuration)
        .mode(mode)
        .failure_policy(host::FailurePolicy::FailReload)
        .workers(2)
        .node("edge-1", "edge")
        .vm_id("offpath")
        .cluster("offpath_collector")
        .start()
        .unwrap();
    let exchanges = exchanges(run.mode);
    let requests = exchanges.len() as u64;
    for (number, exchange) in exchanges.into_iter().enumerate() {
        if run.reconfigures && number as u64 == requests / 2 {
            proxy.reconfigure(other.clone()).unwrap();
        }
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
        while let Some(call) = next_call(&mut proxy) {
            let later = Some(run.receiving.later_answer());
            let answer = if calls.is_empty() { run.receiving.first_answer() } else { later };
            match answer {
                Some(answer) => {
                    proxy.cluster("offpath_collector").answer(answer).unwrap();
                }
                None => proxy.advance(call.timeout.unwrap()).unwrap(),
            }
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
fn bootstrap(project: &Project, run: Run) -> Bootstrap {
    let shipped = Bootstrap::shipped(project, run.mode).unwrap().without_tracing().unwrap();
    let shipped = shipped.for_release(run.release).unwrap();
    let mut bootstrap = shipped.with_plugin_keys(&keys(run.receiving)).unwrap();
    let routes = format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes");
    let routes = bootstrap.at(&routes).unwrap().as_array_mut().unwrap();
    routes.retain(|route| route["name"] != "other");
    routes.push(json!({"match": {"path": "/teapot"}, "direct_response": {"status": 418}}));
    // How many digits the upstream's milliseconds have would be in the response's size.
    let router = if run.mode == Mode::AccessLogger { 0 } else { 1 };
    let router = format!("{HTTP_CONNECTION_MANAGER}/http_filters/{router}/typed_config");
    bootstrap.at(&router).unwrap()["suppress_envoy_headers"] = json!(true);
    bootstrap
}

/// What the plugin is configured with.
fn configuration(mut bootstrap: Bootstrap) -> Value {
    let text = bootstrap.plugin_configuration("/value").unwrap().as_str().unwrap().to_owned();
    serde_json::from_str(&text).unwrap()
}

async fn check(run: Run) {
    let project = Project::locate().unwrap();
    artefacts::build_plugin(&project).unwrap();
    let bootstrap = bootstrap(&project, run);
    let other = bootstrap.clone().with_plugin_keys(&other_keys()).unwrap();
    let hosted = in_host(&project, [configuration(bootstrap.clone()), configuration(other)], run);
    let real = in_envoy(&project, bootstrap, run).await;
    let only_in = |some: &Outcome, other: &Outcome| -> Vec<String> {
        let unmatched = some.records.iter().filter(|record| !other.records.contains(record));
        unmatched.map(|record| record.join("\n  ")).collect()
    };
    let (in_host, in_envoy) = (only_in(&hosted, &real), only_in(&real, &hosted));
    assert!(
        in_host.is_empty() && in_envoy.is_empty(),
        "{run:?}: records only in the host:\n{}\n\nonly in Envoy:\n{}",
        in_host.join("\n"),
        in_envoy.join("\n"),
    );
    assert_eq!(hosted, real, "{run:?}: the host's outcome is not Envoy's");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_logger_exports_and_counts_alike_in_envoy_and_in_the_host() {
    for release in fetch::ENVOY_RELEASES {
        check(Run { release, ..Run::new(Mode::AccessLogger, Receiving::Takes) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_exports_and_counts_alike_in_envoy_and_in_the_host() {
    for release in fetch::ENVOY_RELEASES {
        check(Run { release, ..Run::new(Mode::HttpFilter, Receiving::Takes) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_alike_in_envoy_and_in_the_host() {
    check(Run::new(Mode::AccessLogger, Receiving::Refuses)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_alike_in_envoy_and_in_the_host_whatever_was_wrong() {
    for receiving in [
        Receiving::IsNotReadyAtFirst,
        Receiving::ResetsAtFirst,
        Receiving::ResetsWithinFirstAnswers,
        Receiving::HangsAtFirst,
    ] {
        check(Run::new(Mode::AccessLogger, receiving)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconfiguration_is_alike_in_envoy_and_in_the_host() {
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        check(Run { reconfigures: true, ..Run::new(mode, Receiving::Takes) }).await;
    }
}
