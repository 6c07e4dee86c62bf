//! Senders and the gaps in their sequences.
//!
//! In: the sender and sequence number of each batch that is stored, in the batch's own transaction. Out: how far each
//! sender has come and which of its batches never came, as ranges: where one is missing, a batch was lost on the way or
//! dropped by the sender. A batch that comes late closes or splits its gap: what came in the end was never missing.
//!
//! Sequence numbers are whatever a sender says. So each batch costs a bounded number of rows, and three things are
//! dropped here, none of them a record: ranges beyond [`MAX_GAPS`] of one sender, which stay in its count; senders that
//! were silent for long or are too many; and of one sender's count, what exceeds [`MAX_COUNTED`], in the totals.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{StoreError, TENANT};

/// Of one sender's gaps so many are kept as ranges, the latest ones. Batches missing in older ones stay counted, also
/// if they should come after all: the count is an upper bound then.
pub const MAX_GAPS: i64 = 100;
/// At most so many senders are known. A new one then takes the place of the one that was silent for longest.
pub const MAX_SENDERS: i64 = 100_000;
/// What one sender can add to the missing batches of all: beside one whose numbers make no sense, the others' losses
/// are seen all the same.
pub const MAX_COUNTED: i64 = 1_000_000;
/// Of the senders that are silent for too long, so many are forgotten with each transaction.
const FORGOTTEN_PER_TRANSACTION: i64 = 128;

/// All senders together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many are known.
    pub senders: i64,
    /// Of these, how many have gaps.
    pub with_gaps: i64,
    /// Batches that never came. Those of senders that were forgotten stay in it, so that it falls only when one comes.
    pub missing_batches: i64,
    /// Since when the sender that has had gaps for longest has had them.
    pub missing_since_unix_nano: Option<i64>,
}

/// What is known of one sender.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    last_sequence: i64,
    missing_batches: i64,
    gaps: i64,
}

impl Known {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { last_sequence: row.get(0)?, missing_batches: row.get(1)?, gaps: row.get(2)? })
    }
}

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
    let sql = "SELECT last_sequence, missing_batches, gaps FROM senders WHERE tenant = ?1 AND sender = ?2";
    let before =
        connection.prepare_cached(sql)?.query_row(params![TENANT, sender], Known::read).optional()?;
    if before.is_none() {
        make_room(connection)?;
    }
    let mut known = before.unwrap_or_default();
    let expected = known.last_sequence.saturating_add(1);
    if sequence > expected {
        add_gap(connection, sender, &mut known, (expected, sequence - 1))?;
        known.missing_batches = known.missing_batches.saturating_add(sequence - expected);
    } else if sequence < expected {
        fill(connection, sender, &mut known, sequence)?;
    }
    known.last_sequence = known.last_sequence.max(sequence);
    write(connection, sender, &known, now_unix_nano)?;
    add_to_totals(connection, before, &known)
}

fn write(connection: &Connection, sender: &str, known: &Known, now_unix_nano: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO senders (tenant, sender, last_sequence, received_batches, missing_batches, gaps,
             missing_since_unix_nano, last_seen_unix_nano)
             VALUES (?1, ?2, ?3, 1, ?4, ?5, iif(?4 > 0, ?6, NULL), ?6) ON CONFLICT DO UPDATE SET
             received_batches = received_batches + 1, last_sequence = ?3, missing_batches = ?4, gaps = ?5,
             missing_since_unix_nano = iif(?4 > 0, coalesce(missing_since_unix_nano, ?6), NULL),
             last_seen_unix_nano = ?6",
        )?
        .execute(params![
            TENANT,
            sender,
            known.last_sequence,
            known.missing_batches,
            known.gaps,
            now_unix_nano
        ])?;
    Ok(())
}

fn add_to_totals(connection: &Connection, before: Option<Known>, after: &Known) -> Result<(), StoreError> {
    let missing_before = before.map_or(0, |known| known.missing_batches);
    connection
        .prepare_cached(
            "UPDATE sender_totals SET senders = senders + ?2, with_gaps = with_gaps + ?3,
             missing_batches = missing_batches + ?4 WHERE tenant = ?1",
        )?
        .execute(params![
            TENANT,
            i64::from(before.is_none()),
            i64::from(after.missing_batches > 0) - i64::from(missing_before > 0),
            after.missing_batches.min(MAX_COUNTED) - missing_before.min(MAX_COUNTED),
        ])?;
    Ok(())
}

