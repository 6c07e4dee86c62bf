//! What is kept in any case, that all who follow the same id decide alike, and that the weights add up to the number of
//! requests: over many requests, within four standard errors, from fixed seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

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
        self.judge_and_vary(request, now).0
    }

    /// The variance of a weight, which is that of its share, goes with it.
    fn judge_and_vary(&mut self, request: &Simulated, now: u64) -> (Verdict, f64) {
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
        let limiter = self.policy.limiter.clone();
        let (share, lowered) = self.policy.shares(&finished, now);
        self.policy.limiter = limiter;
        (self.policy.judge(&finished, now), share.weight() * lowered.map_or(1.0, Share::weight) - 1.0)
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
            let rounded = weight(hop.judge(&request, NOW)).map(f64::round);
            assert_eq!(rounded, expected, "{tracestate}");
        }
    }
}

/// Sums over a simulation: what was there, what the weights say, and the variance of that.
#[derive(Debug, Default)]
struct Sum {
    requests: f64,
    weights: f64,
    variance: f64,
}

impl Sum {
    fn add(&mut self, verdict: Verdict, variance: f64) {
        self.requests += 1.0;
        self.weights += weight(verdict).unwrap_or(0.0);
        self.variance += variance;
    }

    fn assert_unbiased(&self, what: &str) {
        let (difference, error) = (self.weights - self.requests, self.variance.sqrt());
        assert!(difference.abs() <= 4.0 * error, "{what}: {self:?}, off by {:.2}", difference / error);
    }
}

/// What a simulation came to.
#[derive(Debug, Default)]
struct Outcome {
    /// By path, of all paths, and of each kind.
    sums: BTreeMap<&'static str, Sum>,
    /// How many records a second had at most.
    most_records: u64,
    rate_limited: u64,
}

impl Outcome {
    fn assert_unbiased(&self) {
        self.sums.iter().for_each(|(what, sum)| sum.assert_unbiased(what));
    }
}

/// Runs seconds that have these requests each, spread evenly.
fn simulate(
    sections: &str,
    seed: u64,
    seconds: u64,
    requests: impl Fn(u64, &mut fastrand::Rng) -> Vec<Simulated>,
) -> Outcome {
    let mut hop = Hop::new(sections, seed);
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut outcome = Outcome::default();
    for second in 0..seconds {
        let requests = requests(second, &mut chance);
        let mut records = 0;
        for (number, request) in requests.iter().enumerate() {
            let now = NOW + second * SECOND + number as u64 * SECOND / requests.len() as u64;
            let (verdict, variance) = hop.judge_and_vary(request, now);
            records += u64::from(weight(verdict).is_some());
            outcome.rate_limited += u64::from(verdict == Verdict::RateLimited);
            let is_always = request.status == 503 || request.duration_nano == 900_000_000;
            for what in ["all", if is_always { "always" } else { "ordinary" }, request.path] {
                outcome.sums.entry(what).or_default().add(verdict, variance);
            }
        }
        outcome.most_records = outcome.most_records.max(records);
    }
    outcome
}

fn mixed(requests: u64, chance: &mut fastrand::Rng) -> Vec<Simulated> {
    (0..requests).map(|_| Simulated::new(chance)).collect()
}

const ROUTES: &str = r#""routes":[{"template":"/health","sample_ratio":0.01},"/orders/{*rest}"]"#;

const BY: [(u64, &str); 3] = [(1, "trace"), (2, "request"), (3, "random")];

