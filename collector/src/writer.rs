//! The writer: the one thread that writes to the database.
//!
//! In: validated requests from the door, each with somebody waiting for its acknowledgement. Out: rows.
//! Two kinds of transaction take turns. *Inbox*: everything that waits is inserted into the inbox together, one commit
//! syncs it to disk, and only then is each of them acknowledged. *Store*: some of the oldest batches become rows, each
//! with its batch id, its accounting and its removal from the inbox, all in that one transaction: a crash before the
//! commit leaves the batches in the inbox, a crash after it leaves them stored, and nothing lies in between.
//!
//! A record that the database refuses is set aside alone. SQLite undoes a failed statement by itself, so that each row
//! is its own try; halving a batch to find the culprit, as a bulk load would need, is not necessary.
//! While the database is unavailable nothing is dropped: new requests are refused with 503, and what is in the inbox
//! is tried again. After an error that puts the file in doubt the thread ends, and with it the process.

mod drain;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use crate::otlp::Signal;
use crate::receive::admission::{Admission, Permit};
use crate::self_metrics::SelfMetrics;
use crate::store::inbox::{self, Batch};
use crate::store::{StoreError, accounting, senders};

/// A group of waiting requests is inserted together up to this size.
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Written bytes after which the write-ahead log is copied into the database.
const CHECKPOINT_BYTES: usize = 8 * 1024 * 1024;
/// How often an idle writer looks whether another process (a replay) has put something into the inbox.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A batch to be made durable.
#[derive(Debug)]
struct Incoming {
    batch: Batch,
    /// Keeps the batch's bytes counted as under way.
    permit: Permit,
    answer: oneshot::Sender<Result<(), String>>,
}

/// What the writer is asked to do.
#[derive(Debug)]
enum Command {
    /// Make a batch durable, then answer.
    Enqueue(Incoming),
    /// Finish: drain the inbox until the time given, and end.
    Stop(Instant),
}

/// The way to the writer.
#[derive(Debug, Clone)]
pub struct Queue(Sender<Command>);

impl Queue {
    /// Makes a batch durable. When this returns `Ok`, the batch is on disk. The error says why it is not.
    ///
    /// # Errors
    /// A reason for the sender, who has to keep the batch and try again.
    pub async fn enqueue(&self, batch: Batch, permit: Permit) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let ended = || "the collector is shutting down".to_owned();
        self.0.send(Command::Enqueue(Incoming { batch, permit, answer })).map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Lets the writer drain its inbox until `deadline`, and end.
    pub fn stop(&self, deadline: Instant) {
        // A writer that has ended by itself needs no telling.
        let _ = self.0.send(Command::Stop(deadline));
    }
}

/// What the writer shares with the rest.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Is told how much waits.
    pub admission: Arc<Admission>,
    /// Counts.
    pub metrics: Arc<SelfMetrics>,
    /// Whether the last try to write succeeded.
    pub writable: Arc<AtomicBool>,
}

/// The writer's state, within its thread.
struct Writer {
    connection: Connection,
    commands: Receiver<Command>,
    shared: Shared,
    written_bytes: usize,
    inbox_may_hold_batches: bool,
    backoff: Duration,
    next_drain: Instant,
}

/// A queue, and the work behind it, which is to be run on a thread of its own.
pub fn new(
    connection: Connection,
    shared: Shared,
) -> (Queue, impl FnOnce() -> Result<(), StoreError> + Send + use<>) {
    let (commands, received) = std::sync::mpsc::channel();
    let mut writer = Writer {
        connection,
        commands: received,
        shared,
        written_bytes: 0,
        inbox_may_hold_batches: true,
        backoff: Duration::ZERO,
        next_drain: Instant::now(),
    };
    // Whoever asks first is told what the store holds: gauges that jump from 0 would look like something that happened.
    // Should the file be in doubt, the thread finds that again, before anything else.
    drop(writer.publish_totals());
    (Queue(commands), move || writer.run())
}

