//! Senders and the gaps in their sequences.
//!
//! In: the sender and sequence number of each batch that is stored, in the batch's own transaction. Out: how far each
//! sender has come and exactly which of its batches never came, as ranges: where one is missing, a batch was lost on
//! the way or dropped by the sender.

use rusqlite::{Connection, OptionalExtension, params};

use super::{StoreError, TENANT};

/// Notes that batch `sequence` of `sender` has been stored.
///
/// # Errors
/// [`StoreError`].
pub fn note(
    connection: &Connection,
    sender: &str,
    sequence: i64,
    now_unix_nano: i64,
) -> Result<(), StoreError> {
    let last: i64 = connection
        .prepare_cached("SELECT last_sequence FROM senders WHERE tenant = ?1 AND sender = ?2")?
        .query_row(params![TENANT, sender], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    connection
        .prepare_cached(
            "INSERT INTO senders (tenant, sender, last_sequence, received_batches, last_seen_unix_nano)
             VALUES (?1, ?2, ?3, 1, ?4) ON CONFLICT DO UPDATE SET received_batches = received_batches + 1,
             last_sequence = max(last_sequence, ?3), last_seen_unix_nano = ?4",
        )?
        .execute(params![TENANT, sender, sequence, now_unix_nano])?;
    if sequence > last.saturating_add(1) {
        add_gap(connection, sender, last.saturating_add(1), sequence - 1)
    } else if sequence <= last {
        fill(connection, sender, sequence)
    } else {
        Ok(())
    }
}

/// Takes a late `sequence` out of the gap that it lies in, if it lies in one.
fn fill(connection: &Connection, sender: &str, sequence: i64) -> Result<(), StoreError> {
    let gap: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT first, last FROM sender_gaps WHERE tenant = ?1 AND sender = ?2 AND first <= ?3
             ORDER BY first DESC LIMIT 1",
        )?
        .query_row(params![TENANT, sender, sequence], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((first, last)) = gap.filter(|(_, last)| *last >= sequence) else {
        return Ok(());
    };
    connection
        .prepare_cached("DELETE FROM sender_gaps WHERE tenant = ?1 AND sender = ?2 AND first = ?3")?
        .execute(params![TENANT, sender, first])?;
    if first < sequence {
        add_gap(connection, sender, first, sequence - 1)?;
    }
    if sequence < last {
        add_gap(connection, sender, sequence + 1, last)?;
    }
    Ok(())
}

fn add_gap(connection: &Connection, sender: &str, first: i64, last: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO sender_gaps (tenant, sender, first, last) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![TENANT, sender, first, last])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps_after(sequences: &[i64]) -> (i64, Vec<(i64, i64)>) {
        let connection = crate::store::in_memory();
        for sequence in sequences {
            note(&connection, "s", *sequence, 0).unwrap();
        }
        let last = connection.query_row("SELECT last_sequence FROM senders", [], |row| row.get(0)).unwrap();
        let mut gaps = connection.prepare("SELECT first, last FROM sender_gaps ORDER BY first").unwrap();
        let gaps = gaps.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        (last, gaps.map(Result::unwrap).collect())
    }

    #[test]
    fn gaps_are_exactly_what_did_not_come() {
        assert_eq!(gaps_after(&[1, 2, 3]), (3, vec![]));
        assert_eq!(gaps_after(&[3]), (3, vec![(1, 2)]));
        assert_eq!(gaps_after(&[1, 5, 9]), (9, vec![(2, 4), (6, 8)]));
        assert_eq!(gaps_after(&[1, i64::MAX]), (i64::MAX, vec![(2, i64::MAX - 1)]));
    }

    #[test]
    fn a_late_batch_closes_or_splits_its_gap() {
        assert_eq!(gaps_after(&[1, 5, 2]), (5, vec![(3, 4)]));
        assert_eq!(gaps_after(&[1, 5, 4]), (5, vec![(2, 3)]));
        assert_eq!(gaps_after(&[1, 5, 3]), (5, vec![(2, 2), (4, 4)]));
        assert_eq!(gaps_after(&[1, 3, 2]), (3, vec![]));
        assert_eq!(gaps_after(&[2, 1]), (2, vec![]));
        assert_eq!(gaps_after(&[1, 5, 1, 5]), (5, vec![(2, 4)]));
    }
}
