//! Logging as in the incident: each request puts its log into a queue that all share, then empties that queue under one
//! lock, row by row. Whoever holds the lock while a row stalls makes everybody behind it wait, and writes others' rows too.

use std::{
    collections::VecDeque,
    sync::{Mutex as SyncMutex, PoisonError},
};

use tokio::sync::Mutex;

use crate::database::{Database, RequestLog};

/// The queue in the process and the one connection behind it.
pub(crate) struct InRequest {
    waiting: SyncMutex<VecDeque<RequestLog>>,
    database: Mutex<Database>,
}

impl InRequest {
    pub(crate) fn new(database: Database) -> Self {
        Self { waiting: SyncMutex::default(), database: Mutex::new(database) }
    }

    /// Returns when nothing is in the queue any more, so after this request's log is written.
    ///
    /// # Errors
    /// When the database refuses a row, this request's or another's.
    pub(crate) async fn log(&self, log: RequestLog) -> anyhow::Result<()> {
        self.queue(|waiting| waiting.push_back(log));
        let database = self.database.lock().await;
        while let Some(log) = self.queue(VecDeque::pop_front) {
            database.insert(&log).await?;
        }
        Ok(())
    }

    /// Logs that are in the process only, but for the one that is being written.
    pub(crate) fn waiting(&self) -> usize {
        self.queue(|waiting| waiting.len())
    }

    fn queue<T>(&self, act: impl FnOnce(&mut VecDeque<RequestLog>) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
