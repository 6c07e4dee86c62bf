//! A lane: one form with everything that belongs to it, an application, an Envoy in front and what stores. Lanes run side
//! by side, each with its own processes and its own database, so that whatever else the machine does meets all alike.

mod start;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    fetch::{self, ENVOY_1_40},
    harness::{api::Api, collector::Collector, envoy::Envoy, process::Process},
    incident::{
        figures::{ApplicationStats, Figures},
        form::{Form, Setup},
        load::{Generator, Load, Sample},
        postgres::{Database, Postgres},
        records::{self, Records},
        stall::{Hold, Staller, Stalls},
    },
    project::Project,
};

/// How often it is looked at whether all records have arrived.
const GLANCE: Duration = Duration::from_millis(500);

/// What all lanes share.
#[derive(Clone, Copy)]
pub struct Stand<'a> {
    /// Where programs and folders are.
    pub project: &'a Project,
    /// The database server of the forms that log from the application.
    pub postgres: &'a Postgres,
    /// How databases stall.
    pub stalls: Stalls,
    /// How long records may take to arrive once the load has ended, whatever the form.
    pub settle: Duration,
    /// When all of it began.
    pub begin: Instant,
}

impl Stand<'_> {
    /// Tells people how far it is.
    pub fn say(&self, text: &str) {
        eprintln!("{:>5.0} s  {text}", self.begin.elapsed().as_secs_f64());
    }
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
    hold: Option<Hold>,
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
        let Stand { project, postgres, stalls, settle, .. } = stand;
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
            start::application(&binaries.0, folder.path(), &setup, database.as_ref(), collector.as_ref())
                .await?;
        let bootstrap = start::bootstrap(project, &setup, address, collector.as_ref())?;
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
            hold: None,
            binaries,
            stats_before_death: None,
            folder,
        };
        lane.start_consumer()?;
        lane.start_stalling()?;
        Ok(lane)
    }

    /// Begins to send requests to its Envoy.
    ///
    /// # Errors
    /// When the generator cannot be run.
    pub fn load(&self, load: Load) -> anyhow::Result<Generator> {
        Generator::start(&self.binaries.0, self.envoy.address(), load, self.folder.path())
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

    /// Holds the database that its records end up in: nothing is written until [`Lane::release_database`].
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn hold_database(&mut self) -> anyhow::Result<()> {
        match (&self.database, self.setup.form) {
            (Some(database), _) => database.hold().await?,
            (None, Form::Edge) => self.hold = Some(Hold::take(&self.collector_database())?),
            (None, _) => {}
        }
        Ok(())
    }

    /// Lets it be written again.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn release_database(&mut self) -> anyhow::Result<()> {
        if let Some(database) = &self.database {
            database.release().await?;
        }
        self.hold.take().map_or(Ok(()), Hold::release)
    }

    /// The numbers of the requests in the database, one for each record.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn stored_requests(&self) -> anyhow::Result<Vec<u64>> {
        match (&self.database, self.setup.form) {
            (Some(database), _) => database.requests().await,
            (None, Form::Edge) => records::stored_by_collector(&self.collector_database()),
            (None, _) => Ok(Vec::new()),
        }
    }

    /// Records in a queue that outlives the application; a call of the database may be under way besides.
    async fn queued(&self) -> anyhow::Result<u64> {
        let Some(collector) = &self.collector else { return Ok(0) };
        // In the order in which records go, so that none is on its way from what is not yet looked at to what was.
        let pending = self.envoy.accounting().await?.pending;
        let received = collector.accounting().await?;
        Ok(match &self.database {
            Some(database) => received.received.saturating_sub(database.position().await?),
            None => pending + received.queued,
        })
    }

    async fn last_application_stats(&self) -> anyhow::Result<ApplicationStats> {
        match self.stats_before_death {
            Some(stats) => Ok(stats),
            None => self.application_stats().await,
        }
    }

    async fn is_idle(&self) -> anyhow::Result<bool> {
        // What was in a dead application's memory is on its way nowhere.
        let waiting = match self.stats_before_death {
            Some(_) => 0,
            None => self.application_stats().await?.waiting,
        };
        Ok(waiting == 0 && self.queued().await? == 0)
    }

    fn longest_call(&self) -> Duration {
        self.stalls.duration * 2 + Duration::from_secs(1)
    }

    /// Waits until every request has its record or none is on its way, at most as long as agreed, and counts.
    ///
    /// # Errors
    /// When something does not answer.
    pub async fn finish(mut self, samples: Vec<Sample>) -> anyhow::Result<Figures> {
        let begin = Instant::now();
        let mut figures = Figures::of_samples(&self.setup, samples);
        let mut idle_since = None;
        while self.setup.form.stores() {
            figures.records = Records::of(&figures.samples, &self.stored_requests().await?);
            idle_since = if self.is_idle().await? { idle_since.or(Some(Instant::now())) } else { None };
            let is_over = idle_since.is_some_and(|since: Instant| since.elapsed() > self.longest_call());
            if figures.records.missing == 0 || is_over || begin.elapsed() >= self.settle {
                break;
            }
            sleep(GLANCE).await;
        }
        figures.settled_after_seconds = begin.elapsed().as_secs_f64();
        figures.application = self.last_application_stats().await?;
        let accounting = self.envoy.accounting().await?;
        let queued = self.queued().await?;
        figures.records = Records {
            queued,
            in_memory: figures.application.waiting,
            in_memory_is_lost: self.stats_before_death.is_some(),
            unseen: figures.ends.requests.saturating_sub(accounting.captured),
            dropped: accounting.dropped_total(),
            ..Records::of(&figures.samples, &self.stored_requests().await?)
        };
        figures.stalls = match (&self.database, self.staller.take()) {
            (Some(database), _) => database.stalled().await?,
            (None, Some(staller)) => tokio::task::spawn_blocking(|| staller.end()).await??,
            (None, None) => 0,
        };
        self.envoy.stop().await?;
        self.application.kill().await?;
        self.kill_consumer().await?;
        self.kill_collector().await?;
        Ok(figures)
    }
}