/// Takes a late `sequence` out of the gap that it lies in, if it lies in one.
fn fill(connection: &Connection, sender: &str, known: &mut Known, sequence: i64) -> Result<(), StoreError> {
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
    remove_gap(connection, sender, known, first)?;
    if first < sequence {
        add_gap(connection, sender, known, (first, sequence - 1))?;
    }
    if sequence < last {
        add_gap(connection, sender, known, (sequence + 1, last))?;
    }
    known.missing_batches -= 1;
    Ok(())
}

/// Keeps a range; the sender's oldest one gives way where there are too many.
fn add_gap(
    connection: &Connection,
    sender: &str,
    known: &mut Known,
    (first, last): (i64, i64),
) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO sender_gaps (tenant, sender, first, last) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![TENANT, sender, first, last])?;
    known.gaps += 1;
    if known.gaps > MAX_GAPS {
        let sql = "SELECT min(first) FROM sender_gaps WHERE tenant = ?1 AND sender = ?2";
        let oldest = connection.prepare_cached(sql)?.query_row(params![TENANT, sender], |row| row.get(0))?;
        remove_gap(connection, sender, known, oldest)?;
    }
    Ok(())
}

fn remove_gap(
    connection: &Connection,
    sender: &str,
    known: &mut Known,
    first: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM sender_gaps WHERE tenant = ?1 AND sender = ?2 AND first = ?3")?
        .execute(params![TENANT, sender, first])?;
    known.gaps -= 1;
    Ok(())
}

/// Forgets the sender that was silent for longest, when there is no room for another one.
fn make_room(connection: &Connection) -> Result<(), StoreError> {
    let sql = "SELECT senders FROM sender_totals WHERE tenant = ?1";
    let senders: i64 = connection.prepare_cached(sql)?.query_row(params![TENANT], |row| row.get(0))?;
    if senders < MAX_SENDERS { Ok(()) } else { forget(connection, i64::MAX, 1) }
}

/// Forgets some of the senders that were last seen before `before_unix_nano`.
///
/// # Errors
/// [`StoreError`].
pub fn forget_silent(connection: &Connection, before_unix_nano: i64) -> Result<(), StoreError> {
    forget(connection, before_unix_nano, FORGOTTEN_PER_TRANSACTION)
}

fn forget(connection: &Connection, before_unix_nano: i64, limit: i64) -> Result<(), StoreError> {
    let silent: Vec<(String, i64)> = connection
        .prepare_cached(
            "SELECT sender, missing_batches FROM senders WHERE tenant = ?1 AND last_seen_unix_nano < ?2
             ORDER BY last_seen_unix_nano LIMIT ?3",
        )?
        .query_map(params![TENANT, before_unix_nano, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (sender, missing_batches) in silent {
        for sql in [
            "DELETE FROM sender_gaps WHERE tenant = ?1 AND sender = ?2",
            "DELETE FROM sender_drops WHERE tenant = ?1 AND sender = ?2",
            "DELETE FROM senders WHERE tenant = ?1 AND sender = ?2",
        ] {
            connection.prepare_cached(sql)?.execute(params![TENANT, sender])?;
        }
        connection
            .prepare_cached(
                "UPDATE sender_totals SET senders = senders - 1, with_gaps = with_gaps - ?2 WHERE tenant = ?1",
            )?
            .execute(params![TENANT, i64::from(missing_batches > 0)])?;
    }
    Ok(())
}

/// All senders together: two rows are read, however many there are.
///
/// # Errors
/// [`StoreError`].
pub fn totals(connection: &Connection) -> Result<Totals, StoreError> {
    let since = "SELECT missing_since_unix_nano FROM senders
                 WHERE tenant = ?1 AND missing_since_unix_nano IS NOT NULL
                 ORDER BY missing_since_unix_nano LIMIT 1";
    let missing_since_unix_nano =
        connection.prepare_cached(since)?.query_row(params![TENANT], |row| row.get(0)).optional()?;
    let sql = "SELECT senders, with_gaps, missing_batches FROM sender_totals WHERE tenant = ?1";
    let totals = connection.prepare_cached(sql)?.query_row(params![TENANT], |row| {
        Ok(Totals {
            senders: row.get(0)?,
            with_gaps: row.get(1)?,
            missing_batches: row.get(2)?,
            missing_since_unix_nano,
        })
    })?;
    Ok(totals)
}

#[cfg(test)]
mod tests;
