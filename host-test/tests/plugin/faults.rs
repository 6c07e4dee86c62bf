//! A host that fails: each host call with each status that it can return in Envoy, and memory that cannot grow. Nothing
//! traps that need not, and every record keeps exactly one end.

use std::collections::BTreeSet;

use offpath_host_test::{Answer, FailurePolicy, Proxy, Status, get};
use serde_json::json;

use crate::support::{assert_accounted_for, builder, config, dropped, millis, secs};

/// What each host call that the plugin makes can return besides `Ok`, given that its pointers are good.
const STATUSES: &[(&str, &[Status])] = &[
    ("proxy_get_property", &[Status::NotFound, Status::SerializationFailure]),
    ("proxy_get_buffer_bytes", &[Status::NotFound, Status::BadArgument]),
    ("proxy_get_header_map_pairs", &[Status::NotFound, Status::BadArgument]),
    ("proxy_get_header_map_value", &[Status::NotFound, Status::BadArgument]),
    (
        "proxy_call_foreign_function",
        &[Status::NotFound, Status::BadArgument, Status::InternalFailure, Status::SerializationFailure],
    ),
    ("proxy_get_shared_data", &[Status::NotFound]),
    ("proxy_set_shared_data", &[Status::CasMismatch]),
    ("proxy_http_call", &[Status::BadArgument, Status::InternalFailure]),
    ("proxy_done", &[Status::NotFound]),
];

/// Fails only for a kind, an id or a sign that the plugin never passes: it must not trap, but it cannot count either.
const STATISTICS: &[(&str, &[Status])] = &[
    ("proxy_define_metric", &[Status::BadArgument]),
    ("proxy_increment_metric", &[Status::BadArgument, Status::NotFound]),
    ("proxy_record_metric", &[Status::BadArgument, Status::NotFound]),
    ("proxy_get_metric", &[Status::BadArgument, Status::NotFound]),
];

/// Cannot fail, given a level, a context and a time that there are.
const INFALLIBLE: [&str; 5] = [
    "proxy_log",
    "proxy_get_log_level",
    "proxy_get_current_time_nanoseconds",
    "proxy_set_effective_context",
    "proxy_set_tick_period_milliseconds",
];

fn start() -> Proxy {
    let config = json!({
        "logs": {"request_headers": ["x-a"]},
        "batch": {"max_records": 3, "max_delay": "200ms"},
        "metrics": {"interval": "1s", "temporality": "delta"},
        "retry": {"initial_backoff": "10ms", "max_backoff": "100ms"},
    });
    builder(config).workers(2).start().unwrap()
}

/// Requests, time and answers of all kinds, a new configuration, and machines that beat and look at each other.
fn drive(proxy: &mut Proxy, check: fn(&Proxy)) {
    let answers = [
        Answer::status(200).with_body([0x0a, 2, 8, 1]),
        Answer::status(503).header("retry-after", "1"),
        Answer::Reset,
        Answer::status(400).with_body("no"),
    ];
    for step in 0..60_usize {
        let request = get(format!("/{step}")).header("x-a", "b").header("traceparent", "00-1-1-01");
        proxy.request(request).on_worker(step % 2).respond(200).unwrap();
        check(proxy);
        if !proxy.cluster("otlp").pending().is_empty() {
            proxy.cluster("otlp").answer(answers[step % 4].clone()).unwrap();
            check(proxy);
        }
        proxy.advance(millis(if step % 10 == 0 { 3000 } else { 70 })).unwrap();
        check(proxy);
        if step == 30 {
            // It may be refused, if the configuration could not be read; then the old one stays in use.
            let _ = proxy.reconfigure(config(json!({"batch": {"max_records": 4, "max_delay": "100ms"}})));
            check(proxy);
        }
    }
    assert!(!proxy.has_failed(0) && !proxy.has_failed(1));
}

