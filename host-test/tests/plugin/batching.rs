//! Batches: when one is sealed, what its call looks like, how many are under way, and who never calls.

use offpath_host_test::{Mode, VmRole, get};
use serde_json::json;

use crate::support::{accepted_calls, assert_accounted_for, builder, millis, proxy, records, secs};

#[test]
fn a_batch_is_sealed_by_its_last_record() {
    let mut proxy =
        proxy(json!({"batch": {"max_records": 3, "max_delay": "1m"}, "metrics": {"enabled": false}}));
    for sent in [0, 0, 1, 1, 1, 2] {
        proxy.request(get("/")).respond(200).unwrap();
        assert_eq!(proxy.cluster("otlp").pending().len(), sent);
    }
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    assert_eq!(calls.iter().map(|call| records([call]).len()).collect::<Vec<_>>(), [3, 3]);
}

#[test]
fn a_batch_is_sealed_before_it_outgrows_its_bytes() {
    let config = json!({
        "logs": {"max_record_bytes": 1024},
        "batch": {"max_bytes": 4096, "max_delay": "1m"},
        "metrics": {"enabled": false},
    });
    let mut proxy = proxy(config);
    for number in 0..40 {
        proxy.request(get(format!("/{number}"))).respond(200).unwrap();
    }
    let mut calls = proxy.cluster("otlp").answer_all(200).unwrap();
    calls.extend(accepted_calls(&mut proxy, 62));
    assert!(calls.iter().all(|call| call.body.len() <= 4096));
    // The next record would not have fitted any more, so each but the last is nearly full.
    let (_, full) = calls.split_last().unwrap();
    assert!(full.len() > 2 && full.iter().all(|call| call.body.len() > 3072));
    assert_eq!(records(&calls).len(), 40);
    assert_accounted_for(&proxy);
}

#[test]
fn a_batch_is_sealed_by_its_age() {
    for (delay, late) in [("400ms", millis(400)), ("10ms", millis(10)), ("5s", secs(5))] {
        let mut proxy = proxy(json!({"batch": {"max_delay": delay}, "metrics": {"enabled": false}}));
        proxy.request(get("/")).respond(200).unwrap();
        assert_eq!(proxy.cluster("otlp").pending().len(), 0, "{delay}");
        // A tick may come a quarter of the delay late.
        proxy.advance(late + late / 4 + millis(10)).unwrap();
        assert_eq!(proxy.cluster("otlp").pending().len(), 1, "{delay}");
    }
}

#[test]
fn no_more_calls_are_under_way_than_allowed() {
    for allowed in [1, 2, 5] {
        let config = json!({
            "collector": {"max_in_flight": allowed, "timeout": "5m"},
            "batch": {"max_records": 1},
            "metrics": {"enabled": false},
        });
        let mut proxy = proxy(config);
        for _ in 0..10 {
            proxy.request(get("/")).respond(200).unwrap();
            assert!(proxy.cluster("otlp").pending().len() <= allowed);
        }
        assert_eq!(proxy.cluster("otlp").pending().len(), allowed);
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        assert_eq!(calls.len(), 10);
        let sequence: Vec<u64> = calls
            .iter()
            .map(|call| call.header("x-offpath-batch").unwrap().rsplit('-').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(sequence, (1..=10).collect::<Vec<_>>());
    }
}

#[test]
fn an_export_call_is_what_the_contract_says() {
    let config = json!({
        "collector": {"authority": "collector.example", "path_prefix": "/otlp", "timeout": "3s",
                      "headers": {"X-Tenant": "shop"}},
        "batch": {"max_records": 1},
        "metrics": {"interval": "1s"},
    });
    let mut proxy = proxy(config);
    proxy.request(get("/")).respond(200).unwrap();
    proxy.advance(secs(1)).unwrap();
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    let paths: Vec<_> = calls.iter().map(offpath_host_test::Call::path).collect();
    assert_eq!(paths, ["/otlp/v1/logs", "/otlp/v1/metrics"]);
    for call in &calls {
        assert_eq!(call.header(":method"), Some("POST"));
        assert_eq!(call.header(":authority"), Some("collector.example"));
        assert_eq!(call.header("content-type"), Some("application/x-protobuf"));
        let agent = call.header("user-agent").unwrap();
        assert!(agent.starts_with("OTel-OTLP-Exporter-offpath/"), "{agent}");
        assert_eq!(call.header("x-tenant"), Some("shop"));
        assert_eq!(call.timeout, Some(secs(3)));
    }
    let instances: Vec<_> =
        calls.iter().map(|call| call.header("x-offpath-batch").unwrap().rsplit_once('-').unwrap()).collect();
    assert_eq!(instances[0].0, instances[1].0);
    assert_eq!((instances[0].1, instances[1].1), ("1", "2"));
}

#[test]
fn each_root_context_has_an_id_of_its_own() {
    let mut proxy = builder(json!({"batch": {"max_records": 1}})).workers(4).start().unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for worker in 0..4 {
        proxy.request(get("/")).on_worker(worker).respond(200).unwrap();
        let call = proxy.cluster("otlp").answer(200).unwrap();
        ids.insert(call.header("x-offpath-batch").unwrap().to_owned());
    }
    assert_eq!(ids.len(), 4);
}

#[test]
fn an_idle_proxy_never_calls() {
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        let mut proxy =
            builder(json!({"metrics": {"interval": "1s"}})).mode(mode).workers(2).start().unwrap();
        proxy.advance(secs(3600)).unwrap();
        for vm in [VmRole::Canary, VmRole::Main, VmRole::Worker(0), VmRole::Worker(1)] {
            assert_eq!(proxy.calls_made_by(vm), 0, "{mode:?} {vm:?}");
        }
    }
}

#[test]
fn only_the_worker_that_saw_requests_calls() {
    let mut proxy = builder(json!({"metrics": {"interval": "1s"}})).workers(2).start().unwrap();
    for number in 0..10 {
        proxy.request(get(format!("/{number}"))).on_worker(1).respond(200).unwrap();
    }
    proxy.advance(secs(10)).unwrap();
    proxy.cluster("otlp").answer_all(200).unwrap();
    assert!(proxy.calls_made_by(VmRole::Worker(1)) > 0);
    for vm in [VmRole::Canary, VmRole::Main, VmRole::Worker(0)] {
        assert_eq!(proxy.calls_made_by(vm), 0, "{vm:?}");
    }
}

#[test]
fn a_filter_calls_from_its_root_context_only() {
    let config = json!({"batch": {"max_records": 1, "max_delay": "100ms"}, "metrics": {"enabled": false}});
    let mut proxy = builder(config).mode(Mode::HttpFilter).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    assert_eq!(proxy.cluster("otlp").pending().len(), 0);
    proxy.advance(millis(100)).unwrap();
    assert_eq!(records(&proxy.cluster("otlp").answer_all(200).unwrap()).len(), 1);
    assert_accounted_for(&proxy);
}
