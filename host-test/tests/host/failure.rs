//! Machines that trap: which requests pass, which are not heard of, and when there is a new machine.

use std::time::Duration;

use offpath_host_test::{Answer, FailurePolicy, Mode, PluginModule, Proxy, VmRole, get};
use serde_json::json;

use crate::probe::{Arg, Probe, bytes};

const LOG: &str = "proxy_on_log";

/// A guest that adds 1 to the gauge `g` and makes a call for each request, and then traps over one to `/trap`.
fn trapping() -> PluginModule {
    let wat = r#"
        (module
          (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
          (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_http_call"
            (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (data (i32.const 16) "g")
          (data (i32.const 32) "request\00path")
          (data (i32.const 48) "otlp")
          (data (i32.const 64) "\03\00\00\00\07\00\00\00\04\00\00\00\05\00\00\00\01\00\00\00\0a\00\00\00\01\00\00\00")
          (data (i32.const 92) ":method\00POST\00:path\00/\00:authority\00a\00")
          (data (i32.const 160) "answered")
          (func (export "proxy_abi_version_0_2_1"))
          (func (export "malloc") (param i32) (result i32) (i32.const 1024))
          (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $define (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
            (i32.const 1))
          (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
            (drop (call $log (i32.const 2) (i32.const 160) (i32.const 8))))
          (func (export "proxy_on_log") (param i32)
            (drop (call $increment (i32.load (i32.const 8)) (i64.const 1)))
            (drop (call $call (i32.const 48) (i32.const 4) (i32.const 64) (i32.const 62) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 200)))
            (drop (call $property (i32.const 32) (i32.const 12) (i32.const 208) (i32.const 212)))
            (if (i32.eq (i32.load (i32.const 212)) (i32.const 5)) (then unreachable))))"#;
    PluginModule::compile(&wat::parse_str(wat).unwrap()).unwrap()
}

fn start(mode: Mode, policy: FailurePolicy) -> Proxy {
    Proxy::load(&trapping()).mode(mode).failure_policy(policy).workers(2).start().unwrap()
}

fn trap(proxy: &mut Proxy, worker: usize) {
    let error = format!("{:?}", proxy.request(get("/trap")).on_worker(worker).respond(200).unwrap_err());
    assert!(error.contains("unreachable"), "{error}");
    assert!(proxy.has_failed(worker));
}

/// How many of `requests` ordinary ones to worker 0 the plugin hears of.
fn heard(proxy: &mut Proxy, requests: u64) -> u64 {
    let before = proxy.gauge("g");
    for _ in 0..requests {
        proxy.request(get("/")).respond(200).unwrap();
    }
    proxy.gauge("g") - before
}

#[test]
fn a_machine_that_trapped_stays_dead_unless_it_may_be_reloaded() {
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        for policy in [FailurePolicy::FailClosed, FailurePolicy::FailOpen] {
            let mut proxy = start(mode, policy);
            trap(&mut proxy, 0);
            proxy.advance(Duration::from_secs(60)).unwrap();
            assert_eq!(heard(&mut proxy, 10), 0);
            assert!(proxy.has_failed(0) && !proxy.has_failed(1));
            // Only a filter that must not be left out stands in a request's way.
            let refused = (mode, policy) == (Mode::HttpFilter, FailurePolicy::FailClosed);
            assert_eq!(proxy.requests_refused(), if refused { 10 } else { 0 }, "{mode:?} {policy:?}");
            assert_eq!(proxy.vm_reloads(), Default::default());
        }
    }
}

#[test]
fn a_reload_waits_for_the_backoff_and_what_comes_meanwhile_is_counted() {
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        let mut proxy = start(mode, FailurePolicy::FailReload);
        trap(&mut proxy, 0);
        // The machine is younger than the shortest backoff.
        proxy.advance(Duration::from_millis(999)).unwrap();
        assert_eq!(heard(&mut proxy, 7), 0);
        assert_eq!(proxy.vm_reloads().backoff, 7);
        assert_eq!(proxy.requests_refused(), if mode == Mode::HttpFilter { 7 } else { 0 });
        // And now it is older than the longest.
        proxy.advance(Duration::from_millis(501)).unwrap();
        assert_eq!(heard(&mut proxy, 3), 3);
        let reloads = proxy.vm_reloads();
        assert_eq!((reloads.backoff, reloads.success, reloads.failure), (7, 1, 0));
        assert!(!proxy.has_failed(0));
    }
}

#[test]
fn a_machine_that_was_long_there_is_replaced_by_the_next_request() {
    let mut proxy = start(Mode::AccessLogger, FailurePolicy::FailReload);
    proxy.advance(Duration::from_secs(5)).unwrap();
    trap(&mut proxy, 1);
    trap(&mut proxy, 0);
    assert_eq!(heard(&mut proxy, 1), 1);
    // The other worker's is replaced by its own request.
    assert!(proxy.has_failed(1));
    assert_eq!(proxy.vm_reloads().success, 1);
}

#[test]
fn the_backoff_is_drawn_for_each_request_between_one_and_one_and_a_half() {
    let mut proxy = start(Mode::AccessLogger, FailurePolicy::FailReload);
    let mut pauses = Vec::new();
    for _ in 0..50 {
        trap(&mut proxy, 0);
        let begin = proxy.now_unix_nanos();
        while heard(&mut proxy, 1) == 0 {
            proxy.advance(Duration::from_millis(50)).unwrap();
        }
        pauses.push(Duration::from_nanos(proxy.now_unix_nanos() - begin).as_millis());
    }
    assert!(pauses.iter().all(|pause| (1000..=1500).contains(pause)), "{pauses:?}");
    pauses.dedup();
    assert!(pauses.len() > 10, "{pauses:?}");
}

#[test]
fn what_a_machine_had_added_to_a_gauge_stays_and_its_calls_end() {
    let mut proxy = start(Mode::AccessLogger, FailurePolicy::FailReload);
    assert_eq!(heard(&mut proxy, 2), 2);
    proxy.advance(Duration::from_secs(5)).unwrap();
    trap(&mut proxy, 0);
    assert_eq!(proxy.gauge("g"), 3);
    // The upstream has the calls and answers; the machine hears nothing.
    assert_eq!(proxy.cluster("otlp").pending().len(), 3);
    proxy.cluster("otlp").answer(200).unwrap();
    assert_eq!(proxy.log_lines(), []);
    // With its machine go the others.
    assert_eq!(heard(&mut proxy, 1), 1);
    let [call] = &proxy.cluster("otlp").pending()[..] else { panic!() };
    assert_eq!(call.vm, VmRole::Worker(0));
    proxy.cluster("otlp").answer(Answer::status(200)).unwrap();
    assert_eq!(proxy.log_lines().len(), 1);
    assert_eq!(proxy.gauge("g"), 4);
}

#[test]
fn a_listener_update_replaces_a_machine_that_trapped() {
    for policy in [FailurePolicy::FailClosed, FailurePolicy::FailOpen, FailurePolicy::FailReload] {
        let mut proxy = start(Mode::AccessLogger, policy);
        trap(&mut proxy, 0);
        proxy.reconfigure(json!({"other": true})).unwrap();
        assert!(!proxy.has_failed(0));
        assert_eq!(heard(&mut proxy, 3), 3);
    }
}

#[test]
fn another_module_destroys_the_machines_without_waiting() {
    let hooks = ["proxy_on_configure", "proxy_on_tick", "proxy_on_done", "proxy_on_delete"];
    let old = hooks.iter().fold(Probe::default(), |probe, hook| probe.logging(hook));
    let old = old
        .call("proxy_on_configure", "proxy_set_tick_period_milliseconds", &[Arg::Int(100)])
        .returning("proxy_on_done", 0);
    let mut proxy = Proxy::load(&old.compile()).workers(0).start().unwrap();
    let before = proxy.log_lines().len();
    let new = Probe::default().call("proxy_on_configure", "proxy_log", &[Arg::Int(2), bytes("new")]);
    proxy.replace_module(&new.compile()).unwrap();
    proxy.advance(Duration::from_secs(1)).unwrap();
    let lines: Vec<&str> = proxy.log_lines()[before..].iter().map(|line| line.message.as_str()).collect();
    // No `on_delete`: that is for those that said they were done.
    assert_eq!(lines, ["new", "new", "proxy_on_done"]);
    assert_eq!(proxy.draining(), 0);
}

#[test]
fn a_drained_listener_takes_no_requests_and_its_machines_live_on() {
    let probe = Probe::default()
        .call("proxy_on_configure", "proxy_set_tick_period_milliseconds", &[Arg::Int(100)])
        .logging("proxy_on_tick")
        .logging(LOG);
    let mut proxy = Proxy::load(&probe.compile()).workers(1).start().unwrap();
    proxy.drain_listeners();
    assert!(proxy.request(get("/")).respond(200).is_err());
    proxy.advance(Duration::from_millis(100)).unwrap();
    assert_eq!(proxy.log_lines().len(), 2);
}

#[test]
fn a_frozen_process_does_late_what_fell_due() {
    let probe = Probe::default()
        .call("proxy_on_configure", "proxy_set_tick_period_milliseconds", &[Arg::Int(100)])
        .logging("proxy_on_tick");
    let mut proxy = Proxy::load(&probe.compile()).workers(0).start().unwrap();
    proxy.freeze(Duration::from_secs(3600));
    assert_eq!(proxy.log_lines().len(), 0);
    proxy.advance(Duration::from_millis(250)).unwrap();
    // One that was late, and then two in time.
    assert_eq!(proxy.log_lines().len(), 3);
}

#[test]
fn a_stalled_worker_does_late_what_fell_due_and_the_others_do_not() {
    let probe = Probe::default()
        .call("proxy_on_configure", "proxy_set_tick_period_milliseconds", &[Arg::Int(100)])
        .logging("proxy_on_tick")
        .logging(LOG);
    let mut proxy = Proxy::load(&probe.compile()).workers(2).start().unwrap();
    proxy.stall(1, Duration::from_millis(250));
    let error = proxy.request(get("/")).on_worker(1).respond(200).unwrap_err().to_string();
    assert!(error.contains("worker 1 is stalled") && proxy.reconfigure(json!({})).is_err(), "{error}");
    let ticks = |proxy: &Proxy, worker| {
        proxy.log_lines().iter().filter(|line| line.vm == VmRole::Worker(worker)).count()
    };
    proxy.advance(Duration::from_millis(249)).unwrap();
    assert_eq!((ticks(&proxy, 0), ticks(&proxy, 1)), (2, 0));
    proxy.advance(Duration::from_millis(1)).unwrap();
    assert_eq!((ticks(&proxy, 0), ticks(&proxy, 1), proxy.is_stalled(1)), (2, 1, false));
    proxy.request(get("/")).on_worker(1).respond(200).unwrap();
}