#[test]
fn every_host_call_that_the_plugin_makes_is_made_to_fail_here() {
    let mut proxy = start();
    drive(&mut proxy, assert_accounted_for);
    proxy.cluster("otlp").serve(200, millis(1));
    proxy.cluster("otlp").answer_all(200).unwrap();
    proxy.advance(secs(30)).unwrap();
    let made: BTreeSet<&str> = proxy.host_calls().keys().copied().collect();
    let fallible = STATUSES.iter().chain(STATISTICS).map(|(name, _)| *name);
    let known: BTreeSet<&str> = fallible.clone().chain(INFALLIBLE).collect();
    assert_eq!(made.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new());
    let never_made = fallible.filter(|name| !made.contains(name) && *name != "proxy_get_metric");
    assert_eq!(never_made.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn a_host_call_that_fails_traps_nothing_and_loses_nothing_uncounted() {
    for (name, statuses) in STATUSES {
        for status in *statuses {
            for (times, before) in [(1, 0), (5, 4), (u32::MAX, 0), (u32::MAX, 4)] {
                if *name == "proxy_get_shared_data" && before > 0 {
                    // What was once set is always found.
                    continue;
                }
                let mut proxy = start();
                for number in 0..before {
                    proxy.request(get("/before")).on_worker(number % 2).respond(200).unwrap();
                }
                proxy.fail_host_call(name, *status, times);
                drive(&mut proxy, assert_accounted_for);
                // The host has recovered, and so has the collector.
                proxy.fail_host_call(name, *status, 0);
                proxy.cluster("otlp").answer_all(200).unwrap();
                proxy.cluster("otlp").serve(200, millis(1));
                proxy.advance(secs(30)).unwrap();
                assert_accounted_for(&proxy);
                let left = (proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes"));
                let captured = proxy.counter("offpath_records_captured_total");
                let expected = (60 + before as u64, (0, 0));
                assert_eq!((captured, left), expected, "{name} {status:?} {times} times after {before}");
            }
        }
    }
}

#[test]
fn statistics_that_the_host_does_not_take_trap_nothing() {
    for (name, statuses) in STATISTICS {
        for status in *statuses {
            let mut proxy = start();
            proxy.fail_host_call(name, *status, u32::MAX);
            drive(&mut proxy, |_| {});
            assert!(proxy.calls_made_by(offpath_host_test::VmRole::Worker(0)) > 0, "{name} {status:?}");
        }
    }
}

#[test]
fn memory_that_cannot_grow_ends_its_machine_and_every_record_is_counted() {
    let mut trapped_in = BTreeSet::new();
    let mut lost = 0;
    for extra_kib in [0, 128, 256, 704] {
        let mut proxy = builder(json!({
            "batch": {"max_delay": "1s", "max_records": 100},
            "metrics": {"interval": "1s"},
            "queue": {"when_full": "spill"},
        }))
        .workers(2)
        .failure_policy(FailurePolicy::FailReload)
        .start()
        .unwrap();
        let limit = proxy.memory_bytes(0) + extra_kib * 1024;
        proxy.limit_memory(limit);
        for step in 0..1500_usize {
            let long = "p".repeat(500 + step % 1500);
            let cluster = format!("cluster-{}", step % 500).into_bytes();
            let request = get(format!("/{long}?{long}")).with(|info| info.cluster_name = Some(cluster));
            let ended = proxy.request(request).on_worker(step % 2).respond(200);
            let ticked = proxy.advance(millis(3));
            assert_accounted_for(&proxy);
            for error in [ended, ticked].into_iter().filter_map(Result::err) {
                let trace = format!("{error:?}");
                assert!(trace.contains("wasm backtrace"), "{trace}");
                trapped_in.insert(trace.split('`').nth(1).unwrap().to_owned());
            }
        }
        assert!(proxy.vm_reloads().success > 0, "{extra_kib} KiB were enough");
        proxy.cluster("otlp").answer_all(200).unwrap();
        proxy.cluster("otlp").serve(200, millis(1));
        proxy.advance(secs(40)).unwrap();
        assert_accounted_for(&proxy);
        lost += dropped(&proxy, "vm_lost");
        let left = (proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes"));
        assert_eq!(left, (0, 0), "{extra_kib} KiB");
    }
    assert!(lost > 0 && trapped_in.contains("proxy_on_log"), "{lost} lost, trapped in {trapped_in:?}");
}
