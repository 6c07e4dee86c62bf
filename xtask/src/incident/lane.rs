//! A lane: one form with everything that belongs to it, an application, an Envoy in front and what stores. Lanes run side
//! by side, each with its own processes and its own database, so that whatever else the machine does meets all alike.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    fetch::{self, ENVOY_1_40},
    harness::{
        api::Api,
        bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode},
        collector::{self, Collector},
        envoy::Envoy,
        process::Process,
        wait,
    },
    incident::{
        figures::{ApplicationStats, Ends, Figures, Latencies, Latency},
        form::{Form, Setup},
        load::{End, Sample, Samples},
        postgres::{Database, Postgres},
        stall::{Staller, Stalls},
    },
    project::Project,
};

/// How often it is looked at whether all records have arrived.
const GLANCE: Duration = Duration::from_millis(200);

/// How long records may take to arrive where they are known to be on their way.
const SETTLE: Duration = Duration::from_secs(900);

/// What all lanes share.
#[derive(Clone, Copy)]
pub struct Stand<'a> {
    /// Where programs and folders are.
    pub project: &'a Project,
    /// The database server of the forms that log from the application.
    pub postgres: &'a Postgres,
    /// How databases stall.
    pub stalls: Stalls,
    /// How long an application's records may take to arrive, once the load has ended.
    pub settle: Duration,
}

/// A running form.
pub struct Lane {
    setup: Setup,
    settle: Duration,
    stalls: Stalls,
    application: Process,
    stats: Api,
    envoy: Envoy,
    database: Option<Database>,
    collector: Option<Collector>,
    collector_ports: (u16, u16),
    consumer: Option<Process>,
    staller: Option<Staller>,
    binaries: (PathBuf, PathBuf),
    stats_before_death: Option<ApplicationStats>,
    folder: TempDir,
}

