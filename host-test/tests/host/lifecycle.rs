//! Machines and contexts: who is started when, ticks, reconfiguration, streams, the end.

use std::time::Duration;

use offpath_host_test::{Mode, Proxy, Request, Status, VmRole, get};
use serde_json::json;

use crate::probe::{Arg, Probe};

const CREATE: &str = "proxy_on_context_create";
const START: &str = "proxy_on_vm_start";
const CONFIGURE: &str = "proxy_on_configure";
const TICK: &str = "proxy_on_tick";
const LOG: &str = "proxy_on_log";
const DONE: &str = "proxy_on_done";
const DELETE: &str = "proxy_on_delete";

/// A guest that logs the names of these hooks.
fn logging(hooks: &[&'static str]) -> Probe {
    hooks.iter().fold(Probe::default(), |probe, hook| probe.logging(hook))
}

/// What was logged since the first `skip` lines.
fn logged(proxy: &Proxy, skip: usize) -> Vec<(VmRole, &str)> {
    proxy.log_lines().iter().skip(skip).map(|line| (line.vm, line.message.as_str())).collect()
}

/// A guest that sets a tick period while it is configured.
fn ticking(period_ms: u32) -> Probe {
    Probe::default()
        .call(CONFIGURE, "proxy_set_tick_period_milliseconds", &[Arg::Int(period_ms)])
        .logging(TICK)
}

#[test]
fn a_canary_the_main_thread_and_each_worker_are_configured_in_that_order() {
    let proxy = Proxy::load(&logging(&[CREATE, START, CONFIGURE]).compile()).workers(2).start().unwrap();
    let roles = [VmRole::Canary, VmRole::Main, VmRole::Worker(0), VmRole::Worker(1)];
    let expected: Vec<_> =
        roles.iter().flat_map(|role| [CREATE, START, CONFIGURE].map(|hook| (*role, hook))).collect();
    assert_eq!(logged(&proxy, 0), expected);
}

#[test]
fn a_refused_configuration_is_an_error_with_the_log() {
    for hook in [START, CONFIGURE] {
        let probe = logging(&[hook]).returning(hook, 0);
        let error = Proxy::load(&probe.compile()).start().err().unwrap().to_string();
        assert!(error.contains("refused its configuration") && error.contains(hook), "{error}");
    }
}

#[test]
fn a_tick_is_armed_again_when_it_has_returned() {
    let mut proxy = Proxy::load(&ticking(100).compile()).start().unwrap();
    proxy.advance(Duration::from_millis(99)).unwrap();
    assert_eq!(logged(&proxy, 0), []);
    proxy.advance(Duration::from_millis(1)).unwrap();
    assert_eq!(logged(&proxy, 0), [(VmRole::Main, TICK), (VmRole::Worker(0), TICK)]);
    proxy.advance(Duration::from_secs(1)).unwrap();
    assert_eq!(logged(&proxy, 0).len(), 22);
}

#[test]
fn a_clock_that_is_set_back_moves_no_tick() {
    let mut proxy = Proxy::load(&ticking(100).compile()).workers(0).start().unwrap();
    let start = proxy.now_unix_nanos();
    proxy.advance(Duration::from_millis(50)).unwrap();
    proxy.set_clock_back(Duration::from_secs(3600));
    proxy.advance(Duration::from_millis(50)).unwrap();
    assert_eq!(logged(&proxy, 0), [(VmRole::Main, TICK)]);
    assert_eq!(proxy.now_unix_nanos(), start - 3_600_000_000_000 + 100_000_000);
}

#[test]
fn a_period_set_in_a_tick_counts_from_then_and_zero_stops_it() {
    let faster = Probe::default()
        .call(CONFIGURE, "proxy_set_tick_period_milliseconds", &[Arg::Int(1000)])
        .call(TICK, "proxy_set_tick_period_milliseconds", &[Arg::Int(10)])
        .logging(TICK);
    let mut proxy = Proxy::load(&faster.compile()).workers(0).start().unwrap();
    proxy.advance(Duration::from_millis(1025)).unwrap();
    assert_eq!(logged(&proxy, 0).len(), 3);

    let stopping = ticking(10).call(TICK, "proxy_set_tick_period_milliseconds", &[Arg::Int(0)]);
    let mut proxy = Proxy::load(&stopping.compile()).workers(0).start().unwrap();
    proxy.advance(Duration::from_secs(1)).unwrap();
    assert_eq!(logged(&proxy, 0).len(), 1);
}

#[test]
fn reconfiguration_creates_the_new_context_before_the_old_one_is_done() {
    let probe = logging(&[CREATE, START, CONFIGURE, DONE, DELETE]);
    let mut proxy = Proxy::load(&probe.compile()).workers(0).start().unwrap();
    let before = proxy.log_lines().len();
    proxy.reconfigure(json!({"other": true})).unwrap();
    let canary = [CREATE, START, CONFIGURE].map(|hook| (VmRole::Canary, hook));
    let main = [CREATE, START, CONFIGURE, DONE, DELETE].map(|hook| (VmRole::Main, hook));
    assert_eq!(logged(&proxy, before), [&canary[..], &main[..]].concat());
    assert_eq!((proxy.draining(), proxy.canaries()), (0, 2));
}

#[test]
fn a_context_that_is_not_done_goes_on_ticking_until_it_says_so() {
    let probe = ticking(100).logging(DONE).returning(DONE, 0).logging(DELETE);
    let mut proxy = Proxy::load(&probe.compile()).workers(0).start().unwrap();
    proxy.reconfigure(json!({})).unwrap();
    assert_eq!(proxy.draining(), 1);
    proxy.advance(Duration::from_millis(100)).unwrap();
    // The old context ticks beside the new one, and neither is deleted.
    assert_eq!(logged(&proxy, 0), [(VmRole::Main, DONE), (VmRole::Main, TICK), (VmRole::Main, TICK)]);

    let probe = probe.call(TICK, "proxy_done", &[]);
    let mut proxy = Proxy::load(&probe.compile()).workers(0).start().unwrap();
    proxy.reconfigure(json!({})).unwrap();
    proxy.advance(Duration::from_millis(100)).unwrap();
    let ends = logged(&proxy, 0);
    assert_eq!(ends.iter().filter(|(_, hook)| *hook == DELETE).count(), 1);
    assert_eq!(proxy.draining(), 0);
    // The last tick was the new context's, which nobody had asked whether it was done.
    assert_eq!(probe.outcomes(&proxy, TICK).pop().unwrap().status, Status::NotFound.code());
}

#[test]
fn a_stream_has_its_hooks_in_envoys_order() {
    let hooks = [
        CREATE,
        "proxy_on_request_headers",
        "proxy_on_request_body",
        "proxy_on_request_body",
        "proxy_on_response_headers",
        "proxy_on_response_body",
        "proxy_on_response_trailers",
        LOG,
        DONE,
        DELETE,
    ];
    let once: std::collections::BTreeSet<_> = hooks.into_iter().collect();
    let mut probe = logging(&once.into_iter().collect::<Vec<_>>());
    for hook in &hooks[1..7] {
        probe = probe.returning(hook, 0);
    }
    let mut proxy = Proxy::load(&probe.compile()).mode(Mode::HttpFilter).start().unwrap();
    let before = proxy.log_lines().len();
    let request = get("/").bytes(10, 20).response_trailer("grpc-status", "0");
    proxy.request(request).respond(200).unwrap();
    assert_eq!(logged(&proxy, before), hooks.map(|hook| (VmRole::Worker(0), hook)));
}

#[test]
fn a_filter_hears_late_or_not_at_all_of_requests_that_did_not_reach_it() {
    let probe = logging(&[CREATE, "proxy_on_request_headers", LOG, DONE, DELETE]);
    let mut proxy = Proxy::load(&probe.compile()).mode(Mode::HttpFilter).start().unwrap();
    let before = proxy.log_lines().len();
    proxy.request(Request::abandoned()).reset().unwrap();
    assert_eq!(logged(&proxy, before), []);
    for request in [Request::malformed(), get("/").answered_early("denied")] {
        let before = proxy.log_lines().len();
        proxy.request(request).respond(403).unwrap();
        assert_eq!(logged(&proxy, before), [CREATE, LOG, DONE, DELETE].map(|hook| (VmRole::Worker(0), hook)));
    }
}

#[test]
fn a_filter_that_would_hold_a_request_up_is_an_error() {
    let probe = Probe::default().returning("proxy_on_request_headers", 1);
    let mut proxy = Proxy::load(&probe.compile()).mode(Mode::HttpFilter).start().unwrap();
    let error = proxy.request(get("/")).respond(200).unwrap_err().to_string();
    assert!(error.contains("would hold the request up"), "{error}");
}

#[test]
fn the_end_of_the_process_is_the_end_of_each_root_context() {
    let mut proxy = Proxy::load(&logging(&[DONE, DELETE]).compile()).start().unwrap();
    proxy.shut_down().unwrap();
    let expected: Vec<_> =
        [VmRole::Main, VmRole::Worker(0)].iter().flat_map(|role| [(*role, DONE), (*role, DELETE)]).collect();
    assert_eq!(logged(&proxy, 0), expected);
}
