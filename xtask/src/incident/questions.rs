//! The questions that the incident's fix left open, each answered by a run: the queue full, the consumer dead, more load,
//! the application killed.

mod load;
mod outage;

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::incident::{
    Options, PATIENCE,
    figures::Figures,
    form::{Form, Setup},
    lane::{Lane, Stand},
    load::Load,
    side_by_side,
};

/// The application dies with at least so many logs in its memory, if it comes to that in time.
const LOGS_AT_DEATH: u64 = 20;
const LATEST_DEATH: Duration = Duration::from_secs(30);
const ORDINARY_DEATH: Duration = Duration::from_secs(8);

/// A question, and the run that answers it.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// As a heading.
    pub question: String,
    /// What was done.
    pub how: String,
    /// How long its records had to arrive, in all forms alike.
    pub settle_seconds: u64,
    /// Each form's figures.
    pub figures: Vec<Figures>,
}

/// What is run for one or two questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The queue full for minutes, the consumer dead for minutes and back.
    Outages,
    /// Ten times the load.
    MoreLoad,
    /// A hundred times the load.
    MuchMoreLoad,
    /// The application killed in the middle.
    Death,
}

impl Question {
    /// In the order of the report.
    pub const ALL: [Self; 4] = [Self::Outages, Self::MoreLoad, Self::MuchMoreLoad, Self::Death];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outages => "the queue full, the consumer dead",
            Self::MoreLoad => "ten times the load",
            Self::MuchMoreLoad => "a hundred times the load",
            Self::Death => "the application killed",
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When something does not start, or fails otherwise than it is meant to.
    pub async fn answer(self, stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Answer>> {
        match self {
            Self::Outages => outage::outages(stand, options).await,
            Self::MoreLoad => Ok(vec![load::more(stand, options).await?]),
            Self::MuchMoreLoad => Ok(vec![load::much_more(stand, options).await?]),
            Self::Death => Ok(vec![death(stand, options).await?]),
        }
    }
}

async fn death(stand: Stand<'_>, options: &Options) -> anyhow::Result<Answer> {
    let load = Load::Open { requests_per_second: options.rate, requests: u64::MAX, patience: PATIENCE };
    let cases = [Form::InRequest, Form::ApplicationQueue, Form::Edge]
        .map(|form| (Setup::of(form, options.service_times()), load));
    let figures = side_by_side(stand, cases, async |lane: &mut Lane, load| {
        let generator = lane.load(load)?;
        wait_for_death(lane).await?;
        lane.kill_application().await?;
        generator.stop().await
    })
    .await?;
    Ok(Answer {
        question: "The application is killed".to_owned(),
        how: format!(
            "{} requests/s until the application is killed (SIGKILL): in-request once {LOGS_AT_DEATH} logs wait in its \
             memory behind a stalled one, the others after {} s. Requests under way break off; the load ends with the \
             application.",
            options.rate,
            ORDINARY_DEATH.as_secs()
        ),
        settle_seconds: stand.settle.as_secs(),
        figures,
    })
}

async fn wait_for_death(lane: &Lane) -> anyhow::Result<()> {
    if lane.setup().form != Form::InRequest {
        sleep(ORDINARY_DEATH).await;
        return Ok(());
    }
    let end = Instant::now() + LATEST_DEATH;
    while Instant::now() < end && lane.application_stats().await?.waiting < LOGS_AT_DEATH {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
