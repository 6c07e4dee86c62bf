//! `serve`: puts the parts together, and takes them apart again.
//!
//! In: a checked configuration. Out: two listeners and the writer's thread, until SIGTERM or SIGINT: then no new
//! requests, those under way are answered, the inbox is drained until a deadline, and the process ends with status 0.
//! A writer that ends by itself ends the process with a report: what was acknowledged is in the file.
//!
//! When a listener is ready, one line says so on standard output: `otlp-http listening on 127.0.0.1:4318` and
//! `http listening on 127.0.0.1:8080`, with the real port where port 0 was asked for. Logs go to standard error.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::api::{self, Api};
use crate::config::Config;
use crate::listener::Listener;
use crate::query::Pool;
use crate::receive::admission::Admission;
use crate::receive::{self, Door};
use crate::self_metrics::SelfMetrics;
use crate::store::{Folder, OpenError, StoreError};
use crate::writer::{self, Shared};

const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// Connections that read for the API at the same time.
const READERS: usize = 4;

/// Why the collector ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An address cannot be listened on.
    #[error("{name} cannot listen on `{address}`: {source}")]
    Listen {
        /// The listener.
        name: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Threads, signals or standard output failed.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The writer ended, or a reader found the file damaged.
    #[error("{0}")]
    Store(String),
}

/// Runs the collector until it is told to end.
///
/// # Errors
/// [`ServeError`].
pub fn serve(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(config));
    // A query that still runs is not worth waiting for.
    runtime.shutdown_background();
    outcome
}

async fn run(config: Config) -> Result<(), ServeError> {
    raise_open_files_limit();
    let folder = Folder::lock(&config.data)?;
    let connection = folder.open()?;
    let shared = Shared {
        admission: Arc::new(Admission::new(
            config.max_queue_bytes,
            config.min_free_disk_bytes,
            config.data.clone(),
        )),
        metrics: Arc::new(SelfMetrics::new()),
        writable: Arc::new(AtomicBool::new(true)),
    };
    shared.metrics.inbox_limit(config.max_queue_bytes);
    let (queue, write) = writer::new(connection, shared.clone());
    let (writer_done, mut writer_ended) = oneshot::channel();
    std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
        // Nobody listens only when the process is ending anyway.
        let _ = writer_done.send(write());
    })?;

    let (damage, mut damaged) = mpsc::channel(1);
    let door = Arc::new(Door {
        queue: queue.clone(),
        admission: Arc::clone(&shared.admission),
        metrics: Arc::clone(&shared.metrics),
        token: config.token.clone(),
        max_request_bytes: config.max_request_bytes,
        max_decompressed_bytes: config.max_decompressed_bytes,
        body_timeout: config.body_timeout,
        decoders: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from))),
    });
    let api = Api {
        pool: Pool::new(config.data.clone(), READERS, damage),
        shared: shared.clone(),
        token: config.token.clone(),
    };
    // Before anybody is told that it listens: whoever knows may end it.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (close, closed) = watch::channel(false);
    let otlp = listen("otlp-http", config.otlp_http, &config, &shared.metrics).await?;
    let http = listen("http", config.http, &config, &shared.metrics).await?;
    let otlp = tokio::spawn(otlp.serve(receive::router(door), closed.clone()));
    let http = tokio::spawn(http.serve(api::router(Arc::new(api)), closed));
    let disk = tokio::spawn(watch_disk(Arc::clone(&shared.admission)));

    let early = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut writer_ended => Some(report(ended)),
        Some(damage) = damaged.recv() => Some(Err(ServeError::Store(damage))),
    };
    shared.admission.close();
    if let Some(outcome) = early {
        return outcome;
    }
    tracing::info!("told to end: finishing what is under way");
    let deadline = Instant::now() + config.shutdown_timeout;
    // Nobody is left to hear it when the listeners have failed.
    let _ = close.send(true);
    let finished = async {
        let _ = otlp.await;
        let _ = http.await;
    };
    // Connections that do not end in time are cut: their requests are not acknowledged.
    let _ = tokio::time::timeout_at(deadline.into(), finished).await;
    queue.stop(deadline);
    let outcome = report(writer_ended.await);
    disk.abort();
    drop(folder);
    outcome
}

fn report(ended: Result<Result<(), StoreError>, oneshot::error::RecvError>) -> Result<(), ServeError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ServeError::Store(error.to_string())),
        Err(_) => Err(ServeError::Store("the writer has ended without a word".to_owned())),
    }
}

async fn listen(
    name: &'static str,
    address: SocketAddr,
    config: &Config,
    metrics: &Arc<SelfMetrics>,
) -> Result<Listener, ServeError> {
    let failed = |source| ServeError::Listen { name, address, source };
    let listener = Listener {
        name,
        socket: TcpListener::bind(address).await.map_err(failed)?,
        max_connections: config.max_connections,
        idle_timeout: config.idle_timeout,
        metrics: Arc::clone(metrics),
    };
    let address = listener.address().map_err(failed)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{name} listening on {address}")?;
    out.flush()?;
    Ok(listener)
}

/// Lets the process open as many files as its connections may need: the usual soft limit of 1024 is that of programs
/// which use `select`, as none here do.
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files cannot be raised: fewer connections may be taken");
    }
}

async fn watch_disk(admission: Arc<Admission>) {
    let mut interval = tokio::time::interval(DISK_INTERVAL);
    loop {
        interval.tick().await;
        admission.measure_disk();
    }
}
