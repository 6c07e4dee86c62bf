//! The collector, as a user runs it, and its query API.

use std::{collections::BTreeMap, ffi::OsStr, net::SocketAddr, path::Path};

use anyhow::bail;
use serde::Deserialize;
use serde_json::Value;

use crate::harness::{api::Api, process::Process, wait};

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    otlp: SocketAddr,
    api: Api,
}

impl Collector {
    /// Starts the collector at `binary` with its data in `<folder>/data`, on ports that the system chooses, and waits
    /// until it listens.
    ///
    /// # Errors
    /// When it ends instead; the error holds its output.
    pub async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::start_on(binary, folder, 0, 0).await
    }

    /// As [`Collector::start`], on these ports; 0 is any.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub async fn start_on(
        binary: &Path,
        folder: &Path,
        otlp_port: u16,
        http_port: u16,
    ) -> anyhow::Result<Self> {
        let data = folder.join("data");
        let [otlp, http] = [otlp_port, http_port].map(|port| format!("127.0.0.1:{port}"));
        let arguments: [&OsStr; 7] = [
            "serve".as_ref(),
            "--otlp-http".as_ref(),
            otlp.as_ref(),
            "--http".as_ref(),
            http.as_ref(),
            "--data".as_ref(),
            data.as_os_str(),
        ];
        let mut process = Process::start("collector", binary, arguments, folder)?;
        let (otlp, http) = wait::until("the collector listens", async || {
            if let Some(status) = process.ended()? {
                bail!("the collector did not start ({status}):\n{}", process.output()?);
            }
            let output = process.output()?;
            Ok(listening(&output, "otlp-http").zip(listening(&output, "http")))
        })
        .await?;
        Ok(Self { process, otlp, api: Api::new(http) })
    }

    /// Where OTLP is sent to.
    #[must_use]
    pub fn otlp(&self) -> SocketAddr {
        self.otlp
    }

    /// The page, the metrics and the query API.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What was received, and what became of it.
    ///
    /// # Errors
    /// When the collector does not answer so.
    pub async fn accounting(&self) -> anyhow::Result<Accounting> {
        self.api.json("/api/accounting").await
    }

    /// All log records that match `filter` (`status=500`, or nothing), newest first, over all pages.
    ///
    /// # Errors
    /// When the collector does not answer so.
    pub async fn logs(&self, filter: &str) -> anyhow::Result<Vec<LogRecord>> {
        let mut records = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let from = cursor.map(|cursor| {
                format!("&cursor={}", form_urlencoded::byte_serialize(cursor.as_bytes()).collect::<String>())
            });
            let page: LogPage =
                self.api.json(&format!("/api/logs?{filter}&limit=1000{}", from.unwrap_or_default())).await?;
            records.extend(page.records);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(records),
            }
        }
    }

    /// The spans of a trace, the earliest first.
    ///
    /// # Errors
    /// When the collector does not answer so.
    pub async fn spans(&self, trace_id: &str) -> anyhow::Result<Vec<Span>> {
        let trace: Trace = self.api.json(&format!("/api/traces/{trace_id}")).await?;
        Ok(trace.spans)
    }

    /// What was received of the spans, and what became of them.
    ///
    /// # Errors
    /// When the collector does not answer so.
    pub async fn span_accounting(&self) -> anyhow::Result<Accounting> {
        self.api.json("/api/accounting?signal=traces").await
    }

    /// The series of `/api/latency` that `query` asks for (`by=status&step=60&q=0.5`).
    ///
    /// # Errors
    /// When the collector does not answer so.
    pub async fn latency(&self, query: &str) -> anyhow::Result<Vec<LatencySeries>> {
        let answer: LatencyAnswer = self.api.json(&format!("/api/latency?{query}")).await?;
        Ok(answer.series)
    }

    /// The last lines of its output, for people.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.process.last_lines()
    }

    /// Kills it, as a crash would: what it has not acknowledged is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await.map(drop)
    }

    /// Ends it, gracefully.
    ///
    /// # Errors
    /// When it fails at that.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

/// From a line such as `otlp-http listening on 127.0.0.1:4318`.
pub(crate) fn listening(output: &str, what: &str) -> Option<SocketAddr> {
    let start = format!("{what} listening on ");
    output.lines().find_map(|line| line.strip_prefix(&start))?.trim().parse().ok()
}

/// `/api/accounting`: records (or spans), from the first start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the contract names them")]
pub struct Accounting {
    pub received: u64,
    pub stored: u64,
    pub deduplicated: u64,
    pub dead_lettered: u64,
    pub queued: u64,
}

/// A record of `/api/logs`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LogRecord {
    /// The request's start, RFC 3339.
    pub time: String,
    /// Hexadecimal, if the request had a trace.
    pub trace_id: Option<String>,
    /// Hexadecimal, if the request had a trace.
    pub span_id: Option<String>,
    /// OTLP's severity.
    pub severity: Value,
    /// One readable line.
    pub body: Value,
    /// The sender.
    pub resource: BTreeMap<String, Value>,
    /// By OTLP's names.
    pub attributes: BTreeMap<String, Value>,
}

impl LogRecord {
    /// Whether `text` is anywhere in it.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        let values =
            self.resource.values().chain(self.attributes.values()).chain([&self.body, &self.severity]);
        let keys = self.resource.keys().chain(self.attributes.keys());
        values.map(Value::to_string).chain(keys.cloned()).any(|part| part.contains(text))
    }

    /// A parameter of the request's query.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<String> {
        let query = self.attributes.get("url.query")?.as_str()?;
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// A span of `/api/traces/{trace_id}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Span {
    /// Hexadecimal.
    pub span_id: String,
    /// Hexadecimal; empty if the trace began here.
    pub parent_span_id: String,
    /// OTLP's, such as `SERVER`.
    pub kind: String,
    /// Code and message.
    pub status: Value,
    /// The sender.
    pub resource: BTreeMap<String, Value>,
    /// As the sender named them.
    pub attributes: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Trace {
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct LogPage {
    records: Vec<LogRecord>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct LatencyAnswer {
    series: Vec<LatencySeries>,
}

/// A series of `/api/latency`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LatencySeries {
    /// The value of what the series are told apart by.
    pub key: Value,
    /// One a step.
    pub points: Vec<LatencyPoint>,
}

/// A step of a [`LatencySeries`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LatencyPoint {
    /// The step's start.
    pub time: Value,
    /// Requests in it.
    pub count: u64,
    /// Of these, how many failed.
    pub errors: u64,
    /// Seconds, by quantile as asked for.
    pub quantiles: BTreeMap<String, Option<f64>>,
    /// Requests that stand for what is counted, the slowest first.
    pub exemplars: Vec<Exemplar>,
}

/// A request of a [`LatencyPoint`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Exemplar {
    /// When it ended, RFC 3339.
    pub time: String,
    /// How long it took, in seconds.
    pub value: f64,
    /// Hexadecimal.
    pub trace_id: String,
    /// Hexadecimal.
    pub span_id: String,
}
