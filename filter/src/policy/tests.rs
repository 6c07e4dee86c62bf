//! What is kept in any case, that all who follow the same id decide alike, and that the weights add up to the number of
//! requests: over many requests, within four standard errors, from fixed seeds.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::capture::{Captured, Plan};
use crate::config::Config;
use crate::route::Routes;
use crate::testing::config;

const NOW: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// A proxy, as far as it decides.
struct Hop {
    plan: Plan,
    routes: Routes,
    policy: Policy,
    captured: Captured,
}

/// A request with ids of its own.
#[derive(Clone)]
struct Simulated {
    ids: u128,
    status: i64,
    duration_nano: i64,
    path: &'static str,
    tracestate: &'static str,
}

impl Simulated {
    fn new(chance: &mut fastrand::Rng) -> Self {
        Self {
            ids: chance.u128(1..),
            status: if chance.u8(..100) < 2 { 503 } else { 200 },
            duration_nano: if chance.u8(..100) < 3 { 900_000_000 } else { 12_000_000 },
            path: ["/orders/7", "/health", "/orders/8/items", "/other"][chance.usize(..4)],
            tracestate: "",
        }
    }
}

impl Hop {
    fn new(sections: &str, seed: u64) -> Self {
        let config: Config = config(sections);
        Self {
            plan: Plan::new(&config),
            routes: Routes::new(&config.routes).unwrap(),
            policy: Policy::new(&config.logs, &config.routes, seed),
            captured: Captured::default(),
        }
    }

    fn judge(&mut self, request: &Simulated, now: u64) -> Verdict {
        self.captured.clear();
        for path in self.plan.property_paths() {
            let value = match path {
                b"request\0duration" => request.duration_nano.to_le_bytes().to_vec(),
                b"response\0code" => request.status.to_le_bytes().to_vec(),
                b"request\0path" => request.path.into(),
                b"request\0id" => uuid::Uuid::from_u128(request.ids).to_string().into(),
                b"request\0headers\0traceparent" => {
                    format!("00-{:032x}-00f067aa0ba902b7-01", request.ids).into()
                }
                b"request\0headers\0tracestate" => request.tracestate.into(),
                _ => Vec::new(),
            };
            self.captured.push(Some(&value));
        }
        let mut finished = FinishedRequest::read(&self.plan, &self.captured, now);
        finished.route = self.routes.find(finished.path_and_query().0);
        self.policy.judge(&finished, now)
    }

    fn scale(&self) -> f64 {
        self.policy.limiter.as_ref().map_or(1.0, Limiter::scale)
    }
}

fn weight(verdict: Verdict) -> Option<f64> {
    match verdict {
        Verdict::Keep { weight } => Some(weight),
        Verdict::SampledOut | Verdict::RateLimited => None,
    }
}

const ORDINARY: Simulated =
    Simulated { ids: 1, status: 200, duration_nano: 12_000_000, path: "/other", tracestate: "" };

