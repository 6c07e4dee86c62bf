//! Machines that trap, with a build of the plugin that has a trap in it: what they held is counted as `vm_lost`, once,
//! by the machines that are left, and nobody else is taken for lost.

use offpath_host_test::{FailurePolicy, Mode, Proxy, get};
use serde_json::{Value, json};

use crate::support::{
    assert_accounted_for, config, dropped, millis, plugin_wasm, proxy, secs, trapping_wasm,
};

/// Within this time of virtual time all must be counted.
const COUNTED_AFTER_SECS: u64 = 30;

/// What is captured stays pending for long.
fn slow() -> Value {
    json!({"batch": {"max_delay": "1m"}, "metrics": {"enabled": false}})
}

fn start(workers: usize, changes: Value) -> Proxy {
    Proxy::load(trapping_wasm())
        .config(config(changes))
        .workers(workers)
        .failure_policy(FailurePolicy::FailReload)
        .start()
        .unwrap()
}

fn send(proxy: &mut Proxy, worker: usize, requests: u64) {
    for number in 0..requests {
        proxy.request(get(format!("/{number}"))).on_worker(worker).respond(200).unwrap();
    }
}

/// Springs the trap.
#[track_caller]
fn trap(proxy: &mut Proxy, worker: usize) {
    let trapped = proxy.request(get("/").header("x-offpath-trap", "1")).on_worker(worker).respond(200);
    let error = format!("{:?}", trapped.expect_err("the module has no trap in it"));
    assert!(error.contains("wasm trap") && proxy.has_failed(worker), "{error}");
    assert!(error.contains("offpath_filter"), "a backtrace that nobody can read: {error}");
}

/// Lets time pass, with the identity looked at each half second.
#[track_caller]
fn advance(proxy: &mut Proxy, seconds: u64) {
    for _ in 0..2 * seconds {
        proxy.advance(millis(500)).unwrap();
        assert_accounted_for(proxy);
    }
}

#[test]
fn what_a_trapped_machine_held_is_lost_and_nothing_else() {
    for workers in [1, 2, 4] {
        let mut proxy = start(workers, slow());
        for worker in 0..workers {
            send(&mut proxy, worker, 10 + worker as u64);
        }
        let others: u64 = (1..workers as u64).map(|worker| 10 + worker).sum();
        trap(&mut proxy, 0);
        assert_eq!(proxy.gauge("offpath_records_pending"), others + 10);
        advance(&mut proxy, COUNTED_AFTER_SECS);
        assert_eq!(dropped(&proxy, "vm_lost"), 10, "{workers} workers");
        assert_eq!(proxy.gauge("offpath_records_pending"), others);
        // And what the others held is delivered.
        proxy.cluster("otlp").serve(200, millis(5));
        advance(&mut proxy, 60);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), others);
        assert_eq!(proxy.gauge("offpath_records_pending"), 0);
    }
}

#[test]
fn machines_that_trap_together_or_all_of_them_are_each_counted_once() {
    for trapping in [2, 4] {
        for apart in [0, 1, 3, 7] {
            let mut proxy = start(4, slow());
            for worker in 0..4 {
                send(&mut proxy, worker, 1 << worker);
            }
            let mut lost = 0;
            for worker in 0..trapping {
                trap(&mut proxy, worker);
                lost += 1 << worker;
                advance(&mut proxy, apart);
            }
            advance(&mut proxy, COUNTED_AFTER_SECS);
            assert_eq!(dropped(&proxy, "vm_lost"), lost, "{trapping} trap {apart} s apart");
            assert_eq!(proxy.gauge("offpath_records_pending"), 15 - lost);
            advance(&mut proxy, 25);
            assert_eq!(dropped(&proxy, "vm_lost"), lost, "counted again");
        }
    }
}

