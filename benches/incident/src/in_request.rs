//! Logging as in the incident: each request puts its log into a queue that all share, then empties that queue under one
//! lock, row by row. Whoever holds the lock while a row stalls makes everybody behind it wait, and writes others' rows too.

use std::{
    collections::VecDeque,
    sync::{Mutex as SyncMutex, PoisonError},
};

use tokio::sync::Mutex;

use crate::{
    convoy::{Convoys, Tally},
    database::{Database, RequestLog},
};

/// The queue in the process and the one connection behind it.
pub(crate) struct InRequest {
    waiting: SyncMutex<VecDeque<RequestLog>>,
    database: Mutex<Database>,
    convoys: Convoys,
}

impl InRequest {
    pub(crate) fn new(database: Database) -> Self {
        Self { waiting: SyncMutex::default(), database: Mutex::new(database), convoys: Convoys::default() }
    }

    /// Returns when nothing is in the queue any more, so after this request's log is written.
    ///
    /// # Errors
    /// When the database refuses a row, this request's or another's.
    pub(crate) async fn log(&self, log: RequestLog) -> anyhow::Result<()> {
        let request = log.request;
        let behind_another = self.convoys.enter();
        self.queue(|waiting| waiting.push_back(log));
        let drained = self.drain(request).await;
        let wrote_for_another = *drained.as_ref().unwrap_or(&false);
        self.convoys.leave(wrote_for_another && !behind_another);
        drained.map(drop)
    }

    /// Whether another request's row was written.
    async fn drain(&self, request: i64) -> anyhow::Result<bool> {
        let database = self.database.lock().await;
        let mut for_another = false;
        while let Some(log) = self.queue(VecDeque::pop_front) {
            for_another |= log.request != request;
            database.insert(&log).await?;
        }
        Ok(for_another)
    }

    /// Logs that are in the process only.
    pub(crate) fn waiting(&self) -> usize {
        self.queue(|waiting| waiting.len())
    }

    pub(crate) fn convoys(&self) -> Tally {
        self.convoys.tally()
    }

    fn queue<T>(&self, act: impl FnOnce(&mut VecDeque<RequestLog>) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
