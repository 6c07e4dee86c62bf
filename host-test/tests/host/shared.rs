//! What needs no request: log, clock, randomness, buffers, shared data.

use std::time::Duration;

use offpath_host_test::{LogLevel, Proxy, Status, VmRole, get};

use crate::probe::{Arg, Out, Outcome, Probe, bytes};

fn outcome(status: Status, results: impl Into<Vec<Out>>) -> Outcome {
    Outcome { status: status.code(), results: results.into() }
}

#[test]
fn a_log_line_has_its_level_and_machine_and_passes_the_proxys_level() {
    let probe = Probe::on_log("proxy_log", &[Arg::Int(1), bytes("quiet")])
        .call("proxy_on_log", "proxy_log", &[Arg::Int(3), bytes(b"loud \xff")])
        .call("proxy_on_log", "proxy_log", &[Arg::Int(6), bytes("no such level")])
        .call("proxy_on_log", "proxy_get_log_level", &[Arg::OutU32]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let [line] = proxy.log_lines() else { panic!("{:?}", proxy.log_lines()) };
    assert_eq!((line.vm, line.level, &*line.message), (VmRole::Worker(0), LogLevel::Warn, "loud \u{fffd}"));
    let outcomes = probe.outcomes(&proxy, "proxy_on_log");
    assert_eq!(outcomes[2].status, Status::BadArgument.code());
    assert_eq!(outcomes[3], outcome(Status::Ok, [Out::Int(2)]));
}

#[test]
fn the_clock_is_virtual() {
    let probe = Probe::on_log("proxy_get_current_time_nanoseconds", &[Arg::OutU64]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    let start = proxy.now_unix_nanos();
    proxy.advance(Duration::from_millis(1500)).unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let expected = outcome(Status::Ok, [Out::Long(start + 1_500_000_000)]);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [expected]);
}

#[test]
fn the_configuration_is_a_buffer_only_while_configuring() {
    const CONFIGURATION: u32 = 7;
    let whole = [Arg::Int(CONFIGURATION), Arg::Int(0), Arg::Int(100), Arg::OutBytes];
    let part = [Arg::Int(CONFIGURATION), Arg::Int(2), Arg::Int(3), Arg::OutBytes];
    let beyond = [Arg::Int(CONFIGURATION), Arg::Int(50), Arg::Int(3), Arg::OutBytes];
    let probe = Probe::default()
        .call("proxy_on_configure", "proxy_get_buffer_bytes", &whole)
        .call("proxy_on_configure", "proxy_get_buffer_bytes", &part)
        .call("proxy_on_configure", "proxy_get_buffer_bytes", &beyond)
        .call(
            "proxy_on_configure",
            "proxy_get_buffer_status",
            &[Arg::Int(CONFIGURATION), Arg::OutU32, Arg::OutU32],
        )
        .call("proxy_on_log", "proxy_get_buffer_bytes", &whole);
    let mut proxy = Proxy::load(&probe.compile()).config_bytes("configuration").start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let expected = [
        outcome(Status::Ok, [Out::Bytes(b"configuration".to_vec())]),
        outcome(Status::Ok, [Out::Bytes(b"nfi".to_vec())]),
        outcome(Status::Ok, [Out::Null]),
        outcome(Status::Ok, [Out::Int(13), Out::Int(0)]),
    ];
    assert_eq!(probe.outcomes(&proxy, "proxy_on_configure"), expected);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [outcome(Status::NotFound, [Out::Null])]);
}

#[test]
fn an_address_outside_of_memory_is_an_invalid_access() {
    let probe = Probe::on_log("proxy_log", &[Arg::Int(2), Arg::Int(u32::MAX), Arg::Int(2)]).call(
        "proxy_on_log",
        "proxy_log",
        &[Arg::Int(2), Arg::Int(16 * 65536 - 1), Arg::Int(2)],
    );
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let refused = outcome(Status::InvalidMemoryAccess, []);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [refused.clone(), refused]);
}

#[test]
fn shared_data_is_compared_and_swapped() {
    let get_key = [bytes("k"), Arg::OutBytes, Arg::OutU32];
    let set = |value: &str, cas| [bytes("k"), bytes(value), Arg::Int(cas)];
    // The probe's own report of `on_configure`, in the canary, the main thread and the worker, takes numbers 1 to 3
    // before the worker logs.
    let probe = Probe::default()
        .logging("proxy_on_configure")
        .call("proxy_on_log", "proxy_get_shared_data", &get_key)
        .call("proxy_on_log", "proxy_set_shared_data", &set("one", 7))
        .call("proxy_on_log", "proxy_get_shared_data", &get_key)
        .call("proxy_on_log", "proxy_set_shared_data", &set("two", 3))
        .call("proxy_on_log", "proxy_set_shared_data", &set("two", 4))
        .call("proxy_on_log", "proxy_set_shared_data", &set("three", 0));
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let expected = [
        outcome(Status::NotFound, [Out::Null, Out::Int(0)]),
        outcome(Status::Ok, []),
        outcome(Status::Ok, [Out::Bytes(b"one".to_vec()), Out::Int(4)]),
        outcome(Status::CasMismatch, []),
        outcome(Status::Ok, []),
        outcome(Status::Ok, []),
    ];
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), expected);
    assert_eq!(proxy.shared_data("k").as_deref(), Some(&b"three"[..]));
}

#[test]
fn an_effective_context_must_exist() {
    let probe = Probe::on_log("proxy_set_effective_context", &[Arg::Int(1)]).call(
        "proxy_on_log",
        "proxy_set_effective_context",
        &[Arg::Int(99)],
    );
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let expected = [outcome(Status::Ok, []), outcome(Status::BadArgument, [])];
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), expected);
}

#[test]
fn a_planned_fault_answers_as_often_as_planned_and_nothing_is_done() {
    let probe = Probe::on_log("proxy_log", &[Arg::Int(2), bytes("line")]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.fail_host_call("proxy_log", Status::InternalFailure, 2);
    for expected in [Status::InternalFailure, Status::InternalFailure, Status::Ok] {
        proxy.request(get("/")).respond(200).unwrap();
        assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [outcome(expected, [])]);
    }
    assert_eq!(proxy.log_lines().len(), 1);
}
