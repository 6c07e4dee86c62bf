//! The web application: `GET /task/<id>` is a request, `GET /stats` says what became of the logs so far.
//!
//! A request that has come is worked off and logged even if its client goes away, as in a server with a thread for each.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;
use tokio::{net::TcpListener, time::sleep};

use crate::{
    database::{Database, RequestLog, unix_nano},
    in_request::InRequest,
    queue::{self, Offers, Queue},
    service_time::ServiceTimes,
};

/// Who writes the log of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Log {
    /// Nobody here.
    None,
    /// The request, under one lock.
    InRequest,
    /// A queue, and the request when that fails.
    Queue,
}

/// How the application is run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen on loopback; 0 is any port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Who writes the log of a request
    #[arg(long, value_enum)]
    log: Log,
    /// A file with the database's URL
    #[arg(long)]
    database: Option<PathBuf>,
    #[command(flatten)]
    queue: queue::Options,
    /// The median of the service times
    #[arg(long, default_value_t = 120.0)]
    median_ms: f64,
    /// The mean of the service times
    #[arg(long, default_value_t = 166.0)]
    mean_ms: f64,
    /// What the service times follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

struct Application {
    service_times: ServiceTimes,
    in_request: Option<InRequest>,
    queue: Option<Queue>,
    worked: AtomicU64,
}

/// What the application says about itself.
#[derive(Serialize)]
struct Stats {
    /// Requests whose work is done, logged or not.
    worked: u64,
    /// Logs that are in this process only.
    waiting: usize,
    offers: Offers,
}

/// Runs until it is killed.
///
/// # Errors
/// When it cannot listen, or the database not be reached.
pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    let database = || options.database.as_ref().context("--database is needed to log");
    let in_request = match options.log {
        Log::None => None,
        Log::InRequest | Log::Queue => Some(InRequest::new(Database::connect(database()?).await?)),
    };
    let queue = match options.log {
        Log::None | Log::InRequest => None,
        Log::Queue => Some(Queue::open(&options.queue, database()?).await?),
    };
    let service_times = ServiceTimes::new(options.seed, options.median_ms, options.mean_ms)?;
    let application = Arc::new(Application { service_times, in_request, queue, worked: AtomicU64::new(0) });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("application listening on {}", listener.local_addr().context("cannot see where it listens")?);
    let router =
        Router::new().route("/task/{request}", get(task)).route("/stats", get(stats)).with_state(application);
    axum::serve(listener, router).await.context("cannot serve")
}

async fn task(State(application): State<Arc<Application>>, Path(request): Path<i64>) -> impl IntoResponse {
    match tokio::spawn(async move { application.work(request).await }).await {
        Ok(Ok(())) => (StatusCode::OK, "{\"done\":true}\n".to_owned()),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn stats(State(application): State<Arc<Application>>) -> impl IntoResponse {
    let in_request = application.in_request.as_ref();
    let queue = application.queue.as_ref();
    let stats = Stats {
        worked: application.worked.load(Ordering::Relaxed),
        waiting: in_request.map_or(0, InRequest::waiting),
        offers: queue.map(Queue::offers).unwrap_or_default(),
    };
    let text = serde_json::to_string(&stats).map_err(|error| error.to_string());
    ([(header::CONTENT_TYPE, "application/json")], text)
}

impl Application {
    async fn work(&self, request: i64) -> anyhow::Result<()> {
        let began = SystemTime::now();
        let duration = self.service_times.of(u64::try_from(request).unwrap_or(0));
        sleep(duration).await;
        self.worked.fetch_add(1, Ordering::Relaxed);
        let Some(in_request) = &self.in_request else { return Ok(()) };
        let log = RequestLog {
            request,
            began_unix_nano: unix_nano(began),
            status: 200,
            duration_seconds: duration.as_secs_f64(),
        };
        if let Some(queue) = &self.queue
            && queue.offer(&log).await
        {
            return Ok(());
        }
        in_request.log(log).await
    }
}
