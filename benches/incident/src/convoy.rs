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
            state.present > 1
        })
    }

    /// It has logged; `waited` says whether it had to wait for another's log.
    pub(crate) fn leave(&self, waited: bool) {
        self.with(|state| {
            state.tally.waited += u64::from(waited);
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
            let waits = convoys.enter();
            assert!(!waits);
            convoys.leave(waits);
        }
        assert_eq!(convoys.tally(), Tally::default());
    }

    #[test]
    fn a_convoy_lasts_until_nobody_is_left() {
        let convoys = Convoys::default();
        assert!(!convoys.enter());
        assert!(convoys.enter());
        convoys.leave(false);
        assert!(convoys.enter());
        convoys.leave(true);
        assert_eq!(convoys.tally(), Tally { waited: 1, convoys: 1, largest: 3 });
        convoys.leave(true);
        assert_eq!(convoys.tally(), Tally { waited: 2, convoys: 1, largest: 3 });
    }
}
