//! Where the records of a run went: stored once or twice, dropped and counted, on their way, or lost although promised.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::incident::{
    form::Form,
    load::{End, Sample},
};

/// Of one form's run, once all was settled, or as long as was waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// Requests that have a record in the database.
    pub stored: u64,
    /// Records in the database beyond one for each request.
    pub twice: u64,
    /// Requests without a record there.
    pub missing: u64,
    /// Of these: were answered 200.
    pub answered_missing: u64,
    /// Records in a queue that outlives the application: the collector's, or Envoy's.
    pub queued: u64,
    /// Records in the application's memory only.
    pub in_memory: u64,
    /// Whether the application is dead, and what was in its memory with it.
    pub in_memory_is_lost: bool,
    /// Requests that Envoy's plugin has not seen: where their clients left before Envoy had heard of them.
    pub unseen: u64,
    /// Records that the plugin says it dropped.
    pub dropped: u64,
}

impl Records {
    /// By the numbers in the database and the clients' samples; the rest is still 0.
    #[must_use]
    pub fn of(samples: &[Sample], stored: &[u64]) -> Self {
        let stored_once: BTreeSet<u64> = stored.iter().copied().collect();
        let missing = || samples.iter().filter(|sample| !stored_once.contains(&sample.number));
        Self {
            stored: samples.len() as u64 - missing().count() as u64,
            twice: (stored.len() - stored_once.len()) as u64,
            missing: missing().count() as u64,
            answered_missing: missing().filter(|sample| sample.end == End::Answered(200)).count() as u64,
            ..Self::default()
        }
    }

    /// Requests without a record that will not get one any more.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let in_memory = if self.in_memory_is_lost { 0 } else { self.in_memory };
        self.missing.saturating_sub(self.queued + in_memory)
    }

    /// Records that the form promises and that are nowhere, or at the edge, which promises each once, there twice. A request
    /// that writes its log itself promises it by its answer; so does the queue, which may still hold it. The edge promises a
    /// record of every request that Envoy hears of, or to count it; of what was answered it has heard.
    #[must_use]
    pub fn broken_promises(&self, form: Form) -> u64 {
        match form {
            Form::NoLogging => 0,
            Form::InRequest => self.answered_missing,
            Form::ApplicationQueue => self.answered_missing.saturating_sub(self.queued),
            Form::Edge => {
                let unseen = self.unseen.min(self.missing.saturating_sub(self.answered_missing));
                self.missing.saturating_sub(self.dropped + self.queued + unseen) + self.twice
            }
        }
    }
}

/// The numbers of the requests that a collector has stored, one for each record.
///
/// # Errors
/// When its database cannot be read.
pub fn stored_by_collector(database: &Path) -> anyhow::Result<Vec<u64>> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open `{}`", database.display()))?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mut select = connection
        .prepare("SELECT substr(path, length('/task/') + 1) FROM logs WHERE path LIKE '/task/%'")?;
    let numbers = select.query_map([], |row| row.get::<_, String>(0))?;
    numbers.map(|number| number?.parse().context("not a request's number")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64, end: End) -> Sample {
        Sample { number, due_us: 0, sent_us: 0, took_us: 1, end }
    }

    #[test]
    fn every_request_is_stored_or_missing_and_what_is_there_twice_is_seen() {
        let samples = [
            sample(1, End::Answered(200)),
            sample(2, End::Answered(200)),
            sample(3, End::GaveUp),
            sample(4, End::Answered(503)),
        ];
        let expected = Records { stored: 2, twice: 2, missing: 2, answered_missing: 1, ..Records::default() };
        assert_eq!(Records::of(&samples, &[1, 1, 3, 1]), expected);
    }

    #[test]
    fn what_is_in_a_living_memory_or_in_a_queue_is_not_lost_yet() {
        let records = Records { missing: 10, queued: 3, in_memory: 5, ..Records::default() };
        assert_eq!(records.lost(), 2);
        assert_eq!(Records { in_memory_is_lost: true, ..records }.lost(), 7);
    }

    #[test]
    fn a_promise_is_broken_by_what_is_nowhere() {
        let records =
            Records { missing: 10, answered_missing: 4, queued: 3, dropped: 5, ..Records::default() };
        assert_eq!(records.broken_promises(Form::NoLogging), 0);
        assert_eq!(records.broken_promises(Form::InRequest), 4);
        assert_eq!(records.broken_promises(Form::ApplicationQueue), 1);
        assert_eq!(records.broken_promises(Form::Edge), 2);
        assert_eq!(Records { unseen: 1, ..records }.broken_promises(Form::Edge), 1);
        let answered = Records { missing: 4, answered_missing: 4, unseen: 4, ..Records::default() };
        assert_eq!(answered.broken_promises(Form::Edge), 4, "who was answered was seen");
        assert_eq!(Records { twice: 1, ..Records::default() }.broken_promises(Form::Edge), 1);
    }
}
