//! Every request that Envoy finishes is in the database once, and once in the histograms.

use std::collections::BTreeMap;

use serde_json::json;
use xtask::{
    fetch::Release,
    harness::{
        bootstrap::Mode,
        collector::{self, Collector},
        envoy::{self, WORKERS},
        load, wait,
    },
};

use crate::proxy::{ENVOY_1_36, ENVOY_1_40, Proxy, bootstrap, collector, folder, stored_numbers};

const REQUESTS: u64 = 10_000;
const CONNECTIONS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_are_stored_once_each_by_the_access_logger_in_1_40() {
    every_request_is_stored_once(ENVOY_1_40, Mode::AccessLogger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_are_stored_once_each_by_the_http_filter_in_1_40() {
    every_request_is_stored_once(ENVOY_1_40, Mode::HttpFilter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_are_stored_once_each_by_the_access_logger_in_1_36() {
    every_request_is_stored_once(ENVOY_1_36, Mode::AccessLogger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_are_stored_once_each_by_the_http_filter_in_1_36() {
    every_request_is_stored_once(ENVOY_1_36, Mode::HttpFilter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_are_stored_once_each_by_the_dynamic_module_in_1_40() {
    every_request_is_stored_once(ENVOY_1_40, Mode::DynamicModule).await;
}

async fn every_request_is_stored_once(release: Release, mode: Mode) {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let keys = [("metrics.interval", json!("1s"))];
    let proxy = Proxy::start(release, bootstrap(release, mode, &keys).await, collector.otlp()).await;

    let statuses = load::keep_alive(proxy.address(), CONNECTIONS, REQUESTS, |n| {
        load::get(&match n % 10 {
            0 => format!("/orders/{n}?n={n}&status=503"),
            1 => format!("/reports/{n}?n={n}&status=404"),
            _ => format!("/orders/{n}?n={n}"),
        })
    })
    .await
    .unwrap();
    assert_eq!(statuses, BTreeMap::from([(200, 8_000), (404, 1_000), (503, 1_000)]));

    let all_delivered =
        envoy::Accounting { captured: REQUESTS, delivered: REQUESTS, ..envoy::Accounting::default() };
    wait::until_equal("the plugin's accounting", &all_delivered, async || proxy.accounting().await)
        .await
        .unwrap();
    let all_stored = collector::Accounting {
        received: REQUESTS,
        stored: REQUESTS,
        deduplicated: 0,
        dead_lettered: 0,
        queued: 0,
    };
    wait::until_equal("the collector's accounting", &all_stored, async || collector.accounting().await)
        .await
        .unwrap();
    wait::until_equal("the requests in the histograms, by status", &statuses, async || {
        measured(&collector).await
    })
    .await
    .unwrap();

    let numbers = stored_numbers(&collector).await;
    assert!(numbers.iter().copied().eq(0..REQUESTS), "{} records, not each number once", numbers.len());

    for worker in 0..WORKERS {
        let connections =
            proxy.stats(&format!(r"^listener\..*worker_{worker}\.downstream_cx_total$")).await.unwrap();
        assert!(connections.values().sum::<u64>() > 0, "worker {worker} had nothing to do");
    }
}

/// Requests by status, as the merged histograms count them.
async fn measured(collector: &Collector) -> anyhow::Result<BTreeMap<u16, u64>> {
    let series = collector.latency("by=status&step=31536000").await?;
    let count = |series: &collector::LatencySeries| series.points.iter().map(|point| point.count).sum();
    series
        .iter()
        .map(|series| Ok((series.key.as_str().unwrap_or_default().parse()?, count(series))))
        .collect()
}