#[test]
fn batches_that_were_under_way_are_lost_too() {
    let mut proxy = start(2, json!({"batch": {"max_records": 5}, "collector": {"timeout": "5m"}}));
    send(&mut proxy, 0, 23);
    assert!(proxy.gauge("offpath_queue_bytes") > 0);
    trap(&mut proxy, 0);
    // Nobody hears of their answers any more.
    proxy.cluster("otlp").answer(200).unwrap();
    assert_accounted_for(&proxy);
    advance(&mut proxy, COUNTED_AFTER_SECS);
    assert_eq!((dropped(&proxy, "vm_lost"), proxy.counter("offpath_records_delivered_total")), (23, 0));
    // The other worker exports that.
    proxy.cluster("otlp").answer_all(200).unwrap();
    assert_eq!((proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes")), (0, 0));
}

#[test]
fn a_context_that_drains_in_a_machine_that_traps_is_lost_with_it() {
    let mut proxy = start(1, slow());
    send(&mut proxy, 0, 5);
    proxy.reconfigure(config(json!({"batch": {"max_delay": "1m", "max_records": 99}}))).unwrap();
    assert_eq!(proxy.draining(), 1);
    send(&mut proxy, 0, 7);
    trap(&mut proxy, 0);
    advance(&mut proxy, COUNTED_AFTER_SECS);
    let ends = (dropped(&proxy, "vm_lost"), dropped(&proxy, "shutdown"));
    assert_eq!(
        (ends, proxy.gauge("offpath_records_pending")),
        ((7, 5), 0),
        "the old context was to go anyway"
    );
}

#[test]
fn logging_comes_back_and_what_was_not_logged_is_in_the_proxys_counter() {
    let mut proxy = start(2, json!({"batch": {"max_delay": "100ms"}}));
    proxy.cluster("otlp").serve(200, millis(5));
    advance(&mut proxy, 5);
    let (mut requests, mut trapped) = (0, 0);
    for step in 0..400_u64 {
        let worker = usize::try_from(step % 2).unwrap();
        if [7, 11].contains(&(step % 50)) && !proxy.has_failed(worker) {
            trap(&mut proxy, worker);
            trapped += 1;
        } else {
            send(&mut proxy, worker, 1);
        }
        requests += 1;
        proxy.advance(millis(100)).unwrap();
        assert_accounted_for(&proxy);
    }
    assert!(trapped >= 4);
    advance(&mut proxy, COUNTED_AFTER_SECS);
    let reloads = proxy.vm_reloads();
    assert!(reloads.backoff > 0 && reloads.success == trapped && reloads.failure == 0, "{reloads:?}");
    assert_eq!(proxy.counter("offpath_records_captured_total") + trapped + reloads.backoff, requests);
    let delivered = proxy.counter("offpath_records_delivered_total");
    assert_eq!(proxy.counter("offpath_records_captured_total"), delivered + dropped(&proxy, "vm_lost"));
    assert_eq!((proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes")), (0, 0));
}

#[test]
fn many_traps_leave_nothing_behind() {
    let mut proxy = start(2, slow());
    for round in 1..=20 {
        advance(&mut proxy, 2);
        send(&mut proxy, 0, 3);
        trap(&mut proxy, 0);
        advance(&mut proxy, COUNTED_AFTER_SECS);
        assert_eq!(dropped(&proxy, "vm_lost"), 3 * round);
        assert_eq!(proxy.gauge("offpath_records_pending"), 0);
    }
    let table = proxy.shared_data("offpath.slots.1").unwrap();
    assert!(table.len() <= 2 * 24, "{} bytes for one machine at a time", table.len());
}

#[test]
fn a_process_that_was_frozen_loses_nobody() {
    for frozen in [secs(20), secs(3600)] {
        let mut proxy = start(3, slow());
        for worker in 0..3 {
            send(&mut proxy, worker, 5);
        }
        for _ in 0..5 {
            advance(&mut proxy, 5);
            proxy.freeze(frozen);
        }
        proxy.cluster("otlp").serve(200, millis(5));
        advance(&mut proxy, 60);
        let ended = proxy.counter("offpath_records_delivered_total") + dropped(&proxy, "expired");
        assert_eq!((dropped(&proxy, "vm_lost"), ended), (0, 15));
    }
}

#[test]
fn a_clock_that_jumps_while_a_machine_is_dead_changes_nothing() {
    let mut proxy = start(2, slow());
    send(&mut proxy, 0, 5);
    send(&mut proxy, 1, 6);
    trap(&mut proxy, 0);
    advance(&mut proxy, 3);
    proxy.freeze(secs(3600));
    advance(&mut proxy, COUNTED_AFTER_SECS);
    assert_eq!(dropped(&proxy, "vm_lost"), 5);
}

#[test]
fn a_worker_that_stalls_is_lost_or_not_but_counted_once() {
    let mut wrong = Vec::new();
    // What it does first when it runs again: a tick, the answer to a call, or a request.
    for wakes_with in ["tick", "answer", "request"] {
        for stalled in [5, 15, 25, 120] {
            let mut proxy = start(
                2,
                json!({"batch": {"max_records": 5}, "collector": {"timeout": "5m"}, "metrics": {"enabled": false}}),
            );
            send(&mut proxy, 0, 8);
            send(&mut proxy, 1, 3);
            proxy.stall(0, secs(stalled));
            advance(&mut proxy, stalled - 1);
            proxy.advance(millis(999)).unwrap();
            // It runs again, and nothing of what fell due has happened yet.
            proxy.freeze(millis(1));
            match wakes_with {
                "answer" => drop(proxy.cluster("otlp").answer(200).unwrap()),
                "request" => send(&mut proxy, 0, 1),
                _ => {}
            }
            assert_accounted_for(&proxy);
            proxy.cluster("otlp").serve(200, millis(5));
            advance(&mut proxy, 1);
            proxy.cluster("otlp").answer_all(200).unwrap();
            advance(&mut proxy, 10);
            let captured = proxy.counter("offpath_records_captured_total");
            let ended = proxy.counter("offpath_records_delivered_total") + dropped(&proxy, "vm_lost");
            let left = (proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes"));
            if (ended, left) != (captured, (0, 0)) {
                wrong.push(format!(
                    "{wakes_with} after {stalled} s: {ended} of {captured} ended, {left:?} left"
                ));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_filter_that_traps_is_passed_and_what_it_held_is_lost() {
    let mut proxy = Proxy::load(trapping_wasm())
        .config(config(slow()))
        .mode(Mode::HttpFilter)
        .workers(2)
        .failure_policy(FailurePolicy::FailOpen)
        .start()
        .unwrap();
    send(&mut proxy, 0, 5);
    trap(&mut proxy, 0);
    send(&mut proxy, 0, 5);
    assert_eq!((proxy.requests_refused(), proxy.counter("offpath_records_captured_total")), (0, 5));
    advance(&mut proxy, COUNTED_AFTER_SECS);
    assert_eq!((dropped(&proxy, "vm_lost"), proxy.gauge("offpath_records_pending")), (5, 0));
}

#[test]
fn what_an_older_module_held_when_it_was_replaced_is_counted() {
    let mut proxy = start(2, slow());
    send(&mut proxy, 0, 5);
    proxy.replace_module(plugin_wasm()).unwrap();
    assert_accounted_for(&proxy);
    send(&mut proxy, 1, 3);
    advance(&mut proxy, COUNTED_AFTER_SECS);
    let ends = (dropped(&proxy, "vm_lost"), dropped(&proxy, "shutdown"));
    assert_eq!((ends, proxy.gauge("offpath_records_pending")), ((0, 5), 3));
    proxy.cluster("otlp").serve(200, millis(5));
    advance(&mut proxy, 60);
    assert_eq!(proxy.counter("offpath_records_delivered_total"), 3);
}

#[test]
fn the_shipped_module_has_no_trap_in_it() {
    let mut proxy = proxy(slow());
    proxy.request(get("/").header("x-offpath-trap", "1")).respond(200).unwrap();
    assert_eq!(proxy.counter("offpath_records_captured_total"), 1);
}
