//! Senders, the latest first, with the gaps in their sequences.
//!
//! In: nothing. Out: how far each sender has come, how many of its batches never came, and which.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::QueryError;
use crate::clock::rfc3339;
use crate::store::TENANT;

/// The most senders in one answer.
pub const MAX_SENDERS: i64 = 1000;
/// The most gaps of one sender in an answer, the latest ones; `missing` counts all.
pub const MAX_GAPS: i64 = 100;

/// One sender.
#[derive(Debug, Serialize)]
pub struct Sender {
    sender: String,
    last_sequence: i64,
    received_batches: i64,
    missing: i64,
    gaps: Vec<(i64, i64)>,
    last_seen: String,
}

/// Lists the senders seen last.
///
/// # Errors
/// [`QueryError`].
pub fn list(connection: &Connection) -> Result<Vec<Sender>, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT sender, last_sequence, received_batches, last_seen_unix_nano FROM senders WHERE tenant = ?1
         ORDER BY last_seen_unix_nano DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![TENANT, MAX_SENDERS])?;
    let mut senders = Vec::new();
    while let Some(row) = rows.next()? {
        let sender: String = row.get(0)?;
        senders.push(Sender {
            missing: missing(connection, &sender)?,
            gaps: gaps(connection, &sender)?,
            sender,
            last_sequence: row.get(1)?,
            received_batches: row.get(2)?,
            last_seen: rfc3339(row.get(3)?),
        });
    }
    Ok(senders)
}

fn missing(connection: &Connection, sender: &str) -> Result<i64, QueryError> {
    let sql = "SELECT coalesce(sum(last - first + 1), 0) FROM sender_gaps WHERE tenant = ?1 AND sender = ?2";
    Ok(connection.prepare_cached(sql)?.query_row(params![TENANT, sender], |row| row.get(0))?)
}

fn gaps(connection: &Connection, sender: &str) -> Result<Vec<(i64, i64)>, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT first, last FROM (SELECT first, last FROM sender_gaps WHERE tenant = ?1 AND sender = ?2
         ORDER BY first DESC LIMIT ?3) ORDER BY first",
    )?;
    let gaps =
        statement.query_map(params![TENANT, sender, MAX_GAPS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(gaps.collect::<Result<_, _>>()?)
}
