//! Dead letters: records that the store refused, set aside with the reason and their bytes.
//!
//! In: refused records, each as an OTLP request of its own, in the transaction of their batch. Out: a list for people,
//! and [`replay`], which puts them back into the inbox once what made the store refuse them has changed.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::accounting::{self, Accounting};
use super::inbox::{self, Batch};
use super::{StoreError, TENANT};
use crate::batch_id;
use crate::encoding::Encoding;
use crate::otlp::Signal;

/// A dead letter, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// What to name it by in `replay`.
    pub id: i64,
    /// What it carries.
    pub signal: String,
    /// The batch it came in.
    pub batch_id: Option<String>,
    /// When it was set aside.
    pub dead_unix_nano: i64,
    /// Why.
    pub reason: String,
    /// How many records it holds.
    pub records: i64,
    /// How many bytes.
    pub bytes: i64,
}

/// Sets `batch` aside. The caller counts it.
///
/// # Errors
/// [`StoreError`].
pub fn set_aside(
    connection: &Connection,
    batch: &Batch,
    reason: &str,
    now_unix_nano: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letters (tenant, signal, batch_id, dead_unix_nano, reason, encoding, decoded_bytes,
             records, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            TENANT,
            batch.signal.as_str(),
            batch.batch_id,
            now_unix_nano,
            reason,
            batch.encoding.as_str(),
            batch.decoded_bytes,
            batch.records,
            batch.body,
        ])?;
    Ok(())
}

/// The oldest `limit` dead letters.
///
/// # Errors
/// [`StoreError`].
pub fn list(connection: &Connection, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT id, signal, batch_id, dead_unix_nano, reason, records, length(body) FROM dead_letters
         ORDER BY id LIMIT ?1",
    )?;
    let letters = statement.query_map(params![limit], |row| {
        Ok(DeadLetter {
            id: row.get(0)?,
            signal: row.get(1)?,
            batch_id: row.get(2)?,
            dead_unix_nano: row.get(3)?,
            reason: row.get(4)?,
            records: row.get(5)?,
            bytes: row.get(6)?,
        })
    })?;
    Ok(letters.collect::<Result<_, _>>()?)
}

/// Moves dead letter `id` back into the inbox: `dead_lettered` falls and `queued` rises by its records, `received`
/// stays. It goes under an id of its own ([`batch_id::of_letter`]), since its batch is stored and would make it a duplicate.
/// Returns its number of records, or none when there is no such dead letter.
///
/// # Errors
/// [`StoreError`].
pub fn replay(connection: &mut Connection, id: i64) -> Result<Option<i64>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let row = transaction
        .query_row(
            "DELETE FROM dead_letters WHERE id = ?1
             RETURNING signal, encoding, decoded_bytes, records, body, dead_unix_nano, batch_id",
            params![id],
            |row| {
                let names: (String, String) = (row.get(0)?, row.get(1)?);
                Ok((
                    names,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get::<_, Option<String>>(6)?,
                ))
            },
        )
        .optional()?;
    let Some(((signal, encoding), decoded_bytes, records, body, received_unix_nano, batch_id)) = row else {
        return Ok(None);
    };
    let (Some(signal), Some(encoding)) = (Signal::from_name(&signal), Encoding::from_name(&encoding)) else {
        return Err(StoreError::Fatal(format!(
            "dead letter {id} has the unknown kind `{signal}`, `{encoding}`"
        )));
    };
    let batch_id = batch_id.map(|key| batch_id::of_letter(&key, id));
    let batch = Batch { signal, batch_id, received_unix_nano, encoding, decoded_bytes, records, body };
    inbox::insert(&transaction, &batch)?;
    let change = Accounting {
        dead_lettered: -records,
        queued: records,
        queued_bytes: inbox::bytes(&batch.body),
        ..Accounting::default()
    };
    accounting::add(&transaction, signal, change)?;
    transaction.commit()?;
    Ok(Some(records))
}
