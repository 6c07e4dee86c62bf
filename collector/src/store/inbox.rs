//! The inbox: the durable queue, a table of requests as they came.
//!
//! In: validated requests, many in one transaction ([`crate::writer`] commits it and only then acknowledges them).
//! Out: the oldest ones, to become rows in a transaction that also removes them here. Nothing is dropped.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::accounting::{self, Accounting};
use super::{StoreError, TENANT};
use crate::encoding::Encoding;
use crate::otlp::Signal;

/// A request in, or for, the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What it carries.
    pub signal: Signal,
    /// The sender's name for it, if it has one, or the store's own, of a dead letter.
    pub batch_id: Option<String>,
    /// When it was received.
    pub received_unix_nano: i64,
    /// How `body` is compressed.
    pub encoding: Encoding,
    /// How large it is without compression.
    pub decoded_bytes: i64,
    /// How many log records, or accepted data points or spans, it carries.
    pub records: i64,
    /// The request as it came.
    pub body: Vec<u8>,
}

/// A batch's size, as the accounting and the watermark count it.
#[must_use]
pub fn bytes(body: &[u8]) -> i64 {
    i64::try_from(body.len()).unwrap_or(i64::MAX)
}

/// Adds a new batch, counted as received.
///
/// # Errors
/// [`StoreError`].
pub fn push(connection: &Connection, batch: &Batch) -> Result<(), StoreError> {
    insert(connection, batch)?;
    let change = Accounting {
        received: batch.records,
        queued: batch.records,
        queued_bytes: bytes(&batch.body),
        ..Accounting::default()
    };
    accounting::add(connection, batch.signal, change)
}

/// Adds a batch without counting it.
///
/// # Errors
/// [`StoreError`].
pub fn insert(connection: &Connection, batch: &Batch) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO inbox (tenant, signal, batch_id, received_unix_nano, encoding, decoded_bytes, records, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            TENANT,
            batch.signal.as_str(),
            batch.batch_id,
            batch.received_unix_nano,
            batch.encoding.as_str(),
            batch.decoded_bytes,
            batch.records,
            batch.body,
        ])?;
    Ok(())
}

/// The oldest batches with their ids: at most `max_batches`, and beyond the first one at most `max_bytes` decoded.
///
/// # Errors
/// [`StoreError`].
pub fn oldest(
    connection: &Connection,
    max_batches: u32,
    max_bytes: i64,
) -> Result<Vec<(i64, Batch)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, signal, batch_id, received_unix_nano, encoding, decoded_bytes, records, body
         FROM inbox ORDER BY id LIMIT ?1",
    )?;
    let mut rows = statement.query(params![max_batches])?;
    let (mut batches, mut total) = (Vec::new(), 0_i64);
    while let Some(row) = rows.next()? {
        total = total.saturating_add(row.get(5)?);
        if total > max_bytes && !batches.is_empty() {
            break;
        }
        batches.push(batch(row)?);
    }
    Ok(batches)
}

fn batch(row: &Row<'_>) -> Result<(i64, Batch), StoreError> {
    let (signal, encoding): (String, String) = (row.get(1)?, row.get(4)?);
    let unknown = |name, value| StoreError::Fatal(format!("the inbox holds the unknown {name} `{value}`"));
    let batch = Batch {
        signal: Signal::from_name(&signal).ok_or_else(|| unknown("signal", &signal))?,
        batch_id: row.get(2)?,
        received_unix_nano: row.get(3)?,
        encoding: Encoding::from_name(&encoding).ok_or_else(|| unknown("encoding", &encoding))?,
        decoded_bytes: row.get(5)?,
        records: row.get(6)?,
        body: row.get(7)?,
    };
    Ok((row.get(0)?, batch))
}

/// Removes a batch that has become rows.
///
/// # Errors
/// [`StoreError`].
pub fn remove(connection: &Connection, id: i64) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM inbox WHERE id = ?1")?.execute(params![id])?;
    Ok(())
}

/// When the oldest waiting batch was received.
///
/// # Errors
/// [`StoreError`].
pub fn oldest_received(connection: &Connection) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT received_unix_nano FROM inbox ORDER BY id LIMIT 1";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
}
