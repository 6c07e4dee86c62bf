//! What only the dynamic module does: it delivers at Envoy's end, is ticked by a thread that it shares with what it sends, and is two
//! parts, of which each wants the other.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::Mode,
    inventory::Inventory,
    load,
    receiver::{Behaviour, Receiver},
    steady::SteadyLoad,
    wait,
};

use crate::proxy::{ENVOY_1_40, Proxy, bootstrap};

const REQUESTS: u64 = 500;

async fn started(keys: &[(&str, Value)], receiver: &Receiver) -> Proxy {
    let bootstrap = bootstrap(ENVOY_1_40, Mode::DynamicModule, keys).await;
    Proxy::start(ENVOY_1_40, bootstrap, receiver.address()).await
}

async fn send(proxy: &Proxy) {
    let statuses =
        load::keep_alive(proxy.address(), 8, REQUESTS, |n| load::get(&format!("/orders/{n}?n={n}")))
            .await
            .unwrap();
    assert_eq!(statuses, BTreeMap::from([(200, REQUESTS)]));
}

fn inventory(receiver: &Receiver) -> Inventory {
    let mut inventory = Inventory::default();
    for call in receiver.calls() {
        inventory.add(&call).unwrap();
    }
    inventory
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_is_stopped_right_after_its_requests_delivers_all_of_them() {
    let receiver = Receiver::start().await.unwrap();
    let proxy = started(&[], &receiver).await;
    send(&proxy).await;
    proxy.stop().await.unwrap();
    let inventory = inventory(&receiver);
    assert_eq!(inventory.distinct(), REQUESTS);
    assert_eq!(inventory.measured(), REQUESTS, "requests in the histograms");
    assert_eq!(inventory.breaches(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_whose_collector_never_answers_ends_and_says_what_is_lost() {
    let receiver = Receiver::start().await.unwrap();
    receiver.behave(Behaviour::Hang);
    // Longer than Envoy waits for.
    let mut proxy = started(&[("collector.timeout", json!("1m"))], &receiver).await;
    send(&proxy).await;
    proxy.stop_in_place().await.unwrap();
    let log = proxy.log().unwrap();
    let line =
        format!("offpath: Envoy ends before the collector has taken {REQUESTS} records, which are lost");
    assert_eq!(log.matches("which are lost").count(), 1, "{log}");
    assert!(log.contains(&line), "{log}");
}

/// Both workers try again in Envoy's end, and there is a connection for one of them. Envoy aborts if the other one still waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_whose_calls_wait_for_a_connection_when_it_is_stopped_ends_as_it_should() {
    let receiver = Receiver::start().await.unwrap();
    receiver.behave(Behaviour::Hang);
    let keys = [
        ("batch.max_records", json!(1)),
        ("collector.timeout", json!("3s")),
        ("retry.initial_backoff", json!("10ms")),
    ];
    let mut bootstrap = bootstrap(ENVOY_1_40, Mode::DynamicModule, &keys).await;
    let bounds = "/static_resources/clusters/1/circuit_breakers/thresholds/0";
    *bootstrap.at(&format!("{bounds}/max_connections")).unwrap() = json!(1);
    let mut proxy = Proxy::start(ENVOY_1_40, bootstrap, receiver.address()).await;
    send(&proxy).await;
    wait::until("a call waits for a connection", async || {
        let waiting = proxy.stats(r"^cluster\.offpath_collector\.upstream_rq_pending_active$").await?;
        Ok(waiting.values().any(|&waiting| waiting > 0).then_some(()))
    })
    .await
    .unwrap();
    // Fails when Envoy does.
    proxy.stop_in_place().await.unwrap();
    let log = proxy.log().unwrap();
    assert_eq!(log.matches("which are lost").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_is_stopped_under_load_ends_as_it_should() {
    let receiver = Receiver::start().await.unwrap();
    // Calls are under way at every moment, and answered late.
    receiver.behave(Behaviour::Delay(Duration::from_millis(50)));
    let keys = [("batch.max_records", json!(1)), ("collector.max_in_flight", json!(16))];
    let mut proxy = started(&keys, &receiver).await;
    let mut load = SteadyLoad::start(proxy.address(), 8, 400);
    wait::until("records arrive", async || Ok((receiver.calls().len() > 100).then_some(()))).await.unwrap();
    // Fails when Envoy does.
    proxy.stop_in_place().await.unwrap();
    let log = proxy.log().unwrap();
    assert!(!log.contains("panicked"), "{log}");
    // Its clients have lost their connections.
    drop(load.end().await);
    assert_eq!(inventory(&receiver).breaches(), [] as [String; 0]);
}

/// Each request fills a batch and wakes the main thread, far more often than that wants to tick.
#[tokio::test(flavor = "multi_thread")]
async fn histograms_are_exported_however_often_batches_are_sealed() {
    let receiver = Receiver::start().await.unwrap();
    let keys = [
        ("batch.max_records", json!(1)),
        ("batch.max_delay", json!("4s")),
        ("metrics.interval", json!("1s")),
    ];
    let proxy = started(&keys, &receiver).await;
    let mut load = SteadyLoad::start(proxy.address(), 8, 200);
    wait::until("two exports have come while the load goes on", async || {
        let exports = receiver.calls().iter().filter(|call| call.path == "/v1/metrics").count();
        Ok((exports >= 2).then_some(()))
    })
    .await
    .unwrap();
    assert!(load.sent() > 0);
    load.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_module_cannot_do_keeps_envoy_from_starting_and_is_named() {
    let receiver = Receiver::start().await.unwrap();
    let secret = ("collector.headers", json!({"authorization": "Bearer hunter2"}));
    let alone = "`bootstrap_extensions` must have one of the same module";
    let twice = "offpath: is a bootstrap extension of this Envoy already";
    for (key, expected) in [
        (None, alone),
        (None, twice),
        (
            Some(("logs.attributes", json!({"tenant": "request.host"}))),
            "`logs.attributes`: expressions are not available",
        ),
        (
            Some(("metrics.attributes", json!(["envoy.virtual_host.name"]))),
            "`metrics.attributes`: `envoy.virtual_host.name` is not available",
        ),
    ] {
        let keys: Vec<(&str, Value)> = key.into_iter().chain([secret.clone()]).collect();
        let mut bootstrap = bootstrap(ENVOY_1_40, Mode::DynamicModule, &keys).await;
        let extensions = bootstrap.at("/bootstrap_extensions").unwrap().as_array_mut().unwrap();
        match expected {
            _ if expected == alone => extensions.clear(),
            _ if expected == twice => extensions.push(extensions[0].clone()),
            _ => {}
        }
        let Err(refusal) = Proxy::try_start(ENVOY_1_40, bootstrap, receiver.address()).await else {
            panic!("Envoy starts, though {expected}");
        };
        let refusal = format!("{refusal:#}");
        assert!(refusal.contains(expected), "{refusal}");
        assert!(!refusal.contains("hunter2"), "a secret is printed: {refusal}");
        assert!(!refusal.contains("panicked") && !refusal.contains("Segmentation"), "{refusal}");
    }
}
