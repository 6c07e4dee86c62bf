//! What becomes of records when the collector does not take them, and that each is accounted for.

use std::{collections::BTreeMap, net::SocketAddr};

use hyper::StatusCode;
use serde_json::json;
use xtask::harness::{bootstrap::Mode, envoy::Accounting, load, receiver::Receiver, wait};

use crate::proxy::{ENVOY_1_40, Proxy, bootstrap};

const REQUESTS: u64 = 200;

/// A final answer: what was sent is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_collector_refuses_for_good_are_counted_as_rejected() {
    for mode in Mode::ALL {
        let receiver = Receiver::start().await.unwrap();
        receiver.answer(StatusCode::BAD_REQUEST);
        all_are_dropped_as("rejected", mode, receiver.address()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_a_collector_that_is_overloaded_are_counted_as_expired() {
    for mode in Mode::ALL {
        let receiver = Receiver::start().await.unwrap();
        receiver.answer(StatusCode::SERVICE_UNAVAILABLE);
        all_are_dropped_as("expired", mode, receiver.address()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_a_collector_that_is_down_are_counted_as_expired() {
    for mode in Mode::ALL {
        let nobody = Receiver::start().await.unwrap().address();
        all_are_dropped_as("expired", mode, nobody).await;
    }
}

/// Sends requests, none of which may notice, and waits until all their records are dropped for one reason.
async fn all_are_dropped_as(reason: &str, mode: Mode, collector: SocketAddr) {
    let keys = [("batch.max_records", json!(16)), ("batch.max_delay", json!("100ms"))];
    let proxy = Proxy::start(ENVOY_1_40, bootstrap(ENVOY_1_40, mode, &keys).await, collector).await;
    let statuses =
        load::keep_alive(proxy.address(), 4, REQUESTS, |n| load::get(&format!("/orders/{n}"))).await.unwrap();
    assert_eq!(statuses, BTreeMap::from([(200, REQUESTS)]));

    let dropped = BTreeMap::from([(reason.to_owned(), REQUESTS)]);
    let expected = Accounting { captured: REQUESTS, dropped, ..Accounting::default() };
    wait::until_equal("the plugin's accounting", &expected, async || {
        let accounting = proxy.accounting().await?;
        assert!(accounting.balances(), "captured is not the sum of the rest: {accounting:?}");
        Ok(accounting)
    })
    .await
    .unwrap();

    let prometheus = proxy.admin().text("/stats/prometheus").await.unwrap();
    let line = format!("offpath_records_dropped_total{{reason=\"{reason}\"}} {REQUESTS}");
    assert!(prometheus.lines().any(|other| other == line), "no `{line}` in {prometheus}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_recovers_gets_what_comes_after() {
    let receiver = Receiver::start().await.unwrap();
    receiver.answer(StatusCode::BAD_REQUEST);
    let keys = [("batch.max_records", json!(16)), ("batch.max_delay", json!("100ms"))];
    let bootstrap = bootstrap(ENVOY_1_40, Mode::AccessLogger, &keys).await;
    let proxy = Proxy::start(ENVOY_1_40, bootstrap, receiver.address()).await;
    let send = async || {
        load::keep_alive(proxy.address(), 4, REQUESTS, |n| load::get(&format!("/orders/{n}"))).await.unwrap();
        wait::until(
            "nothing is pending",
            async || Ok((proxy.accounting().await?.pending == 0).then_some(())),
        )
        .await
        .unwrap();
    };
    send().await;
    receiver.answer(StatusCode::OK);
    send().await;
    let accounting = proxy.accounting().await.unwrap();
    assert_eq!(accounting.captured, 2 * REQUESTS);
    assert_eq!(accounting.delivered, REQUESTS);
    assert_eq!(accounting.dropped, BTreeMap::from([("rejected".to_owned(), REQUESTS)]));
}
