//! The demo that goes on: traffic, and once a second what the collector and Envoy know about it. On a terminal the
//! summary stays in its place; elsewhere it is a line each time.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    demo::{stage::Stage, traffic},
    harness::{
        collector::{self, LogRecord},
        envoy,
    },
};

/// What "now" means in the table.
const WINDOW: SignedDuration = SignedDuration::from_secs(30);

/// Until it is interrupted.
pub(super) async fn run(stage: &Stage, is_terminal: bool) -> anyhow::Result<()> {
    println!("light traffic is under way; Ctrl-C ends it\n");
    tokio::select! {
        ended = traffic::run(stage.envoy.address()) => ended,
        ended = show(stage, is_terminal) => ended,
    }
}

async fn show(stage: &Stage, is_terminal: bool) -> anyhow::Result<()> {
    let begin = Timestamp::now();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drawn_lines = 0;
    loop {
        ticks.tick().await;
        let now = Timestamp::now();
        let from = begin.max(now.checked_sub(WINDOW).context("the clock is off")?);
        let summary = Summary::read(stage, from, now).await?;
        let text = if is_terminal {
            let table = summary.table();
            let redraw = if drawn_lines > 0 { format!("\x1b[{drawn_lines}A\x1b[J") } else { String::new() };
            drawn_lines = table.lines().count();
            redraw + &table
        } else {
            summary.line()
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to the terminal")?;
    }
}

/// Requests of the window that went one way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    seconds: Vec<f64>,
    errors: usize,
}

impl Row {
    fn add(&mut self, record: &LogRecord) {
        self.seconds
            .extend(record.attributes.get("http.server.request.duration").and_then(|value| value.as_f64()));
        let status = record.attributes.get("http.response.status_code").and_then(|value| value.as_u64());
        self.errors += usize::from(status.is_none_or(|status| status >= 500));
    }

    /// The smallest duration that at least this share of the requests did not exceed.
    fn quantile_ms(&mut self, quantile: f64) -> f64 {
        self.seconds.sort_by(f64::total_cmp);
        let rank = (quantile * self.seconds.len() as f64).ceil() as usize;
        self.seconds.get(rank.saturating_sub(1)).map_or(0.0, |seconds| seconds * 1000.0)
    }

    fn errors_percent(&self) -> f64 {
        100.0 * self.errors as f64 / self.seconds.len().max(1) as f64
    }
}

struct Summary {
    window_seconds: f64,
    routes: BTreeMap<String, Row>,
    all: Row,
    statuses: Vec<collector::LatencySeries>,
    envoy: envoy::Accounting,
    collector: collector::Accounting,
}

impl Summary {
    async fn read(stage: &Stage, from: Timestamp, now: Timestamp) -> anyhow::Result<Self> {
        let mut routes: BTreeMap<String, Row> = BTreeMap::new();
        let mut all = Row::default();
        for record in stage.collector.logs(&format!("from={from}")).await? {
            let route =
                record.attributes.get("envoy.route.name").and_then(|name| name.as_str()).unwrap_or("none");
            routes.entry(route.to_owned()).or_default().add(&record);
            all.add(&record);
        }
        Ok(Self {
            window_seconds: now.duration_since(from).as_secs_f64().max(1.0),
            routes,
            all,
            statuses: stage.collector.latency("by=status&step=31536000&q=0.5,0.95,0.99").await?,
            envoy: stage.envoy.accounting().await?,
            collector: stage.collector.accounting().await?,
        })
    }

    /// One line, for a log.
    fn line(mut self) -> String {
        format!(
            "{:.1} requests/s, {:.1} % errors, p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms; Envoy: {}; collector: {}\n",
            self.all.seconds.len() as f64 / self.window_seconds,
            self.all.errors_percent(),
            self.all.quantile_ms(0.5),
            self.all.quantile_ms(0.95),
            self.all.quantile_ms(0.99),
            envoy_equation(&self.envoy),
            collector_equation(&self.collector),
        )
    }

    /// All of it, for a terminal.
    fn table(self) -> String {
        let mut text = format!(
            "{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}   the last {:.0} s, from the stored records\n",
            "route in Envoy", "requests/s", "errors %", "p50 ms", "p95 ms", "p99 ms", self.window_seconds
        );
        let all = ("all".to_owned(), self.all);
        for (route, mut row) in self.routes.into_iter().chain([all]) {
            let rate = row.seconds.len() as f64 / self.window_seconds;
            let errors = row.errors_percent();
            let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|quantile| row.quantile_ms(quantile));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{route:<18}{rate:>10.1}{errors:>10.1}{p50:>10.1}{p95:>10.1}{p99:>10.1}");
        }
        let _ = writeln!(
            text,
            "\n{:<18}{:>10}{:>20}{:>10}{:>10}   since the start, from the histograms",
            "status", "requests", "p50 ms", "p95 ms", "p99 ms"
        );
        for series in &self.statuses {
            text.push_str(&status_row(series));
        }
        let _ = writeln!(text, "\nEnvoy       {}", envoy_equation(&self.envoy));
        let _ = writeln!(text, "collector   {}", collector_equation(&self.collector));
        text
    }
}

fn status_row(series: &collector::LatencySeries) -> String {
    let Some(point) = series.points.last() else {
        return String::new();
    };
    let requests: u64 = series.points.iter().map(|point| point.count).sum();
    let milliseconds = |quantile: &str| match point.quantiles.get(quantile) {
        Some(Some(seconds)) => format!("{:.1}", seconds * 1000.0),
        _ => "-".to_owned(),
    };
    let key = series.key.as_str().map_or_else(|| series.key.to_string(), str::to_owned);
    format!(
        "{key:<18}{requests:>10}{:>20}{:>10}{:>10}\n",
        milliseconds("0.5"),
        milliseconds("0.95"),
        milliseconds("0.99")
    )
}

fn envoy_equation(accounting: &envoy::Accounting) -> String {
    format!(
        "captured {} = sampled out {} + delivered {} + dropped {} + pending {}",
        accounting.captured,
        accounting.sampled_out,
        accounting.delivered,
        accounting.dropped_total(),
        accounting.pending
    )
}

fn collector_equation(accounting: &collector::Accounting) -> String {
    format!(
        "received {} = stored {} + deduplicated {} + dead-lettered {} + queued {}",
        accounting.received,
        accounting.stored,
        accounting.deduplicated,
        accounting.dead_lettered,
        accounting.queued
    )
}
