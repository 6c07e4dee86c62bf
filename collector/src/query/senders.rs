//! Senders, the latest first, with the gaps in their sequences.
//!
//! In: nothing. Out: how far each sender has come, how many of its batches never came, since when, and which, and
//! what it says itself that it has dropped.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::QueryError;
use crate::clock::rfc3339;
use crate::store::senders::MAX_GAPS;
use crate::store::{TENANT, drops};

/// The most senders in one answer.
pub const MAX_SENDERS: i64 = 1000;

/// One sender.
#[derive(Debug, Serialize)]
pub struct Sender {
    sender: String,
    last_sequence: i64,
    received_batches: i64,
    missing: i64,
    missing_since: Option<String>,
    gaps: Vec<(i64, i64)>,
    /// What it says itself that it has dropped: how much, by metric and reason.
    dropped: BTreeMap<String, BTreeMap<String, i64>>,
    last_seen: String,
}

/// Lists the senders seen last.
///
/// # Errors
/// [`QueryError`].
pub fn list(connection: &Connection) -> Result<Vec<Sender>, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT sender, last_sequence, received_batches, missing_batches, missing_since_unix_nano,
         last_seen_unix_nano FROM senders WHERE tenant = ?1 ORDER BY last_seen_unix_nano DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![TENANT, MAX_SENDERS])?;
    let mut senders = Vec::new();
    while let Some(row) = rows.next()? {
        let sender: String = row.get(0)?;
        senders.push(Sender {
            gaps: gaps(connection, &sender)?,
            dropped: dropped(connection, &sender)?,
            sender,
            last_sequence: row.get(1)?,
            received_batches: row.get(2)?,
            missing: row.get(3)?,
            missing_since: row.get::<_, Option<i64>>(4)?.map(rfc3339),
            last_seen: rfc3339(row.get(5)?),
        });
    }
    Ok(senders)
}

fn dropped(
    connection: &Connection,
    sender: &str,
) -> Result<BTreeMap<String, BTreeMap<String, i64>>, QueryError> {
    let mut by_metric: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for (metric, reason, count) in drops::of_sender(connection, sender)? {
        by_metric.entry(metric).or_default().insert(reason, count);
    }
    Ok(by_metric)
}

/// The ranges that are kept of a sender: the latest ones, while `missing` counts all.
fn gaps(connection: &Connection, sender: &str) -> Result<Vec<(i64, i64)>, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT first, last FROM sender_gaps WHERE tenant = ?1 AND sender = ?2 ORDER BY first LIMIT ?3",
    )?;
    let gaps =
        statement.query_map(params![TENANT, sender, MAX_GAPS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(gaps.collect::<Result<_, _>>()?)
}