impl Lane {
    /// Starts everything.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(stand: Stand<'_>, setup: Setup) -> anyhow::Result<Self> {
        let Stand { project, postgres, stalls, settle } = stand;
        // The plugin and the collector say when nothing is on its way any more, so there they are waited for.
        let settle = if setup.form == Form::Edge { SETTLE } else { settle };
        let folder = project.temporary_folder()?;
        let binaries = (project.incident(), project.collector());
        let database = match setup.form {
            Form::InRequest | Form::ApplicationQueue => {
                Some(postgres.database(stalls, setup.draw, folder.path()).await?)
            }
            Form::NoLogging | Form::Edge => None,
        };
        let collector = match setup.form {
            Form::ApplicationQueue | Form::Edge => Some(Collector::start(&binaries.1, folder.path()).await?),
            Form::NoLogging | Form::InRequest => None,
        };
        let (application, address) =
            start_application(&binaries.0, folder.path(), &setup, database.as_ref(), collector.as_ref())
                .await?;
        let bootstrap = bootstrap(project, &setup, address, collector.as_ref())?;
        let envoy = Envoy::start(&fetch::envoy(project, ENVOY_1_40)?, &bootstrap, folder.path()).await?;
        let collector_ports = collector
            .as_ref()
            .map_or((0, 0), |collector| (collector.otlp().port(), collector.api().address().port()));
        let mut lane = Self {
            setup,
            settle,
            stalls,
            application,
            stats: Api::new(address),
            envoy,
            database,
            collector,
            collector_ports,
            consumer: None,
            staller: None,
            binaries,
            stats_before_death: None,
            folder,
        };
        lane.start_consumer()?;
        lane.start_stalling()?;
        Ok(lane)
    }

    /// Where requests go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.envoy.address()
    }

    /// How it is set up.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What the application says about its logging.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn application_stats(&self) -> anyhow::Result<ApplicationStats> {
        self.stats.json("/stats").await
    }

    /// Kills the application, as a crash or a machine's end would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill_application(&mut self) -> anyhow::Result<()> {
        self.stats_before_death = self.application_stats().await.ok();
        self.application.kill().await.map(drop)
    }

    /// Kills the batch job, if there is one.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill_consumer(&mut self) -> anyhow::Result<()> {
        match self.consumer.take() {
            Some(mut consumer) => consumer.kill().await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts the batch job where there has to be one.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start_consumer(&mut self) -> anyhow::Result<()> {
        let (Form::ApplicationQueue, Some(database)) = (self.setup.form, &self.database) else {
            return Ok(());
        };
        let arguments: [&std::ffi::OsStr; 5] = [
            "consume".as_ref(),
            "--queue".as_ref(),
            &self.collector_database().into_os_string(),
            "--database".as_ref(),
            database.url_file().as_os_str(),
        ];
        self.consumer = Some(Process::start("consumer", &self.binaries.0, arguments, self.folder.path())?);
        Ok(())
    }

    /// Kills the collector.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill_collector(&mut self) -> anyhow::Result<()> {
        match self.collector.take() {
            Some(collector) => collector.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the collector again, where and with what it was before.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_collector(&mut self) -> anyhow::Result<()> {
        let (otlp, http) = self.collector_ports;
        let collector = Collector::start_on(&self.binaries.1, self.folder.path(), otlp, http).await?;
        self.collector = Some(collector);
        Ok(())
    }

    fn start_stalling(&mut self) -> anyhow::Result<()> {
        if self.setup.form == Form::Edge && self.stalls.probability > 0.0 {
            self.staller = Some(Staller::start(&self.collector_database(), self.stalls, self.setup.draw)?);
        }
        Ok(())
    }

    fn collector_database(&self) -> PathBuf {
        self.folder.path().join("data").join("offpath.db")
    }

    async fn stored_requests(&self) -> anyhow::Result<BTreeSet<u64>> {
        match (&self.database, self.setup.form) {
            (Some(database), _) => Ok(database.requests().await?.into_iter().collect()),
            (None, Form::Edge) => requests_in(&self.collector_database()),
            (None, _) => Ok(BTreeSet::new()),
        }
    }

    /// Whether no record is on its way any more, as far as can be seen; a call of the database may be under way.
    async fn is_idle(&self) -> anyhow::Result<bool> {
        match (&self.collector, self.stats_before_death) {
            (Some(collector), _) if self.setup.form == Form::Edge => {
                Ok(self.envoy.accounting().await?.pending == 0 && collector.accounting().await?.queued == 0)
            }
            (_, None) => {
                let stats = self.application_stats().await?;
                Ok(stats.waiting == 0 && stats.queue_entries == 0)
            }
            // What was in its memory is gone; what is in the queue cannot be seen without it.
            (collector, Some(_)) => Ok(collector.is_none()),
        }
    }

    fn longest_call(&self) -> Duration {
        self.stalls.duration * 2 + Duration::from_secs(1)
    }

    /// Waits until every request has its record or none is on its way, at most as long as agreed, and counts.
    ///
    /// # Errors
    /// When something does not answer.
    pub async fn finish(mut self, samples: &Samples) -> anyhow::Result<Figures> {
        let begin = Instant::now();
        let ends = Ends::of(samples);
        let numbers: BTreeSet<u64> = samples.samples.iter().map(|sample| sample.number).collect();
        let mut missing = BTreeSet::new();
        let mut idle_since = None;
        while self.setup.form.stores() {
            missing = &numbers - &self.stored_requests().await?;
            idle_since = if self.is_idle().await? { idle_since.or(Some(Instant::now())) } else { None };
            let is_over = idle_since.is_some_and(|since: Instant| since.elapsed() > self.longest_call());
            if missing.is_empty() || is_over || begin.elapsed() >= self.settle {
                break;
            }
            sleep(GLANCE).await;
        }
        let answered = |sample: &&Sample| sample.end == End::Answered(200);
        let answered_missing =
            samples.samples.iter().filter(answered).filter(|sample| missing.contains(&sample.number)).count();
        let missing = missing.len() as u64;
        let settled_after_seconds = begin.elapsed().as_secs_f64();
        let application = match self.stats_before_death {
            Some(stats) => stats,
            None => self.application_stats().await?,
        };
        let dropped = self.envoy.accounting().await?.dropped_total();
        let stalls = match (&self.database, self.staller.take()) {
            (Some(database), _) => database.stalled().await?,
            (None, Some(staller)) => tokio::task::spawn_blocking(|| staller.end()).await??,
            (None, None) => 0,
        };
        let latencies = Latencies::of(samples);
        let figures = Figures {
            name: self.setup.name.clone(),
            latency: Latency::of(&latencies),
            ends,
            total_seconds: samples.total.as_secs_f64(),
            settled_after_seconds,
            application,
            stalls,
            stored: self.setup.form.stores().then_some(ends.requests - missing),
            missing,
            answered_missing: answered_missing as u64,
            dropped,
            latencies,
        };
        self.envoy.stop().await?;
        self.application.kill().await?;
        self.kill_consumer().await?;
        self.kill_collector().await?;
        Ok(figures)
    }
}

async fn start_application(
    binary: &Path,
    folder: &Path,
    setup: &Setup,
    database: Option<&Database>,
    collector: Option<&Collector>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut arguments = vec!["serve".to_owned()];
    let mut set = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    set("log", setup.form.application_log().to_owned());
    set("median-ms", setup.service_times.median_ms.to_string());
    set("mean-ms", setup.service_times.mean_ms.to_string());
    set("seed", setup.service_times.seed.to_string());
    set("queue-entries", setup.queue_entries.to_string());
    if let Some(database) = database {
        set("database", database.url_file().display().to_string());
    }
    if let Some(collector) = collector {
        set("collector", collector.otlp().to_string());
        set("collector-api", collector.api().address().to_string());
    }
    let mut process = Process::start("application", binary, arguments, folder)?;
    let address = wait::until("the application listens", async || {
        if let Some(status) = process.ended()? {
            bail!("the application did not start ({status}):\n{}", process.output()?);
        }
        Ok(collector::listening(&process.output()?, "application"))
    })
    .await?;
    Ok((process, address))
}

/// The shipped configuration without its tracer; but for the edge form without the plugin, and everywhere without bounds on how many requests
/// there are at once and how long they take: what is shown is the application's doing, not Envoy's.
fn bootstrap(
    project: &Project,
    setup: &Setup,
    application: SocketAddr,
    collector: Option<&Collector>,
) -> anyhow::Result<Bootstrap> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut bootstrap = Bootstrap::shipped(project, Mode::AccessLogger)?
        .for_release(ENVOY_1_40)?
        .without_tracing()?
        .with_servers(application, collector.map_or(nowhere, Collector::otlp))?
        .with_plugin_keys(&setup.plugin_keys)?;
    if setup.form != Form::Edge {
        *bootstrap.at(&format!("{HTTP_CONNECTION_MANAGER}/access_log"))? = json!([]);
    }
    let routes = format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes");
    *bootstrap.at(&routes)? = json!([
        {"name": "work", "match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}
    ]);
    let many = 1_000_000;
    bootstrap.at("/static_resources/clusters/0")?.as_object_mut().context("not an object")?.insert(
        "circuit_breakers".to_owned(),
        json!({"thresholds": [{
            "max_connections": many, "max_pending_requests": many, "max_requests": many,
        }]}),
    );
    Ok(bootstrap)
}

/// The numbers of the requests that the collector has stored.
fn requests_in(database: &Path) -> anyhow::Result<BTreeSet<u64>> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open `{}`", database.display()))?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mut select = connection
        .prepare("SELECT substr(path, length('/work/') + 1) FROM logs WHERE path LIKE '/work/%'")?;
    let numbers = select.query_map([], |row| row.get::<_, String>(0))?;
    numbers.map(|number| number?.parse().context("not a request's number")).collect()
}
