//! Stalls of a database, drawn for each call or each row. In PostgreSQL a trigger sleeps; the collector's SQLite has its
//! write lock taken from outside, so that the collector is the product as it is, and its writer waits.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

/// How often the collector's database is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How likely a call or a row stalls, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stalls {
    /// How long.
    pub duration: Duration,
    /// From 0 to 1.
    pub probability: f64,
    /// What the draws follow from.
    pub seed: u64,
}

/// What a stall is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Draw {
    /// A call of the database: one row in a request, a batch elsewhere.
    Call,
    /// A row, however many a call writes: a batch of 100 draws 100 times.
    Row,
}

/// Holds the write lock of a collector's database until it is dropped: nothing can be stored or acknowledged.
#[derive(Debug)]
pub struct Hold(Connection);

impl Hold {
    /// Takes the lock.
    ///
    /// # Errors
    /// When the database cannot be opened, or does not give the lock away.
    pub fn take(database: &Path) -> anyhow::Result<Self> {
        let connection = open(database)?;
        connection.execute_batch("BEGIN IMMEDIATE").context("the collector's database was not held")?;
        Ok(Self(connection))
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn release(self) -> anyhow::Result<()> {
        self.0.execute_batch("ROLLBACK").context("the collector's database was not released")
    }
}

fn open(database: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(|| format!("cannot open `{}`", database.display()))?;
    connection.busy_timeout(Duration::from_secs(60))?;
    Ok(connection)
}

/// Stalls the database of a running collector. After each batch of records that the collector has stored it draws, and
/// holds the file's write lock for as long as was drawn: what the writer has to do next, storing and acknowledging, waits.
#[derive(Debug)]
pub struct Staller {
    stop: Arc<AtomicBool>,
    stalled: Arc<AtomicU64>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Staller {
    /// Begins, on the collector's database file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn start(database: &Path, stalls: Stalls, draw: Draw) -> anyhow::Result<Self> {
        let connection = open(database)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stalled = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&stalled));
        let thread = thread::spawn(move || stall(&connection, stalls, draw, &stopped, &count));
        Ok(Self { stop, stalled, thread: Some(thread) })
    }

    /// Ends, at once even while it holds the lock. How often the database stalled.
    ///
    /// # Errors
    /// When the database refused to be stalled.
    pub fn end(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("the thread that stalls the database has panicked"))??;
        Ok(self.stalled())
    }

    fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Acquire)
    }
}

impl Drop for Staller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn stall(
    connection: &Connection,
    stalls: Stalls,
    draw: Draw,
    stop: &AtomicBool,
    stalled: &AtomicU64,
) -> anyhow::Result<()> {
    let count = match draw {
        Draw::Call => "SELECT count(*) FROM batches WHERE signal = 'logs'",
        Draw::Row => "SELECT stored FROM accounting WHERE signal = 'logs'",
    };
    let mut random = fastrand::Rng::with_seed(stalls.seed);
    let mut seen = 0_i64;
    while !stop.load(Ordering::Acquire) {
        let stored: i64 = connection.prepare_cached(count)?.query_row([], |row| row.get(0))?;
        let drawn = (seen..stored).filter(|_| random.f64() < stalls.probability).count();
        seen = stored;
        if drawn > 0 {
            stalled.fetch_add(drawn as u64, Ordering::AcqRel);
            connection.execute_batch("BEGIN IMMEDIATE")?;
            sleep(stalls.duration * u32::try_from(drawn).unwrap_or(u32::MAX), stop);
            connection.execute_batch("ROLLBACK")?;
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn sleep(duration: Duration, stop: &AtomicBool) {
    let end = Instant::now() + duration;
    while !stop.load(Ordering::Acquire) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// As much of the collector's schema as is looked at, with three batches of two records.
    fn database(folder: &Path) -> PathBuf {
        let path = folder.join("offpath.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE batches (signal TEXT);
                 INSERT INTO batches VALUES ('logs'), ('logs'), ('logs'), ('traces');
                 CREATE TABLE accounting (signal TEXT, stored INTEGER);
                 INSERT INTO accounting VALUES ('logs', 6), ('traces', 1);",
            )
            .unwrap();
        path
    }

    fn writes(database: &Path) -> bool {
        let connection = Connection::open(database).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection.execute_batch("INSERT INTO batches VALUES ('metrics')").is_ok()
    }

    #[test]
    fn a_held_database_takes_no_write_until_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let database = database(folder.path());
        let hold = Hold::take(&database).unwrap();
        assert!(!writes(&database));
        hold.release().unwrap();
        assert!(writes(&database));
    }

    #[test]
    fn a_batch_draws_once_and_a_row_each_time() {
        let stalls = Stalls { duration: Duration::ZERO, probability: 1.0, seed: 1 };
        for (draw, expected) in [(Draw::Call, 3), (Draw::Row, 6)] {
            let folder = tempfile::tempdir().unwrap();
            let staller = Staller::start(&database(folder.path()), stalls, draw).unwrap();
            while !staller.thread.as_ref().unwrap().is_finished() && staller.stalled() < expected {
                thread::yield_now();
            }
            assert_eq!(staller.end().unwrap(), expected);
        }
    }
}
