//! Logging as after the incident: the request offers its log to a bounded queue outside of the application, the collector
//! over OTLP/HTTP. When that is full, refuses, or is slow, the request writes the row itself, as before.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::database::{Database, RequestLog};

/// How often the application looks how full the queue is.
const LOOK: Duration = Duration::from_millis(100);

/// Where the queue is, and when it is given up for a request.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The collector's OTLP address
    #[arg(long)]
    collector: Option<SocketAddr>,
    /// The collector's API address
    #[arg(long)]
    collector_api: Option<SocketAddr>,
    /// With so many entries that the batch job has not taken, the queue is full
    #[arg(long, default_value_t = 100_000)]
    queue_entries: u64,
    /// An offer that takes longer is given up
    #[arg(long, default_value_t = 250)]
    offer_timeout_ms: u64,
}

/// The application's side of the queue.
pub(crate) struct Queue {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: String,
    max_entries: u64,
    timeout: Duration,
    depth: Arc<Depth>,
    counts: Counts,
}

/// What became of the offers.
#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    full: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
}

/// What became of the offers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Offers {
    /// Taken by the queue.
    pub(crate) accepted: u64,
    /// Not made, because the queue was full.
    pub(crate) full: u64,
    /// Refused, or without an answer.
    pub(crate) failed: u64,
    /// Given up after the time-out.
    pub(crate) slow: u64,
}

/// How many entries wait: what the collector has received, less what the batch job has taken, looked up regularly, and
/// what this application has put in since.
#[derive(Debug, Default)]
struct Depth {
    looked_up: AtomicI64,
    since: AtomicI64,
}

impl Depth {
    fn entries(&self) -> u64 {
        let entries = self.looked_up.load(Ordering::Relaxed) + self.since.load(Ordering::Relaxed);
        u64::try_from(entries).unwrap_or(0)
    }
}

impl Queue {
    /// Begins to look after the queue's depth.
    ///
    /// # Errors
    /// When an address is missing, or the database cannot be reached.
    pub(crate) async fn open(options: &Options, database: &Path) -> anyhow::Result<Self> {
        let collector = options.collector.context("--collector is needed to log to the queue")?;
        let api = options.collector_api.context("--collector-api is needed to log to the queue")?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let depth = Arc::new(Depth::default());
        let positions = Database::connect(database).await?;
        tokio::spawn(watch(client.clone(), api, positions, Arc::clone(&depth)));
        Ok(Self {
            client,
            uri: format!("http://{collector}/v1/logs"),
            max_entries: options.queue_entries,
            timeout: Duration::from_millis(options.offer_timeout_ms),
            depth,
            counts: Counts::default(),
        })
    }

    /// Whether the queue has taken the log: then it is on the collector's disk.
    pub(crate) async fn offer(&self, log: &RequestLog) -> bool {
        let counts = &self.counts;
        let (count, accepted) = if self.depth.entries() >= self.max_entries {
            (&counts.full, false)
        } else {
            match timeout(self.timeout, self.send(log)).await {
                Ok(Ok(())) => (&counts.accepted, true),
                Ok(Err(_)) => (&counts.failed, false),
                Err(_) => (&counts.slow, false),
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.depth.since.fetch_add(i64::from(accepted), Ordering::Relaxed);
        accepted
    }

    async fn send(&self, log: &RequestLog) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.uri)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::from(export(log).encode_to_vec()))?;
        let response = self.client.request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        ensure!(status.is_success(), "the queue answers {status}");
        Ok(())
    }

    pub(crate) fn offers(&self) -> Offers {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { accepted, full, failed, slow } = &self.counts;
        Offers { accepted: read(accepted), full: read(full), failed: read(failed), slow: read(slow) }
    }
}

#[derive(Deserialize)]
struct Accounting {
    received: i64,
}

/// While one of the two cannot be asked, the last depth stands, with what was put in since.
async fn watch(
    client: Client<HttpConnector, Full<Bytes>>,
    api: SocketAddr,
    database: Database,
    depth: Arc<Depth>,
) {
    loop {
        let before = depth.since.load(Ordering::Relaxed);
        let looked_up = async {
            let uri = format!("http://{api}/api/accounting").parse()?;
            let body = client.get(uri).await?.into_body().collect().await?.to_bytes();
            let Accounting { received } = serde_json::from_slice(&body)?;
            anyhow::Ok(received - database.position().await?)
        };
        if let Ok(Ok(entries)) = timeout(Duration::from_secs(1), looked_up).await {
            depth.looked_up.store(entries, Ordering::Relaxed);
            depth.since.fetch_sub(before, Ordering::Relaxed);
        }
        sleep(LOOK).await;
    }
}

fn export(log: &RequestLog) -> ExportLogsServiceRequest {
    let attribute = |key: &str, value| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let record = LogRecord {
        time_unix_nano: u64::try_from(log.began_unix_nano).unwrap_or(0),
        severity_number: SeverityNumber::Info.into(),
        attributes: vec![
            attribute("http.request.method", Value::StringValue("GET".to_owned())),
            attribute("url.path", Value::StringValue(log.path())),
            attribute("http.response.status_code", Value::IntValue(log.status.into())),
            attribute("http.server.request.duration", Value::DoubleValue(log.duration_seconds)),
        ],
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}
