//! Stalls of a database, drawn for each call or each row. In PostgreSQL a trigger sleeps; the collector's SQLite has its
//! write lock taken from outside, so that the collector is the product as it is, and its writer waits.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
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

/// Stalls the database of a running collector. After each batch of records that the collector has stored it draws, and
/// holds the file's write lock for as long as was drawn: what the writer has to do next, storing and acknowledging, waits.
#[derive(Debug)]
pub struct Staller {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<u64>>>,
}

impl Staller {
    /// Begins, on the collector's database file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn start(database: &Path, stalls: Stalls, draw: Draw) -> anyhow::Result<Self> {
        let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .with_context(|| format!("cannot open `{}`", database.display()))?;
        connection.busy_timeout(Duration::from_secs(60))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || stall(&connection, stalls, draw, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends, at once even while it holds the lock. How often the database stalled.
    ///
    /// # Errors
    /// When the database refused to be stalled.
    pub fn end(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("the thread that stalls the database has panicked"))?
    }
}

impl Drop for Staller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn stall(connection: &Connection, stalls: Stalls, draw: Draw, stop: &AtomicBool) -> anyhow::Result<u64> {
    let count = match draw {
        Draw::Call => "SELECT count(*) FROM batches WHERE signal = 'logs'",
        Draw::Row => "SELECT stored FROM accounting WHERE signal = 'logs'",
    };
    let mut random = fastrand::Rng::with_seed(stalls.seed);
    let (mut seen, mut stalled) = (0_i64, 0_u64);
    while !stop.load(Ordering::Acquire) {
        let stored: i64 = connection.prepare_cached(count)?.query_row([], |row| row.get(0))?;
        let drawn = (seen..stored).filter(|_| random.f64() < stalls.probability).count();
        seen = stored;
        if drawn > 0 {
            stalled += drawn as u64;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            sleep(stalls.duration * u32::try_from(drawn).unwrap_or(u32::MAX), stop);
            connection.execute_batch("ROLLBACK")?;
        }
        thread::sleep(LOOK);
    }
    Ok(stalled)
}

fn sleep(duration: Duration, stop: &AtomicBool) {
    let end = std::time::Instant::now() + duration;
    while !stop.load(Ordering::Acquire) {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}
