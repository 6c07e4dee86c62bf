//! What was dropped, told by the plugin's own export, is what Envoy's statistics say.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::Mode,
    load,
    receiver::{Behaviour, Receiver},
    wait,
};

use crate::{
    otlp_decoder::{attributes, list, metrics},
    proxy::{ENVOY_1_40, Proxy, bootstrap},
};

const REQUESTS: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn drops_are_exported_as_monotonic_sums_by_reason() {
    for mode in Mode::ALL {
        let receiver = Receiver::start().await.unwrap();
        let quick = [("metrics.interval", json!("1s")), ("batch.max_delay", json!("100ms"))];
        let bootstrap = bootstrap(ENVOY_1_40, mode, &quick).await;
        let proxy = Proxy::start(ENVOY_1_40, bootstrap, receiver.address()).await;
        receiver.behave(Behaviour::Answer(StatusCode::BAD_REQUEST));
        load::keep_alive(proxy.address(), 4, REQUESTS, |_| load::get("/orders/7")).await.unwrap();
        let points = "wasmcustom.offpath_metric_points_dropped_total.reason.rejected";
        wait::until("all records and some points are refused", async || {
            let records = proxy.accounting().await?.dropped.get("rejected") == Some(&REQUESTS);
            let points = proxy.stats(points).await?.values().any(|count| *count > 0);
            Ok((records && points).then_some(()))
        })
        .await
        .unwrap();
        drop(receiver.take_calls());
        receiver.behave(Behaviour::HEALTHY);
        wait::until("the sums say what the statistics say", async || {
            let mut stats = proxy.stats("wasmcustom.offpath_.*_dropped_total").await?;
            stats.retain(|_, count| *count > 0);
            let sums = sums(&metrics(&receiver.calls(), proxy.folder()).await);
            Ok((sums == stats).then_some(()))
        })
        .await
        .unwrap();
    }
}

/// What all senders have said last, by the name of the statistic that counts the same.
fn sums(metrics: &[Value]) -> BTreeMap<String, u64> {
    let mut newest = BTreeMap::new();
    for metric in metrics.iter().filter(|metric| metric["metric"].get("sum").is_some()) {
        let (sender, metric) =
            (attributes(&metric["resource"])["service.instance.id"].to_string(), &metric["metric"]);
        let sum = &metric["sum"];
        assert_eq!(sum["isMonotonic"], true, "{metric}");
        assert_eq!(sum["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
        let (statistic, unit) = match metric["name"].as_str().unwrap() {
            "offpath.records.dropped" => ("records", "{record}"),
            "offpath.metric_points.dropped" => ("metric_points", "{point}"),
            other => panic!("another sum: {other}"),
        };
        assert_eq!(metric["unit"], unit);
        for point in list(sum, "dataPoints") {
            assert!(point["startTimeUnixNano"].as_str().unwrap() < point["timeUnixNano"].as_str().unwrap());
            let reason = attributes(point)["reason"]["stringValue"].as_str().unwrap().to_owned();
            let name = format!("wasmcustom.offpath_{statistic}_dropped_total.reason.{reason}");
            newest.insert((sender.clone(), name), point["asInt"].as_str().unwrap().parse::<u64>().unwrap());
        }
    }
    let mut all = BTreeMap::new();
    for ((_, name), count) in newest {
        *all.entry(name).or_insert(0) += count;
    }
    all
}
