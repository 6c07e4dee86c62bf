//! The batch job behind the queue: what the collector has stored comes in, in the order of its rows; batches go to the
//! database, each with how far the queue was read in the same transaction. So it can be killed at any time and begins
//! again where it was: nothing is lost or written twice.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags, params};
use tokio::time::sleep;

use crate::database::{Database, RequestLog};

/// From where to where, and how fast.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The collector's database
    #[arg(long)]
    queue: PathBuf,
    /// A file with the database's URL
    #[arg(long)]
    database: PathBuf,
    /// A batch has at most so many rows
    #[arg(long, default_value_t = 500)]
    batch: u32,
    /// How often it looks whether there is something in the queue
    #[arg(long, default_value_t = 1000)]
    interval_ms: u64,
}

/// Runs until it is killed.
///
/// # Errors
/// When the queue cannot be read or the database not be written.
pub(crate) async fn consume(options: Options) -> anyhow::Result<()> {
    let queue = Connection::open_with_flags(&options.queue, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open `{}`", options.queue.display()))?;
    let mut database = Database::connect(&options.database).await?;
    let mut position = database.position().await?;
    loop {
        let batch = read(&queue, position, options.batch)?;
        if let Some((last, _)) = batch.last() {
            position = *last;
            let logs: Vec<RequestLog> = batch.into_iter().map(|(_, log)| log).collect();
            let is_full = logs.len() == options.batch as usize;
            database.insert_batch(&logs, position).await?;
            if is_full {
                continue;
            }
        }
        sleep(Duration::from_millis(options.interval_ms)).await;
    }
}

/// Rows behind `position`, each with its own.
fn read(queue: &Connection, position: i64, limit: u32) -> anyhow::Result<Vec<(i64, RequestLog)>> {
    let mut select = queue.prepare_cached(
        "SELECT id, substr(path, length('/task/') + 1), time_unix_nano, status, duration_seconds
         FROM logs WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = select.query_map(params![position, limit], |row| {
        let request: String = row.get(1)?;
        let log = RequestLog {
            request: request.parse().unwrap_or(-1),
            began_unix_nano: row.get(2)?,
            status: row.get(3)?,
            duration_seconds: row.get(4)?,
        };
        Ok((row.get(0)?, log))
    })?;
    rows.collect::<Result<_, _>>().context("cannot read the queue")
}
