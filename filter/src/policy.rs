//! Decides which requests become records, and how many requests each record stands for.
//!
//! [`crate::request`] comes in, a [`Verdict`] goes to [`crate::pipeline`]. Records are dropped here, and both kinds are
//! counted: those that sampling leaves out, and those beyond `logs.max_records_per_second`.
//!
//! Failed and slow requests are kept where the configuration says so, of the others, which are called ordinary, a share: by
//! an id or by chance. Of these a bound on the records of a second leaves a share, always by chance. The weight of a record is
//! 1 / both shares, which are said before anything is drawn. So the sum of the weights estimates the number of requests, of any
//! kind of them, without bias; requests whose ratio is 0 and those that a full second refuses are in no sum.
//! Source: OpenTelemetry's specification, "TraceState: Probability Sampling".

mod limiter;
mod randomness;

use std::time::Duration;

use crate::config::{Logs, Route, SampleBy};
use crate::request::FinishedRequest;
use limiter::Limiter;
use randomness::Share;

/// What becomes of a request's record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// It is kept.
    Keep {
        /// How many requests it stands for: 1 or more.
        weight: f64,
    },
    /// Sampling leaves it out.
    SampledOut,
    /// It was chosen, but this second is full.
    RateLimited,
}

/// Two kinds of requests, of which a bound lowers the one before the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of which a share is kept.
    Ordinary,
    /// Failed or slow, and therefore kept always but for the bound.
    Always,
}

/// The decisions of one root context.
#[derive(Debug)]
pub struct Policy {
    by: SampleBy,
    keep_errors: bool,
    default: Rule,
    /// By route; none where no route has one of its own.
    rules: Vec<Rule>,
    limiter: Option<Limiter>,
    chance: fastrand::Rng,
}

/// What may differ from route to route.
#[derive(Debug, Clone, Copy)]
struct Rule {
    ratio: f64,
    keep_slower_than_nano: Option<u64>,
}

impl Rule {
    fn new(ratio: f64, keep_slower_than: Option<Duration>) -> Self {
        let nano = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { ratio, keep_slower_than_nano: keep_slower_than.map(nano) }
    }
}

impl Policy {
    /// As configured. `seed` is for the decisions by chance.
    pub fn new(config: &Logs, routes: &[Route], seed: u64) -> Self {
        let rule = |route: &Route| {
            Rule::new(
                route.sample_ratio.unwrap_or(config.sample_ratio),
                route.keep_slower_than.or(config.keep_slower_than),
            )
        };
        Self {
            by: config.sample_by,
            keep_errors: config.keep_errors,
            default: Rule::new(config.sample_ratio, config.keep_slower_than),
            rules: if routes.iter().any(Route::has_own_rule) {
                routes.iter().map(rule).collect()
            } else {
                Vec::new()
            },
            limiter: config.max_records_per_second.map(Limiter::new),
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether a request's route has a say.
    pub fn needs_route(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Decides on the record of a request, which knows its route where that has a say.
    pub fn judge(&mut self, request: &FinishedRequest<'_>, now_unix_nano: u64) -> Verdict {
        let (share, lowered) = self.shares(request, now_unix_nano);
        if !share.has(|| self.randomness(request)) {
            return Verdict::SampledOut;
        }
        let Some(lowered) = lowered else {
            return Verdict::RateLimited;
        };
        // By chance, not by the id: how full the second is may be the doing of requests that have the same one.
        if !lowered.has(|| randomness::of_chance(&mut self.chance)) {
            return Verdict::SampledOut;
        }
        if let Some(limiter) = &mut self.limiter {
            limiter.admit();
        }
        Verdict::Keep { weight: share.weight() * lowered.weight() }
    }

    /// What share of such requests is kept, and what share of these the bound leaves now: none when the second is full.
    fn shares(&mut self, request: &FinishedRequest<'_>, now_unix_nano: u64) -> (Share, Option<Share>) {
        let rule = self.rule(request);
        let (kind, ratio) =
            if self.keeps_always(request, rule) { (Kind::Always, 1.0) } else { (Kind::Ordinary, rule.ratio) };
        let scale = match &mut self.limiter {
            Some(limiter) => limiter.scale(kind, ratio, now_unix_nano),
            None => Some(1.0),
        };
        (Share::of(ratio), scale.map(Share::of))
    }

    fn rule(&self, request: &FinishedRequest<'_>) -> Rule {
        let route = request.route.and_then(|route| self.rules.get(usize::from(route.index)));
        route.copied().unwrap_or(self.default)
    }

    fn keeps_always(&self, request: &FinishedRequest<'_>, rule: Rule) -> bool {
        let is_slow = rule.keep_slower_than_nano.is_some_and(|least| request.duration_nano >= least);
        is_slow || (self.keep_errors && request.outcome.error_type.is_some())
    }

    /// 56 bits that decide on a request: whoever follows the same id sees the same ones.
    fn randomness(&mut self, request: &FinishedRequest<'_>) -> u64 {
        let of_trace = || randomness::of_trace(request.trace_context()?, request.tracestate());
        let of_request = || randomness::of_request_id(request.request_id());
        let followed = match self.by {
            SampleBy::Trace => of_trace().or_else(of_request),
            SampleBy::Request => of_request(),
            SampleBy::Random => None,
        };
        followed.unwrap_or_else(|| randomness::of_chance(&mut self.chance))
    }
}

/// Whether the configuration lets any record go: else each request becomes one, whatever it is like.
pub fn lets_any_go(config: &Logs, routes: &[Route]) -> bool {
    let goes = |ratio: f64| ratio < 1.0;
    config.max_records_per_second.is_some()
        || goes(config.sample_ratio)
        || routes.iter().filter_map(|route| route.sample_ratio).any(goes)
}

#[cfg(test)]
mod tests;