impl Writer {
    fn run(&mut self) -> Result<(), StoreError> {
        let deadline = loop {
            self.publish_totals()?;
            match self.wait() {
                Ok(Command::Enqueue(first)) => {
                    if let Some(deadline) = self.enqueue(first)? {
                        break deadline;
                    }
                }
                Ok(Command::Stop(deadline)) => break deadline,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Instant::now(),
            }
            if Instant::now() >= self.next_drain {
                self.drain()?;
            }
            self.checkpoint_when_due()?;
        };
        self.finish(deadline)
    }

    /// The next command. Waits only while there is nothing to drain.
    fn wait(&self) -> Result<Command, RecvTimeoutError> {
        let timeout = if self.backoff > Duration::ZERO {
            self.next_drain.saturating_duration_since(Instant::now())
        } else if self.inbox_may_hold_batches {
            Duration::ZERO
        } else {
            POLL_INTERVAL
        };
        self.commands.recv_timeout(timeout)
    }

    /// Group commit: `first` and all that waits behind it become durable, and are answered, together. Returns the
    /// deadline, when the command to stop lay behind them.
    fn enqueue(&mut self, first: Incoming) -> Result<Option<Instant>, StoreError> {
        let mut stop = None;
        let mut bytes = first.batch.body.len();
        let mut group = vec![first];
        while bytes < MAX_GROUP_BYTES && stop.is_none() {
            match self.commands.try_recv() {
                Ok(Command::Enqueue(incoming)) => {
                    bytes = bytes.saturating_add(incoming.batch.body.len());
                    group.push(incoming);
                }
                Ok(Command::Stop(deadline)) => stop = Some(deadline),
                Err(_) => break,
            }
        }
        let outcome = self.transaction("inbox", |connection| {
            group.iter().try_for_each(|incoming| inbox::push(connection, &incoming.batch))
        });
        let outcome = match outcome {
            Ok(()) => {
                self.written_bytes = self.written_bytes.saturating_add(bytes);
                self.inbox_may_hold_batches = true;
                self.backoff = Duration::ZERO;
                self.next_drain = Instant::now();
                // Before the permits go, so that no byte is uncounted; the totals are read after the answers.
                self.shared.admission.add_queued_bytes(bytes as u64);
                Ok(())
            }
            // Dropping the answers refuses the requests: nothing is acknowledged any more.
            Err(StoreError::Fatal(reason)) => return Err(StoreError::Fatal(reason)),
            Err(error) => {
                self.report_unavailable(&error);
                Err(error.to_string())
            }
        };
        for incoming in group {
            drop(incoming.permit);
            // Whoever has gone away will send again; the batch id makes that harmless.
            let _ = incoming.answer.send(outcome.clone());
        }
        Ok(stop)
    }

    /// Makes rows of some of the oldest batches.
    fn drain(&mut self) -> Result<(), StoreError> {
        match self.drain_group() {
            Ok(batches) => {
                self.inbox_may_hold_batches = batches > 0;
                self.backoff = Duration::ZERO;
                if batches > 0 {
                    self.shared.writable.store(true, Ordering::Release);
                }
                Ok(())
            }
            Err(StoreError::Fatal(reason)) => Err(StoreError::Fatal(reason)),
            Err(error) => {
                self.report_unavailable(&error);
                Ok(())
            }
        }
    }

    fn report_unavailable(&mut self, error: &StoreError) {
        self.backoff = (self.backoff * 2).clamp(Duration::from_millis(50), MAX_BACKOFF);
        self.next_drain = Instant::now() + self.backoff;
        self.inbox_may_hold_batches = true;
        self.shared.writable.store(false, Ordering::Release);
        self.shared.metrics.store_error();
        tracing::warn!(%error, retry_in_ms = self.backoff.as_millis(), "cannot write to the database");
    }

