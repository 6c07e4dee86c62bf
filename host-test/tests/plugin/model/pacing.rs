//! How many calls a sender may have under way, by what it has heard of the collector: one while the collector fails, and
//! one more with each call that is taken when it is back.

use std::collections::{HashMap, HashSet};

use offpath_host_test::Call;

use super::world::MAX_IN_FLIGHT;
use crate::support::batch_id;

/// What each sender has heard.
#[derive(Default)]
pub(crate) struct Pacing {
    /// How many calls were not failures since the last one that was; none that is not here has failed yet.
    successes: HashMap<String, usize>,
    /// Senders that do not listen to all answers: they were taken for lost while calls were under way.
    untold: HashSet<String>,
    under_way: Vec<(u64, String)>,
}

/// The instance that makes a call.
pub(crate) fn sender(call: &Call) -> String {
    batch_id(call).rsplit_once('-').unwrap().0.to_owned()
}

impl Pacing {
    /// A call gets an answer.
    pub(crate) fn answered(&mut self, call: &Call, is_failure: bool) {
        self.under_way.retain(|(number, _)| *number != call.number);
        let successes = self.successes.entry(sender(call)).or_insert(MAX_IN_FLIGHT);
        *successes = if is_failure { 0 } else { *successes + 1 };
    }

    /// What is under way after a step: what is not any more, and was not answered, has failed. Returns the senders that
    /// make more calls than they may, each with how many it makes and how many it may.
    pub(crate) fn look(&mut self, pending: &[Call], somebody_was_lost: bool) -> Vec<(String, usize, usize)> {
        let now: Vec<_> = pending.iter().map(|call| (call.number, sender(call))).collect();
        if somebody_was_lost {
            self.untold.extend(self.under_way.iter().chain(&now).map(|(_, sender)| sender.clone()));
        }
        for (_, sender) in self.under_way.iter().filter(|call| !now.contains(call)) {
            self.successes.insert(sender.clone(), 0);
        }
        self.under_way = now;
        let mut calls = HashMap::new();
        for (_, sender) in &self.under_way {
            *calls.entry(sender.clone()).or_insert(0) += 1;
        }
        let judged = calls.into_iter().map(|(sender, calls)| {
            let may = self.may(&sender);
            (sender, calls, may)
        });
        judged.filter(|(_, calls, may)| calls > may).collect()
    }

    fn may(&self, sender: &str) -> usize {
        let successes = self.successes.get(sender).copied().unwrap_or(MAX_IN_FLIGHT);
        if self.untold.contains(sender) { MAX_IN_FLIGHT } else { successes.clamp(1, MAX_IN_FLIGHT) }
    }
}
