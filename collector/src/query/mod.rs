//! Queries: what the API asks of the store.
//!
//! In: checked parameters. Out: rows as the API answers them. Connections of their own that can only read, on
//! blocking threads: no query makes the writer wait, and one that takes too long is broken off.

pub mod latency;
pub mod logs;
pub mod page;
pub mod senders;
pub mod traces;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc};

use crate::store::{self, StoreError};

/// How long one query may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// SQLite looks at the clock after so many of its steps.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It took too long.
    #[error("the query took longer than {} s: narrow the time range", TIMEOUT.as_secs())]
    TooLong,
    /// Its answer would be too large.
    #[error(
        "the answer would take more than {limit} {what}: narrow the time range, enlarge `step` or leave out `by`"
    )]
    TooLarge {
        /// What is allowed.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// The store does not answer.
    #[error("{0}")]
    Store(String),
    /// The file is corrupted.
    #[error("{0}")]
    Damaged(String),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => Self::TooLong,
            _ => StoreError::from(error).into(),
        }
    }
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fatal(reason) => Self::Damaged(reason),
            StoreError::Refused(reason) | StoreError::Unavailable(reason) => Self::Store(reason),
        }
    }
}

/// Connections that read.
#[derive(Debug, Clone)]
pub struct Pool {
    folder: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    damage: mpsc::Sender<String>,
}

impl Pool {
    /// At most `readers` connections at a time, to the database in `folder`; corrupted pages are told to `damage`.
    #[must_use]
    pub fn new(folder: PathBuf, readers: usize, damage: mpsc::Sender<String>) -> Self {
        Self { folder, idle: Arc::default(), permits: Arc::new(Semaphore::new(readers)), damage }
    }

    /// Runs a query.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let stopped = || QueryError::Store("the collector is shutting down".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let pool = self.clone();
        let work = move || {
            let _permit = permit;
            let mut connection = pool.take()?;
            let deadline = Instant::now() + TIMEOUT;
            connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() > deadline))?;
            let answer = query(&connection);
            match &answer {
                Ok(_) => pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection),
                // One report is enough to end the process.
                Err(QueryError::Damaged(reason)) => drop(pool.damage.try_send(reason.clone())),
                Err(_) => {}
            }
            answer
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopped()))
    }

    fn take(&self) -> Result<Connection, QueryError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => store::open_read_only(&self.folder).map_err(|error| QueryError::Store(error.to_string())),
        }
    }
}
