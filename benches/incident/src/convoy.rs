//! Convoys: requests that wait behind one another to log. A request comes in when it begins to log and leaves when it has;
//! what counts is who was there already.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Counts convoys: a convoy begins when a request finds nobody logging, and ends when nobody is logging any more.
#[derive(Debug, Default)]
pub(crate) struct Convoys(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    present: u64,
    size: u64,
    tally: Tally,
}

/// All convoys so far; one request alone is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Requests that had to wait while another request's log was written.
    pub(crate) waited: u64,
    /// Convoys of at least two requests.
    pub(crate) convoys: u64,
    /// The requests in the largest.
    pub(crate) largest: u64,
}

impl Convoys {
    /// A request begins to log. Whether it has to wait for another one.
    pub(crate) fn enter(&self) -> bool {
        self.with(|state| {
            state.present += 1;
            state.size += 1;
            let waits = state.present > 1;
            state.tally.waited += u64::from(waits);
            waits
        })
    }

    /// It has logged; `waited_after_all` says whether another's log came in between though nobody was there first.
    pub(crate) fn leave(&self, waited_after_all: bool) {
        self.with(|state| {
            state.tally.waited += u64::from(waited_after_all);
            state.present = state.present.saturating_sub(1);
            if state.present == 0 {
                if state.size > 1 {
                    state.tally.convoys += 1;
                    state.tally.largest = state.tally.largest.max(state.size);
                }
                state.size = 0;
            }
        });
    }

    /// All so far, with the one that is under way.
    pub(crate) fn tally(&self) -> Tally {
        self.with(|state| {
            let mut tally = state.tally.clone();
            if state.size > 1 {
                tally.convoys += 1;
                tally.largest = tally.largest.max(state.size);
            }
            tally
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_one_after_the_other_are_no_convoy() {
        let convoys = Convoys::default();
        for _ in 0..3 {
            assert!(!convoys.enter());
            convoys.leave(false);
        }
        assert_eq!(convoys.tally(), Tally::default());
    }

    #[test]
    fn a_convoy_lasts_until_nobody_is_left() {
        let convoys = Convoys::default();
        assert!(!convoys.enter());
        assert!(convoys.enter());
        convoys.leave(true);
        assert!(convoys.enter());
        convoys.leave(false);
        assert_eq!(convoys.tally(), Tally { waited: 3, convoys: 1, largest: 3 });
        convoys.leave(false);
        assert_eq!(convoys.tally(), Tally { waited: 3, convoys: 1, largest: 3 });
    }
}
