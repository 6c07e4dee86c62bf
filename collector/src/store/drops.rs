//! What senders say that they have dropped.
//!
//! In: checked points of the plugin's own counters, with the sender's name, by which its batches are named. Out: how much
//! each sender has dropped up to its last export, by metric and reason: a cumulative point replaces what is older, a delta
//! is added. Only of senders that number their batches, and as long as those are known: so there are no more of them than
//! that. A point that says nothing newer than what is known is dropped here, and counted as superseded; so is a dead letter
//! that is put back after its sender was forgotten.

use rusqlite::{Connection, params};

use super::{StoreError, TENANT};
use crate::otlp::drops::Dropped;
use crate::otlp::metrics::Temporality;
use crate::store::points::Outcome;

/// Writes one point.
///
/// # Errors
/// [`StoreError`].
pub fn note(connection: &Connection, sender: &str, dropped: &Dropped) -> Result<Outcome, StoreError> {
    let changes = match dropped.temporality {
        Temporality::Cumulative => {
            "dropped = excluded.dropped, time_unix_nano = excluded.time_unix_nano
             WHERE excluded.time_unix_nano > time_unix_nano"
        }
        Temporality::Delta => {
            "dropped = CASE WHEN dropped > 9223372036854775807 - excluded.dropped THEN 9223372036854775807
             ELSE dropped + excluded.dropped END, time_unix_nano = max(time_unix_nano, excluded.time_unix_nano)"
        }
    };
    let sql = format!(
        "INSERT INTO sender_drops (tenant, sender, metric, reason, dropped, time_unix_nano)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6 FROM senders WHERE tenant = ?1 AND sender = ?2
         ON CONFLICT DO UPDATE SET {changes}"
    );
    let Dropped { metric, reason, time_unix_nano, count, .. } = dropped;
    let changed = connection.prepare_cached(&sql)?.execute(params![
        TENANT,
        sender,
        metric,
        reason,
        count,
        time_unix_nano
    ])?;
    Ok(if changed == 0 { Outcome::Superseded } else { Outcome::Stored })
}

/// What `sender` has dropped: metric, reason, and how much.
///
/// # Errors
/// What the database says.
pub fn of_sender(connection: &Connection, sender: &str) -> rusqlite::Result<Vec<(String, String, i64)>> {
    connection
        .prepare_cached(
            "SELECT metric, reason, dropped FROM sender_drops WHERE tenant = ?1 AND sender = ?2 ORDER BY metric, reason",
        )?
        .query_map(params![TENANT, sender], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(points: &[(Temporality, i64, i64)]) -> (Vec<Outcome>, i64) {
        let connection = crate::store::in_memory();
        crate::store::senders::note(&connection, "a", 0, 0).unwrap();
        let noted = points.iter().map(|&(temporality, time_unix_nano, count)| {
            let (metric, reason) = ("offpath.records.dropped".to_owned(), "expired".to_owned());
            let dropped = Dropped { metric, reason, temporality, time_unix_nano, count };
            note(&connection, "a", &dropped).unwrap()
        });
        let outcomes = noted.collect();
        let unknown = ("offpath.records.dropped".to_owned(), "expired".to_owned());
        let unknown = Dropped {
            metric: unknown.0,
            reason: unknown.1,
            temporality: Temporality::Delta,
            time_unix_nano: 1,
            count: 1,
        };
        assert_eq!(note(&connection, "b", &unknown).unwrap(), Outcome::Superseded);
        assert_eq!(of_sender(&connection, "b").unwrap(), []);
        let [(metric, reason, dropped)] = &of_sender(&connection, "a").unwrap()[..] else { panic!() };
        assert_eq!((metric.as_str(), reason.as_str()), ("offpath.records.dropped", "expired"));
        (outcomes, *dropped)
    }

    #[test]
    fn the_latest_cumulative_point_counts_and_deltas_add_up() {
        use Outcome::{Stored, Superseded};
        use Temporality::{Cumulative, Delta};
        let cumulative = [(Cumulative, 10, 3), (Cumulative, 30, 8), (Cumulative, 20, 5), (Cumulative, 30, 8)];
        assert_eq!(after(&cumulative), (vec![Stored, Stored, Superseded, Superseded], 8));
        let deltas = [(Delta, 30, 3), (Delta, 10, 4), (Delta, 10, 4)];
        assert_eq!(after(&deltas), (vec![Stored, Stored, Stored], 11));
        // More than fits is all that fits.
        assert_eq!(after(&[(Delta, 1, i64::MAX), (Delta, 2, 1)]).1, i64::MAX);
    }
}
