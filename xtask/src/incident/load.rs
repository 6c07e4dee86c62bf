//! The load on a lane: a process that sends requests as users do and writes what became of each (`benches/incident`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::time::sleep;

use crate::harness::process::Process;

/// How often it is looked at whether all requests have ended.
const LOOK: Duration = Duration::from_millis(50);

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Each user waits for an answer, as long as it takes, before asking again.
    Closed {
        /// At once.
        users: u64,
        /// One after the other.
        requests_per_user: u64,
    },
    /// Evenly, whatever becomes of them.
    Open {
        /// Begun in each second.
        requests_per_second: u32,
        /// In all.
        requests: u64,
        /// A client leaves so long after its request was due.
        patience: Duration,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With this status.
    Answered(u16),
    /// Without a whole answer.
    Broken,
    /// Its client has waited long enough.
    GaveUp,
}

/// One request, as its client saw it. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Sample {
    /// In its path; each request of a load has another.
    pub number: u64,
    /// When it was to be sent, from the load's begin.
    pub due_us: u64,
    /// When it was: later only where the generator does not keep up.
    pub sent_us: u64,
    /// From when it was due to its end.
    pub took_us: u64,
    /// How it ended.
    pub end: End,
}

/// The generator of a load, at work.
pub struct Generator {
    process: Process,
    samples: PathBuf,
}

impl Generator {
    /// Begins. `folder` takes its files.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(binary: &Path, address: SocketAddr, load: Load, folder: &Path) -> anyhow::Result<Self> {
        let samples = folder.join("samples.json");
        let mut arguments = ["load", "--address"].map(str::to_owned).to_vec();
        arguments.extend([address.to_string(), "--samples".to_owned(), samples.display().to_string()]);
        arguments.extend(load.arguments());
        Ok(Self { process: Process::start("load", binary, arguments, folder)?, samples })
    }

    /// Waits until all requests have ended.
    ///
    /// # Errors
    /// When the generator fails.
    pub async fn samples(mut self) -> anyhow::Result<Vec<Sample>> {
        let status = self.ended().await?;
        ensure!(status.success(), "the load failed ({status}):\n{}", self.process.last_lines());
        let path = &self.samples;
        let text = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("no samples in `{}`", path.display()))
    }

    /// No more requests of an open loop are begun, and those under way are waited for.
    ///
    /// # Errors
    /// As [`Generator::samples`].
    pub async fn stop(mut self) -> anyhow::Result<Vec<Sample>> {
        self.process.stop().await?;
        self.samples().await
    }

    async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.ended()? {
                return Ok(status);
            }
            sleep(LOOK).await;
        }
    }
}

impl Load {
    fn arguments(self) -> Vec<String> {
        let (name, arguments) = match self {
            Self::Closed { users, requests_per_user } => {
                ("closed", vec![("--users", users), ("--requests-per-user", requests_per_user)])
            }
            Self::Open { requests_per_second, requests, patience } => (
                "open",
                vec![
                    ("--requests-per-second", requests_per_second.into()),
                    ("--requests", requests),
                    ("--patience-ms", u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)),
                ],
            ),
        };
        let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]);
        [name.to_owned()].into_iter().chain(arguments).collect()
    }
}