#[test]
fn the_weights_add_up_to_the_number_of_requests() {
    for (seed, by) in BY {
        let logs = format!(r#""logs":{{"sample_ratio":0.05,"sample_by":"{by}","keep_slower_than":"500ms"}}"#);
        simulate(&format!("{logs},{ROUTES}"), seed, 10, |_, chance| mixed(10_000, chance)).assert_unbiased();
    }
}

/// Calm, busy and mad seconds.
fn uneven(second: u64, chance: &mut fastrand::Rng) -> Vec<Simulated> {
    mixed([300, 3000, 900, 12_000, 20, 5000, 5000][second as usize % 7], chance)
}

#[test]
fn a_bound_on_the_rate_is_kept_and_the_weights_still_add_up() {
    for (seed, by) in BY {
        let logs = format!(
            r#""logs":{{"sample_ratio":0.05,"sample_by":"{by}","keep_slower_than":"500ms","max_records_per_second":100}}"#
        );
        let outcome = simulate(&format!("{logs},{ROUTES}"), seed, 63, uneven);
        outcome.assert_unbiased();
        assert_eq!(outcome.rate_limited, 0, "{by}");
        assert!((76..=100).contains(&outcome.most_records), "{by}, {outcome:?}");
    }
}

#[test]
fn a_bound_below_the_rate_of_failures_lowers_the_share_of_those_as_well() {
    let logs = r#""logs":{"sample_ratio":0.05,"keep_slower_than":"500ms","max_records_per_second":20}"#;
    let outcome =
        simulate(&format!("{logs},{ROUTES}"), 7, 60, |second, chance| mixed(1000 + second * 100, chance));
    outcome.assert_unbiased();
    assert_eq!((outcome.rate_limited, outcome.most_records <= 20), (0, true));
}

fn bounded(by: &str) -> String {
    format!(r#""logs":{{"sample_by":"{by}","keep_slower_than":"500ms","max_records_per_second":100}}"#)
}

/// So many of one path.
fn requests_of(request: &Simulated, requests: usize, chance: &mut fastrand::Rng) -> Vec<Simulated> {
    (0..requests).map(|_| Simulated { ids: chance.u128(1..), ..request.clone() }).collect()
}

#[test]
fn what_comes_first_in_each_second_and_what_comes_last_is_not_told_from_the_rest() {
    for (seed, by) in BY {
        let outcome = simulate(&bounded(by), seed, 60, |_, chance| {
            let mut requests = requests_of(&Simulated { path: "/first", ..ORDINARY }, 5, chance);
            requests.extend(requests_of(&ORDINARY, 1000, chance));
            requests.extend(requests_of(&Simulated { path: "/last", ..ORDINARY }, 5, chance));
            requests
        });
        outcome.assert_unbiased();
        assert_eq!((outcome.rate_limited, outcome.most_records <= 100), (0, true), "{by}");
    }
}

#[test]
fn slow_requests_amid_a_storm_of_errors_are_not_drowned() {
    for (seed, by) in BY {
        let outcome = simulate(&bounded(by), seed, 40, |second, chance| {
            let errors = if second % 20 < 15 { 3000 } else { 2 };
            let slow = Simulated { path: "/slow", duration_nano: 900_000_000, ..ORDINARY };
            let mut requests = requests_of(&Simulated { status: 503, ..ORDINARY }, errors, chance);
            requests.extend(requests_of(&Simulated { path: "/calm", ..ORDINARY }, 50, chance));
            requests.extend(requests_of(&slow, 10, chance));
            chance.shuffle(&mut requests);
            requests
        });
        outcome.assert_unbiased();
        assert_eq!((outcome.rate_limited, outcome.most_records <= 100), (0, true), "{by}");
    }
}

#[test]
fn a_sudden_tenfold_load_is_estimated_like_any_other() {
    for (seed, by) in BY {
        let outcome = simulate(&bounded(by), seed, 100, |second, chance| {
            mixed(if second % 10 == 9 { 2000 } else { 200 }, chance)
        });
        outcome.assert_unbiased();
        assert_eq!((outcome.rate_limited, outcome.most_records <= 100), (0, true), "{by}");
    }
}

#[test]
fn a_full_second_refuses_what_would_have_been_kept() {
    let mut hop = Hop::new(
        r#""logs":{"max_records_per_second":1},"routes":[{"template":"/health","sample_ratio":0}]"#,
        0,
    );
    let verdicts = [
        &ORDINARY,
        &ORDINARY,
        &Simulated { status: 503, ..ORDINARY },
        &Simulated { path: "/health", ..ORDINARY },
    ]
    .map(|request| hop.judge(request, NOW));
    assert_eq!(
        verdicts,
        [Verdict::Keep { weight: 1.0 }, Verdict::RateLimited, Verdict::RateLimited, Verdict::SampledOut]
    );
}

/// What the first record of the second after one that had these requests would weigh.
fn weight_after(ordinary: usize, failed: usize, request: &Simulated, passed: u64) -> f64 {
    let mut hop = Hop::new(r#""logs":{"max_records_per_second":100}"#, 0);
    let failure = Simulated { status: 503, ..ORDINARY };
    for request in iter::repeat_n(&ORDINARY, ordinary).chain(iter::repeat_n(&failure, failed)) {
        hop.judge(request, NOW);
    }
    hop.judge_and_vary(request, NOW + passed).1 + 1.0
}

#[test]
fn many_requests_of_one_trace_bend_no_weight_of_its_other_requests() {
    let sections =
        r#""logs":{"max_records_per_second":100},"routes":[{"template":"/many","sample_ratio":0.1},"/last"]"#;
    let outcome = simulate(sections, 5, 4000, |_, chance| {
        let of_one_trace = Simulated { ids: chance.u128(1..), ..ORDINARY };
        let mut requests = vec![Simulated { path: "/many", ..of_one_trace.clone() }; 80];
        requests.push(Simulated { path: "/last", ..of_one_trace });
        requests
    });
    let last = &outcome.sums["/last"];
    last.assert_unbiased("/last");
    assert!(last.weights > 0.0 && last.variance > 0.0, "some shares were lowered: {last:?}");
}

#[test]
fn the_ratio_is_lowered_by_the_last_second_and_that_of_failed_requests_last() {
    for (ordinary, failed, expected) in
        [(75, 0, 1.0), (150, 0, 2.0), (100, 35, 2.5), (150, 70, 16.0), (150, 500, 16.0)]
    {
        let weight = weight_after(ordinary, failed, &ORDINARY, SECOND);
        assert!((weight - expected).abs() < 1e-9, "{ordinary} {failed}: {weight:?}");
    }
    let failure = Simulated { status: 503, ..ORDINARY };
    assert_eq!(weight_after(1000, 50, &failure, SECOND), 1.0, "the ordinary ones make room");
    assert_eq!(weight_after(1000, 0, &ORDINARY, 2 * SECOND), 1.0, "a second without requests lies between");
    let mut hop = Hop::new(r#""logs":{"max_records_per_second":100}"#, 0);
    for _ in 0..200 {
        hop.judge(&ORDINARY, NOW);
    }
    let weight = hop.judge_and_vary(&ORDINARY, NOW - 5 * SECOND).1 + 1.0;
    assert!((weight - 200.0 / 75.0).abs() < 1e-9, "the clock was set back: {weight}");
}

#[test]
fn bounds_of_all_sizes_stand_thirty_times_as_many_requests() {
    for bound in [10, 20, 30, 50, 77, 150, 400] {
        let logs = format!(r#""logs":{{"sample_by":"random","max_records_per_second":{bound}}}"#);
        let outcome = simulate(&logs, 11, 40, |_, chance| requests_of(&ORDINARY, 30 * bound, chance));
        outcome.assert_unbiased();
        assert!(outcome.rate_limited <= 40 * bound as u64 / 100, "{bound}: {}", outcome.rate_limited);
        assert!(outcome.most_records <= bound as u64, "{bound}");
    }
}

#[test]
fn what_three_quarters_of_the_bound_can_hold_is_kept_whole() {
    let outcome = simulate(&bounded("random"), 3, 20, |_, chance| requests_of(&ORDINARY, 75, chance));
    assert_eq!(outcome.sums["all"].weights, 20.0 * 75.0);
    assert_eq!((outcome.sums["all"].variance, outcome.most_records), (0.0, 75));
}

#[test]
fn a_second_is_full_only_after_a_hundred_times_as_many_requests_as_it_may_have_records() {
    for seed in 0..5 {
        let mut hop = Hop::new(&bounded("random"), seed);
        let until_full = (0..).find(|_| hop.judge(&ORDINARY, NOW) == Verdict::RateLimited).unwrap();
        assert!((6_000..25_000).contains(&until_full), "{until_full}");
    }
}
