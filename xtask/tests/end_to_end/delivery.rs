//! What becomes of records when the collector does not take them, and that each is accounted for.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::Mode,
    envoy::Accounting,
    inventory::Inventory,
    load,
    receiver::{Behaviour, Receiver},
    wait,
};

use crate::proxy::{ENVOY_1_40, EVERYWHERE, Proxy, bootstrap};

const REQUESTS: u64 = 200;

/// Small constants, so that tries follow each other quickly.
fn keys<const N: usize>(more: [(&'static str, Value); N]) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        ("batch.max_records", json!(16)),
        ("batch.max_delay", json!("100ms")),
        ("metrics.interval", json!("1s")),
        ("retry.initial_backoff", json!("50ms")),
        ("retry.max_backoff", json!("500ms")),
    ];
    keys.extend(more);
    keys
}

/// Sends requests, none of which may notice.
async fn send(proxy: &Proxy) {
    let statuses =
        load::keep_alive(proxy.address(), 4, REQUESTS, |n| load::get(&format!("/orders/{n}?n={n}")))
            .await
            .unwrap();
    assert_eq!(statuses, BTreeMap::from([(200, REQUESTS)]));
}

/// Waits until every record has its end, which is `delivered` or `dropped`, and nothing of it is in the queue.
async fn settled(proxy: &Proxy, delivered: u64, dropped: &[(&str, u64)]) {
    let dropped: BTreeMap<String, u64> =
        dropped.iter().map(|(reason, records)| ((*reason).to_owned(), *records)).collect();
    let captured = delivered + dropped.values().sum::<u64>();
    let expected = Accounting { captured, delivered, dropped, ..Accounting::default() };
    wait::until_equal("the plugin's accounting", &expected, async || proxy.accounting().await).await.unwrap();
    assert!(expected.balances());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_collector_refuses_for_good_are_counted_as_rejected_and_not_sent_again() {
    for (status, mode) in [
        (StatusCode::BAD_REQUEST, Mode::AccessLogger),
        (StatusCode::INTERNAL_SERVER_ERROR, Mode::AccessLogger),
        (StatusCode::REQUEST_TIMEOUT, Mode::AccessLogger),
        (StatusCode::BAD_REQUEST, Mode::DynamicModule),
    ] {
        let receiver = Receiver::start().await.unwrap();
        receiver.behave(Behaviour::Answer(status));
        let bootstrap = bootstrap(ENVOY_1_40, mode, &keys([])).await;
        let proxy = Proxy::start(ENVOY_1_40, bootstrap, receiver.address()).await;
        send(&proxy).await;
        settled(&proxy, 0, &[("rejected", REQUESTS)]).await;
        assert_eq!(proxy.stats("offpath_batches_retried_total").await.unwrap().values().sum::<u64>(), 0);

        let prometheus = proxy.admin().text("/stats/prometheus").await.unwrap();
        let line = format!("offpath_records_dropped_total{{reason=\"rejected\"}} {REQUESTS}");
        assert!(prometheus.lines().any(|other| other == line), "no `{line}` in {prometheus}");

        receiver.behave(Behaviour::HEALTHY);
        send(&proxy).await;
        settled(&proxy, REQUESTS, &[("rejected", REQUESTS)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_a_collector_that_is_overloaded_are_delivered_once_it_is_not() {
    for (release, mode) in EVERYWHERE {
        for overloaded in [
            Behaviour::Answer(StatusCode::SERVICE_UNAVAILABLE),
            Behaviour::AskForPause(StatusCode::TOO_MANY_REQUESTS, 1),
        ] {
            let receiver = Receiver::start().await.unwrap();
            receiver.behave(overloaded);
            let proxy =
                Proxy::start(release, bootstrap(release, mode, &keys([])).await, receiver.address()).await;
            send(&proxy).await;
            wait::until("a call is refused", async || Ok((!receiver.calls().is_empty()).then_some(())))
                .await
                .unwrap();
            assert_eq!(proxy.accounting().await.unwrap().delivered, 0);
            receiver.behave(Behaviour::HEALTHY);
            settled(&proxy, REQUESTS, &[]).await;
            assert_all_arrived_once(&receiver);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_a_collector_that_is_down_are_delivered_once_it_is_back() {
    for (release, mode) in EVERYWHERE {
        let mut receiver = Receiver::start().await.unwrap();
        receiver.go_down().await;
        let proxy =
            Proxy::start(release, bootstrap(release, mode, &keys([])).await, receiver.address()).await;
        send(&proxy).await;
        wait::until("a call has failed", async || {
            let failed = proxy.stats("offpath_collector.upstream_cx_connect_fail$").await?;
            Ok(failed.values().any(|failures| *failures > 0).then_some(()))
        })
        .await
        .unwrap();
        assert_eq!(proxy.accounting().await.unwrap().delivered, 0);
        receiver.come_back().unwrap();
        settled(&proxy, REQUESTS, &[]).await;
        assert_all_arrived_once(&receiver);
    }
}

fn assert_all_arrived_once(receiver: &Receiver) {
    let mut inventory = Inventory::default();
    for call in receiver.calls() {
        inventory.add(&call).unwrap();
    }
    assert_eq!(inventory.distinct(), REQUESTS);
    assert_eq!(inventory.breaches(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_nobody_takes_for_too_long_are_counted_as_expired() {
    for mode in Mode::ALL {
        let mut receiver = Receiver::start().await.unwrap();
        receiver.go_down().await;
        let keys = keys([("retry.max_elapsed", json!("300ms"))]);
        let proxy =
            Proxy::start(ENVOY_1_40, bootstrap(ENVOY_1_40, mode, &keys).await, receiver.address()).await;
        send(&proxy).await;
        settled(&proxy, 0, &[("expired", REQUESTS)]).await;

        receiver.come_back().unwrap();
        send(&proxy).await;
        settled(&proxy, REQUESTS, &[("expired", REQUESTS)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_envoy_refuses_are_tried_until_the_records_expire() {
    let receiver = Receiver::start().await.unwrap();
    for (cluster, mode) in [
        ("unknown", Mode::AccessLogger),
        ("empty", Mode::HttpFilter),
        ("unknown", Mode::DynamicModule),
        ("empty", Mode::DynamicModule),
    ] {
        let keys = keys([("collector.cluster", json!(cluster)), ("retry.max_elapsed", json!("300ms"))]);
        let mut bootstrap = bootstrap(ENVOY_1_40, mode, &keys).await;
        let without_endpoints = json!({"name": "empty", "load_assignment": {"cluster_name": "empty"}});
        bootstrap.at("/static_resources/clusters").unwrap().as_array_mut().unwrap().push(without_endpoints);
        let proxy = Proxy::start(ENVOY_1_40, bootstrap, receiver.address()).await;
        send(&proxy).await;
        settled(&proxy, 0, &[("expired", REQUESTS)]).await;
        let sent = proxy.stats("offpath_batches_(sent|retried)_total").await.unwrap();
        assert_eq!(sent.values().sum::<u64>(), 0, "{cluster}");
    }
    assert_eq!(receiver.take_calls().len(), 0);
}

/// The documented way to stop Envoy.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_is_drained_and_stopped_loses_nothing() {
    for (release, mode) in EVERYWHERE {
        let receiver = Receiver::start().await.unwrap();
        // As it ships, but for an interval of a second: batches wait for a second when the drain begins.
        let bootstrap = bootstrap(release, mode, &[("metrics.interval", json!("1s"))]).await;
        let proxy = Proxy::start(release, bootstrap, receiver.address()).await;
        send(&proxy).await;
        let (status, _) = proxy.admin().send(hyper::Method::POST, "/drain_listeners?graceful").await.unwrap();
        assert_eq!(status, 200);
        settled(&proxy, REQUESTS, &[]).await;
        let settled_at = proxy.uptime_seconds().await.unwrap();
        wait::until("one export interval is over", async || {
            Ok((proxy.uptime_seconds().await? > settled_at + 1).then_some(()))
        })
        .await
        .unwrap();
        proxy.stop().await.unwrap();

        assert_all_arrived_once(&receiver);
        let mut inventory = Inventory::default();
        for call in receiver.calls() {
            inventory.add(&call).unwrap();
        }
        assert_eq!(inventory.measured(), REQUESTS, "requests in the histograms");
    }
}
