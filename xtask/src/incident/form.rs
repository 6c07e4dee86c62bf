//! The forms of logging that are compared, and how one of them is set up for a run.

use serde::Serialize;
use serde_json::Value;

use crate::incident::stall::Draw;

/// Who writes the log of a request, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Nobody: the bound that nothing can beat.
    NoLogging,
    /// The incident: the request itself, under one lock.
    InRequest,
    /// The original fix: a queue outside of the application and a batch job; when the queue fails, the request itself.
    ApplicationQueue,
    /// Envoy with offpath, and the collector: the application logs nothing.
    Edge,
}

impl Form {
    /// Whether every request ends up in a database.
    #[must_use]
    pub fn stores(self) -> bool {
        self != Self::NoLogging
    }

    /// What the application is told.
    #[must_use]
    pub fn application_log(self) -> &'static str {
        match self {
            Self::NoLogging | Self::Edge => "none",
            Self::InRequest => "in-request",
            Self::ApplicationQueue => "queue",
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoLogging => "no logging",
            Self::InRequest => "in-request",
            Self::ApplicationQueue => "application queue",
            Self::Edge => "edge (offpath)",
        }
    }
}

/// How long requests take without any logging: lognormal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ServiceTimes {
    /// Half are faster.
    pub median_ms: f64,
    /// On average.
    pub mean_ms: f64,
    /// What they follow from, together with a request's number.
    pub seed: u64,
}

/// One form, as it is run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setup {
    /// Unlike that of all others of the run.
    pub name: String,
    /// Who logs.
    pub form: Form,
    /// What a stall is drawn for.
    pub draw: Draw,
    /// How long the work takes.
    pub service_times: ServiceTimes,
    /// The queue of [`Form::ApplicationQueue`] is full with so many entries.
    pub queue_entries: u64,
    /// What is changed in the plugin's configuration.
    pub plugin_keys: Vec<(&'static str, Value)>,
}

/// The queue's bound in the incident.
pub const QUEUE_ENTRIES: u64 = 100_000;

impl Setup {
    /// A form as it is meant to be.
    #[must_use]
    pub fn of(form: Form, service_times: ServiceTimes) -> Self {
        Self {
            name: form.name().to_owned(),
            form,
            draw: Draw::Call,
            service_times,
            queue_entries: QUEUE_ENTRIES,
            plugin_keys: Vec::new(),
        }
    }

    /// The same by another name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The same with a stall drawn for each row.
    #[must_use]
    pub fn per_row(self) -> Self {
        let name = format!("{}, stalls per row", self.name);
        Self { name, draw: Draw::Row, ..self }
    }
}