    /// Runs `work` in one transaction, and times its commit.
    fn transaction<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&transaction)?;
        let started = Instant::now();
        transaction.commit()?;
        self.shared.metrics.committed(name, started.elapsed().as_secs_f64());
        self.shared.writable.store(true, Ordering::Release);
        Ok(result)
    }

    /// Tells the door and `/metrics` how much waits.
    fn publish_totals(&self) -> Result<(), StoreError> {
        let totals = || {
            let mut totals = Vec::new();
            for signal in Signal::ALL {
                totals.push((signal, accounting::read(&self.connection, signal)?));
            }
            let queued_bytes = totals.iter().fold(0_i64, |sum, (_, of)| sum.saturating_add(of.queued_bytes));
            self.shared.admission.set_queued_bytes(u64::try_from(queued_bytes).unwrap_or(0));
            self.shared.metrics.totals(&totals, queued_bytes, inbox::oldest_received(&self.connection)?);
            self.shared.metrics.senders(&senders::totals(&self.connection)?);
            Ok(())
        };
        match totals() {
            Err(StoreError::Fatal(reason)) => Err(StoreError::Fatal(reason)),
            // Stale totals harm nobody until the database answers again.
            _ => Ok(()),
        }
    }

    fn checkpoint_when_due(&mut self) -> Result<(), StoreError> {
        if self.written_bytes < CHECKPOINT_BYTES {
            return Ok(());
        }
        self.written_bytes = 0;
        self.checkpoint("PASSIVE")
    }

    /// Copies the write-ahead log into the database. Explicitly, since the errors of SQLite's automatic checkpoints
    /// are lost: a sync that failed would go unnoticed.
    fn checkpoint(&self, mode: &str) -> Result<(), StoreError> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        match self.connection.query_row(&sql, [], |_| Ok(())).map_err(StoreError::from) {
            Err(StoreError::Fatal(reason)) => Err(StoreError::Fatal(reason)),
            Err(error) => {
                tracing::warn!(%error, "the write-ahead log could not be copied into the database yet");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn finish(&mut self, deadline: Instant) -> Result<(), StoreError> {
        // What is in the inbox when the time is over stays there, and becomes rows after the next start.
        while Instant::now() < deadline {
            match self.drain_group() {
                Ok(0) => break,
                Ok(_) => {}
                Err(StoreError::Fatal(reason)) => return Err(StoreError::Fatal(reason)),
                Err(error) => {
                    self.report_unavailable(&error);
                    std::thread::sleep(self.backoff.min(deadline.saturating_duration_since(Instant::now())));
                }
            }
        }
        self.publish_totals()?;
        self.checkpoint("TRUNCATE")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::encoding::Encoding;
    use crate::store::in_memory;

    #[test]
    fn an_acknowledgement_does_not_wait_for_the_totals() {
        let mut connection = in_memory();
        let (answer, answered) = oneshot::channel();
        // Whether the answer was there when the totals were read, and what it was.
        let seen = Arc::new(Mutex::new((answered, Vec::new())));
        let watching = Arc::clone(&seen);
        let watch = move |context: AuthContext<'_>| {
            if let AuthAction::Read { table_name: "inbox", column_name: "received_unix_nano" } =
                context.action
            {
                let (answered, found) = &mut *watching.lock().unwrap();
                found.push(answered.try_recv());
            }
            Authorization::Allow
        };
        connection.authorizer(Some(watch)).unwrap();
        let admission = Arc::new(Admission::new(u64::MAX, 0, std::env::temp_dir()));
        let permit = admission.admit(5).unwrap();
        let shared = Shared {
            admission: Arc::clone(&admission),
            metrics: Arc::new(SelfMetrics::new()),
            writable: Arc::new(AtomicBool::new(true)),
        };
        let (_commands, commands) = std::sync::mpsc::channel();
        let mut writer = Writer {
            connection,
            commands,
            shared,
            written_bytes: 0,
            inbox_may_hold_batches: false,
            backoff: Duration::ZERO,
            next_drain: Instant::now(),
        };
        let batch = Batch {
            signal: Signal::Logs,
            batch_id: None,
            received_unix_nano: 1,
            encoding: Encoding::Identity,
            decoded_bytes: 5,
            records: 0,
            body: b"12345".to_vec(),
        };
        writer.enqueue(Incoming { batch, permit, answer }).unwrap();
        // The door counts the bytes all the same.
        assert_eq!(admission.queued_bytes(), 5);
        writer.publish_totals().unwrap();
        assert_eq!(admission.queued_bytes(), 5);
        let (_, found) = &*seen.lock().unwrap();
        assert_eq!(found.as_slice(), [Ok::<_, TryRecvError>(Ok(()))]);
    }
}
