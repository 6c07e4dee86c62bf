//! What was dropped is exported, too: sums that say the same as the proxy's own statistics.

use std::collections::BTreeMap;

use offpath_host_test::{Call, FailurePolicy, Proxy, get};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, metric, number_data_point};
use serde_json::json;

use crate::support::{
    accepted_calls, attributes, config, decode_metrics, dropped, proxy, secs, trapping_wasm,
};

/// By metric, sender and reason: what the calls say in the end, or in all.
fn sums(calls: &[Call], temporality: AggregationTemporality) -> BTreeMap<(String, String), i64> {
    let mut by_stream = BTreeMap::new();
    for call in calls.iter().filter(|call| call.path() == "/v1/metrics") {
        for resource in decode_metrics(call).resource_metrics {
            let sender =
                format!("{:?}", attributes(&resource.resource.unwrap().attributes)["service.instance.id"]);
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let Some(metric::Data::Sum(sum)) = metric.data else { continue };
                assert!(sum.is_monotonic && sum.aggregation_temporality() == temporality);
                for point in sum.data_points {
                    let reason = format!("{:?}", attributes(&point.attributes)["reason"]);
                    let Some(number_data_point::Value::AsInt(count)) = point.value else {
                        panic!("{point:?}")
                    };
                    assert!(point.start_time_unix_nano < point.time_unix_nano && count > 0, "{point:?}");
                    let told = by_stream.entry((metric.name.clone(), sender.clone(), reason)).or_insert(0);
                    match temporality {
                        AggregationTemporality::Delta => *told += count,
                        _ => *told = count,
                    }
                }
            }
        }
    }
    let mut by_reason = BTreeMap::new();
    for ((metric, _, reason), count) in by_stream {
        let reason = reason.split('"').nth(1).unwrap().to_owned();
        *by_reason.entry((metric, reason)).or_insert(0) += count;
    }
    by_reason
}

fn records(reason: &str) -> (String, String) {
    ("offpath.records.dropped".to_owned(), reason.to_owned())
}

#[test]
fn what_is_exported_is_what_the_proxys_statistics_say() {
    for (name, temporality) in
        [("cumulative", AggregationTemporality::Cumulative), ("delta", AggregationTemporality::Delta)]
    {
        let mut proxy = proxy(json!({
            "metrics": {"interval": "2s", "temporality": name},
            "logs": {"max_records_per_second": 5, "sample_by": "random"},
            "batch": {"max_records": 1},
        }));
        let mut calls = Vec::new();
        for round in 0..4 {
            for _ in 0..2000 {
                proxy.request(get("/")).respond(200).unwrap();
            }
            let status = if round % 2 == 0 { 400 } else { 200 };
            calls.extend(
                proxy.cluster("otlp").answer_all(status).unwrap().into_iter().filter(|_| status == 200),
            );
            calls.extend(accepted_calls(&mut proxy, 3));
        }
        calls.extend(accepted_calls(&mut proxy, 3));
        let sums = sums(&calls, temporality);
        let (rejected, limited) = (dropped(&proxy, "rejected"), dropped(&proxy, "rate_limited"));
        assert!(rejected > 0 && limited > 0, "{rejected} {limited}");
        assert_eq!(
            sums,
            BTreeMap::from([
                (records("rate_limited"), limited.cast_signed()),
                (records("rejected"), rejected.cast_signed())
            ]),
            "{name}"
        );
    }
}

#[test]
fn points_that_were_refused_are_told_by_the_next_export() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}, "logs": {"enabled": false}}));
    proxy.request(get("/")).respond(200).unwrap();
    proxy.advance(secs(1)).unwrap();
    proxy.cluster("otlp").answer(400).unwrap();
    let calls = accepted_calls(&mut proxy, 2);
    let refused = ("offpath.metric_points.dropped".to_owned(), "rejected".to_owned());
    assert_eq!(sums(&calls, AggregationTemporality::Cumulative), BTreeMap::from([(refused, 1)]));
}

#[test]
fn what_a_lost_machine_held_is_told_by_the_one_that_counts_it() {
    let slow = json!({"metrics": {"interval": "1s"}, "batch": {"max_delay": "1m"}});
    let trapping = Proxy::load(trapping_wasm()).config(config(slow)).workers(2);
    let mut proxy = trapping.failure_policy(FailurePolicy::FailReload).start().unwrap();
    for _ in 0..10 {
        proxy.request(get("/")).on_worker(0).respond(200).unwrap();
    }
    proxy.request(get("/")).on_worker(1).respond(200).unwrap();
    proxy.request(get("/").header("x-offpath-trap", "1")).on_worker(0).respond(200).unwrap_err();
    let calls = accepted_calls(&mut proxy, 40);
    assert_eq!(dropped(&proxy, "vm_lost"), 10);
    assert_eq!(sums(&calls, AggregationTemporality::Cumulative), BTreeMap::from([(records("vm_lost"), 10)]));
}

#[test]
fn nothing_dropped_is_nothing_told() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}}));
    proxy.request(get("/")).respond(200).unwrap();
    let calls = accepted_calls(&mut proxy, 5);
    assert!(calls.len() > 3 && sums(&calls, AggregationTemporality::Cumulative).is_empty());
}
