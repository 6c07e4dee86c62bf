//! Metrics: ids, what each kind takes, and that all machines share the values.

use offpath_host_test::{Proxy, Status, get};

use crate::probe::{Arg, Out, Outcome, Probe, bytes};

const COUNTER: u32 = 0;
const GAUGE: u32 = 1;
const HISTOGRAM: u32 = 2;

fn define(kind: u32, name: &str) -> [Arg; 3] {
    [Arg::Int(kind), bytes(name), Arg::OutU32]
}

fn negative(offset: u64) -> Arg {
    Arg::Long(offset.wrapping_neg())
}

/// A guest that defines one metric of each kind: ids 4, 5 and 6.
fn with_metrics() -> Probe {
    let mut probe = Probe::default();
    for (kind, name) in [(COUNTER, "c"), (GAUGE, "g"), (HISTOGRAM, "h")] {
        probe = probe.call("proxy_on_configure", "proxy_define_metric", &define(kind, name));
    }
    probe
}

fn statuses(probe: &Probe, proxy: &Proxy, hook: &'static str) -> Vec<u32> {
    probe.outcomes(proxy, hook).iter().map(|outcome| outcome.status).collect()
}

#[test]
fn an_id_tells_the_kind_and_a_second_definition_shares_the_value() {
    let mut probe = with_metrics();
    for (kind, name) in [(COUNTER, "c"), (GAUGE, "g2"), (3, "x")] {
        probe = probe.call("proxy_on_configure", "proxy_define_metric", &define(kind, name));
    }
    let probe = probe.call("proxy_on_log", "proxy_increment_metric", &[Arg::Int(8), Arg::Long(5)]).call(
        "proxy_on_log",
        "proxy_get_metric",
        &[Arg::Int(4), Arg::OutU64],
    );
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    let ids: Vec<_> =
        probe.outcomes(&proxy, "proxy_on_configure").into_iter().map(|outcome| outcome.results).collect();
    assert_eq!(ids, [4, 5, 6, 8, 9, 0].map(|id| vec![Out::Int(id)]));
    assert_eq!(statuses(&probe, &proxy, "proxy_on_configure").pop(), Some(Status::BadArgument.code()));
    proxy.request(get("/")).respond(200).unwrap();
    assert_eq!(
        probe.outcomes(&proxy, "proxy_on_log").pop(),
        Some(Outcome { status: 0, results: vec![Out::Long(5)] })
    );
}

#[test]
fn a_counter_takes_only_increments_above_zero() {
    let mut probe = with_metrics();
    for offset in [Arg::Long(3), Arg::Long(0), negative(1)] {
        probe = probe.call("proxy_on_log", "proxy_increment_metric", &[Arg::Int(4), offset]);
    }
    let probe = probe.call("proxy_on_log", "proxy_record_metric", &[Arg::Int(4), Arg::Long(2)]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let bad = Status::BadArgument.code();
    assert_eq!(statuses(&probe, &proxy, "proxy_on_log"), [0, bad, bad, 0]);
    assert_eq!(proxy.counter("c"), 5);
}

#[test]
fn a_gauge_goes_both_ways_and_is_shared_by_all_machines() {
    let probe = with_metrics()
        .call("proxy_on_log", "proxy_increment_metric", &[Arg::Int(5), Arg::Long(10)])
        .call("proxy_on_log", "proxy_increment_metric", &[Arg::Int(5), negative(4)]);
    let mut proxy = Proxy::load(&probe.compile()).workers(2).start().unwrap();
    proxy.request(get("/")).on_worker(0).respond(200).unwrap();
    proxy.request(get("/")).on_worker(1).respond(200).unwrap();
    assert_eq!(proxy.gauge("g"), 12);
}

#[test]
fn a_histogram_records_and_cannot_be_read_or_incremented() {
    let probe = with_metrics()
        .call("proxy_on_log", "proxy_record_metric", &[Arg::Int(6), Arg::Long(7)])
        .call("proxy_on_log", "proxy_increment_metric", &[Arg::Int(6), Arg::Long(1)])
        .call("proxy_on_log", "proxy_get_metric", &[Arg::Int(6), Arg::OutU64]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let bad = Status::BadArgument.code();
    assert_eq!(statuses(&probe, &proxy, "proxy_on_log"), [0, bad, bad]);
    assert_eq!(proxy.histogram("h"), [7]);
}

#[test]
fn an_id_that_nobody_got_is_not_found() {
    let probe = Probe::on_log("proxy_increment_metric", &[Arg::Int(40), Arg::Long(1)])
        .call("proxy_on_log", "proxy_increment_metric", &[Arg::Int(41), Arg::Long(1)])
        .call("proxy_on_log", "proxy_record_metric", &[Arg::Int(42), Arg::Long(1)])
        .call("proxy_on_log", "proxy_get_metric", &[Arg::Int(40), Arg::OutU64]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    assert_eq!(statuses(&probe, &proxy, "proxy_on_log"), [Status::NotFound.code(); 4]);
}