#[test]
fn failed_and_slow_requests_are_kept_and_stand_for_themselves() {
    let none = r#""logs":{"sample_ratio":0,"keep_slower_than":"1s"},
                  "routes":[{"template":"/slow/{id}","keep_slower_than":"3s"},"/plain"]"#;
    let mut hop = Hop::new(none, 0);
    let seconds = |seconds: i64| Simulated { duration_nano: seconds * 1_000_000_000, ..ORDINARY };
    let cases = [
        (ORDINARY, false),
        (Simulated { status: 499, ..ORDINARY }, false),
        (Simulated { status: 500, ..ORDINARY }, true),
        // Neither a status nor a flag: there was no proper response.
        (Simulated { status: 0, ..ORDINARY }, true),
        (Simulated { duration_nano: 999_999_999, ..ORDINARY }, false),
        (seconds(1), true),
        (Simulated { path: "/slow/7", ..seconds(2) }, false),
        (Simulated { path: "/slow/7", ..seconds(3) }, true),
        (Simulated { path: "/plain", ..seconds(2) }, true),
    ];
    for (request, kept) in cases {
        let expected = if kept { Verdict::Keep { weight: 1.0 } } else { Verdict::SampledOut };
        assert_eq!(hop.judge(&request, NOW), expected, "{} {}", request.status, request.duration_nano);
    }
    let mut hop = Hop::new(r#""logs":{"sample_ratio":0,"keep_errors":false}"#, 0);
    assert_eq!(hop.judge(&Simulated { status: 500, ..ORDINARY }, NOW), Verdict::SampledOut);
}

#[test]
fn a_route_has_a_ratio_of_its_own() {
    let mut hop = Hop::new(
        r#""logs":{"sample_ratio":0.5},"routes":["/orders/{id}",{"template":"/health","sample_ratio":0},{"template":"/pay","sample_ratio":1}]"#,
        0,
    );
    let mut chance = fastrand::Rng::with_seed(1);
    let mut weights_of = |path| {
        let mut weights = BTreeMap::new();
        for _ in 0..1000 {
            let request = Simulated { ids: chance.u128(1..), path, ..ORDINARY };
            *weights.entry(weight(hop.judge(&request, NOW)).map(|weight| weight as u64)).or_insert(0) += 1;
        }
        weights
    };
    assert_eq!(weights_of("/health"), BTreeMap::from([(None, 1000)]));
    assert_eq!(weights_of("/pay"), BTreeMap::from([(Some(1), 1000)]));
    for path in ["/orders/7", "/other"] {
        let weights = weights_of(path);
        assert_eq!(weights.keys().copied().collect::<Vec<_>>(), [None, Some(2)], "{path}");
        assert!((420..580).contains(&weights[&Some(2)]), "{path}: {weights:?}");
    }
}

#[test]
fn without_sampling_every_record_stands_for_one_request() {
    let mut hop = Hop::new("", 0);
    let mut chance = fastrand::Rng::with_seed(2);
    for _ in 0..1000 {
        assert_eq!(hop.judge(&Simulated::new(&mut chance), NOW), Verdict::Keep { weight: 1.0 });
    }
}

#[test]
fn all_hops_that_follow_the_same_id_decide_alike_and_greater_ratios_keep_more() {
    for by in ["trace", "request"] {
        let mut kept: Vec<BTreeSet<u128>> = Vec::new();
        for (ratio, seed) in [(0.01, 1), (0.1, 2), (0.1, 3), (0.5, 4)] {
            let mut hop = Hop::new(&format!(r#""logs":{{"sample_ratio":{ratio},"sample_by":"{by}"}}"#), seed);
            let mut chance = fastrand::Rng::with_seed(99);
            let ids = (0..20_000).map(|_| chance.u128(1..));
            kept.push(
                ids.filter(|&ids| weight(hop.judge(&Simulated { ids, ..ORDINARY }, NOW)).is_some()).collect(),
            );
        }
        let [least, some, same, most] = &kept[..] else { panic!() };
        assert_eq!(some, same, "{by}");
        assert!(least.is_subset(some) && some.is_subset(most), "{by}");
        assert!(!least.is_empty() && least.len() < some.len() && some.len() < most.len(), "{by}");
    }
}

#[test]
fn stated_randomness_goes_before_the_trace_id() {
    let mut hop = Hop::new(r#""logs":{"sample_ratio":0.01}"#, 0);
    for (tracestate, expected) in [("ot=rv:ffffffffffffff", Some(100.0)), ("ot=rv:00000000000000", None)] {
        for ids in [1, u128::MAX] {
            let request = Simulated { ids, tracestate, ..ORDINARY };
            assert_eq!(weight(hop.judge(&request, NOW)), expected, "{tracestate}");
        }
    }
}

/// Sums over a simulation: what was there, what the weights say, and the standard error of that.
#[derive(Default)]
struct Sum {
    requests: f64,
    weights: f64,
    variance: f64,
}

impl Sum {
    fn assert_unbiased(&self, what: &str) {
        let (difference, error) = (self.weights - self.requests, self.variance.sqrt());
        assert!(
            difference.abs() <= 4.0 * error,
            "{what}: {} instead of {}, off by {:.2} standard errors",
            self.weights,
            self.requests,
            difference / error
        );
    }
}

/// Runs `seconds`, of which each has as many requests as `rate` says. Checks the sums of all requests, of the failed ones
/// and, where no record hands its weight to another, of each path; returns how many records a second had at most.
fn simulate(sections: &str, seed: u64, seconds: u64, mut rate: impl FnMut(u64) -> u64) -> u64 {
    let mut hop = Hop::new(sections, seed);
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut most = 0;
    for second in 0..seconds {
        let (requests, mut records) = (rate(second), 0);
        for number in 0..requests {
            let request = Simulated::new(&mut chance);
            let now = NOW + second * SECOND + number * SECOND / requests;
            let verdict = hop.judge(&request, now);
            let is_always = request.status == 503 || request.duration_nano == 900_000_000;
            let ratio = if request.path == "/health" { 0.01 } else { 0.05 } * hop.scale();
            let variance = if is_always { 0.0 } else { 1.0 / ratio - 1.0 };
            records += u64::from(weight(verdict).is_some());
            let path = Some(request.path).filter(|_| hop.policy.limiter.is_none());
            let kind = if is_always { "always" } else { "ordinary" };
            for what in ["all", kind].into_iter().chain(path) {
                let sum = sums.entry(what).or_default();
                sum.requests += 1.0;
                sum.weights += weight(verdict).unwrap_or(0.0);
                sum.variance += variance;
            }
        }
        most = most.max(records);
    }
    sums.iter().for_each(|(what, sum)| sum.assert_unbiased(&format!("{sections}, {what}")));
    most
}

const ROUTES: &str = r#""routes":[{"template":"/health","sample_ratio":0.01},"/orders/{*rest}"]"#;

#[test]
fn the_weights_add_up_to_the_number_of_requests() {
    for (seed, by) in [(1, "trace"), (2, "request"), (3, "random")] {
        let logs = format!(r#""logs":{{"sample_ratio":0.05,"sample_by":"{by}","keep_slower_than":"500ms"}}"#);
        simulate(&format!("{logs},{ROUTES}"), seed, 10, |_| 10_000);
    }
}

/// Calm, busy and mad seconds, and quiet ones at last, in which all that is owed is taken over.
fn uneven(second: u64) -> u64 {
    if second >= 21 { 40 } else { [300, 3000, 900, 12_000, 20, 5000, 5000][second as usize % 7] }
}

#[test]
fn a_bound_on_the_rate_is_kept_and_the_weights_still_add_up() {
    for (seed, by) in [(4, "trace"), (5, "request"), (6, "random")] {
        let logs = format!(
            r#""logs":{{"sample_ratio":0.05,"sample_by":"{by}","keep_slower_than":"500ms","max_records_per_second":100}}"#
        );
        assert_eq!(simulate(&format!("{logs},{ROUTES}"), seed, 31, uneven), 100, "{by}");
    }
}

#[test]
fn a_bound_below_the_rate_of_failures_leaves_room_for_one_ordinary_record() {
    let logs = r#""logs":{"sample_ratio":0.05,"keep_slower_than":"500ms","max_records_per_second":10}"#;
    assert_eq!(simulate(&format!("{logs},{ROUTES}"), 7, 31, uneven), 10);
}

#[test]
fn what_a_second_refuses_the_next_record_of_its_kind_stands_for() {
    let mut hop = Hop::new(r#""logs":{"max_records_per_second":2}"#, 0);
    let failed = Simulated { status: 503, ..ORDINARY };
    let keep = |weight| Verdict::Keep { weight };
    for (request, verdict) in [
        (&ORDINARY, keep(1.0)),
        (&failed, keep(1.0)),
        (&ORDINARY, Verdict::RateLimited),
        (&failed, Verdict::RateLimited),
        (&failed, Verdict::RateLimited),
    ] {
        assert_eq!(hop.judge(request, NOW + SECOND - 1), verdict);
    }
    // A failed one more than the bound would leave nothing: one is allowed for, of the two that there were.
    assert_eq!(hop.judge(&failed, NOW + SECOND), keep(3.0));
    assert_eq!(hop.scale(), 0.5);
    let kept = Simulated { ids: u128::MAX, ..ORDINARY };
    assert_eq!(hop.judge(&kept, NOW + SECOND), keep(3.0));
    assert_eq!(hop.judge(&kept, NOW + SECOND), Verdict::RateLimited);
}

#[test]
fn the_ratio_is_lowered_by_the_last_second_only() {
    let mut hop = Hop::new(r#""logs":{"max_records_per_second":10}"#, 0);
    let mut scale_after = |requests: u64, now: u64| {
        for _ in 0..requests {
            hop.judge(&ORDINARY, now);
        }
        hop.scale()
    };
    assert_eq!(scale_after(100, NOW), 1.0, "nothing is known of the second before");
    assert_eq!(scale_after(1, NOW + SECOND), 0.1);
    assert_eq!(scale_after(40, NOW + 2 * SECOND), 1.0);
    assert_eq!(scale_after(100, NOW + 3 * SECOND), 0.25);
    assert_eq!(scale_after(1, NOW + 5 * SECOND), 1.0, "a second without requests lies between");
    assert_eq!(scale_after(19, NOW + 5 * SECOND), 1.0);
    assert_eq!(scale_after(1, NOW + 2 * SECOND), 0.5, "the clock was set back");
    assert_eq!(scale_after(1, NOW + 2 * SECOND + SECOND / 2), 0.5);
}
