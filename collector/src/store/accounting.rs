//! The accounting: where every record that was acknowledged is now.
//!
//! In: changes, each in the transaction of what it counts. Out: totals, for `/api/accounting` and `/metrics`, that add
//! up over restarts and crashes because they commit or vanish together with their records.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::StoreError;
use crate::otlp::Signal;

/// Totals, or changes of totals, of one signal: log records, metric data points or spans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Acknowledged, ever.
    pub received: i64,
    /// In the store as rows.
    pub stored: i64,
    /// Came in a batch that was already stored.
    pub deduplicated: i64,
    /// Set aside because the store refused them.
    pub dead_lettered: i64,
    /// Acknowledged and waiting to become rows.
    pub queued: i64,
    /// Cumulative points older than one already stored, which say nothing new, and drops of nobody that an older collector
    /// let in; other signals have none.
    #[serde(skip_serializing_if = "is_zero")]
    pub superseded: i64,
    /// The size of what is queued.
    #[serde(skip)]
    pub queued_bytes: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Adds a change to a signal's totals.
///
/// # Errors
/// [`StoreError`].
pub fn add(connection: &Connection, signal: Signal, change: Accounting) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE accounting SET received = received + ?2, stored = stored + ?3, superseded = superseded + ?4,
             deduplicated = deduplicated + ?5, dead_lettered = dead_lettered + ?6, queued = queued + ?7,
             queued_bytes = queued_bytes + ?8 WHERE signal = ?1",
        )?
        .execute(params![
            signal.as_str(),
            change.received,
            change.stored,
            change.superseded,
            change.deduplicated,
            change.dead_lettered,
            change.queued,
            change.queued_bytes,
        ])?;
    Ok(())
}

/// A signal's totals.
///
/// # Errors
/// [`StoreError`].
pub fn read(connection: &Connection, signal: Signal) -> Result<Accounting, StoreError> {
    let sql = "SELECT received, stored, superseded, deduplicated, dead_lettered, queued, queued_bytes
               FROM accounting WHERE signal = ?1";
    let totals = connection.prepare_cached(sql)?.query_row(params![signal.as_str()], |row| {
        Ok(Accounting {
            received: row.get(0)?,
            stored: row.get(1)?,
            superseded: row.get(2)?,
            deduplicated: row.get(3)?,
            dead_lettered: row.get(4)?,
            queued: row.get(5)?,
            queued_bytes: row.get(6)?,
        })
    })?;
    Ok(totals)
}
