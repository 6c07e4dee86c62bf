//! The report: what was run, in figures, for people (Markdown, pictures) and for programs (JSON).

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    bench::table,
    incident::{
        Options,
        figures::{Figures, improvement},
        form::{Form, ServiceTimes},
        noise::Noise,
        plot,
        questions::Answer,
        stall::Stalls,
    },
};

/// The incident's improvements, in per cent: what taking the log out of the request brought then.
const THEN: [(&str, f64); 3] = [("P95", 94.2), ("P99", 93.8), ("mean", 61.1)];

/// Everything that came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How long the work takes.
    pub service_times: ServiceTimes,
    /// How databases stall.
    pub stalls: Stalls,
    /// Users of the closed loop.
    pub users: u64,
    /// Requests of the closed loop.
    pub requests: u64,
    /// Requests per second of the open loop.
    pub rate: u32,
    /// How long the open loop lasts.
    pub open_loop_seconds: f64,
    /// By how much the command itself was late at most, in each part: the machine's doing.
    pub longest_standstill_ms: BTreeMap<&'static str, u64>,
    /// The closed loop, form by form.
    pub closed: Vec<Figures>,
    /// The open loop, form by form.
    pub open: Vec<Figures>,
    /// The open questions.
    pub questions: Vec<Answer>,
}

impl Report {
    /// Without any result yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            service_times: options.service_times(),
            stalls: options.stalls(),
            users: options.users,
            requests: options.requests.div_ceil(options.users) * options.users,
            rate: options.rate,
            open_loop_seconds: options.open_loop().as_secs_f64(),
            longest_standstill_ms: BTreeMap::new(),
            closed: Vec::new(),
            open: Vec::new(),
            questions: Vec::new(),
        }
    }

    /// Forms of the closed loop, each of which promises a record of every request, that have not kept it.
    #[must_use]
    pub fn broken_promises(&self) -> Vec<String> {
        self.closed
            .iter()
            .filter(|figures| figures.missing > 0)
            .map(|figures| format!("{}: {} of {}", figures.name, figures.missing, figures.ends.requests))
            .collect()
    }

    /// `report.md`, `report.json`, every latency in `latencies.json`, and the pictures, into a folder.
    ///
    /// # Errors
    /// When something cannot be drawn or written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
        };
        write("report.md", &self.markdown())?;
        write("report.json", &serde_json::to_string_pretty(self)?)?;
        let latencies = |figures: &[Figures]| -> BTreeMap<String, Vec<f64>> {
            figures.iter().map(|of| (of.name.clone(), of.latencies.all_ms().collect())).collect()
        };
        let all = BTreeMap::from([("closed", latencies(&self.closed)), ("open", latencies(&self.open))]);
        write("latencies.json", &serde_json::to_string(&all)?)?;
        for (name, figures) in [("closed", &self.closed), ("open", &self.open)] {
            if !figures.is_empty() {
                write(&format!("{name}-percentiles.svg"), &plot::percentiles(figures)?)?;
                write(&format!("{name}-histograms.svg"), &plot::histograms(figures)?)?;
            }
        }
        Ok(())
    }

    /// For people.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Stalls { duration, probability, seed } = self.stalls;
        let ServiceTimes { median_ms, mean_ms, .. } = self.service_times;
        let mut text = format!(
            "# The incident, reproduced\n\n\
             Service times: lognormal, median {median_ms} ms, mean {mean_ms} ms, the same for the same request in each form \
             (seed {seed}). A call of the database stalls for {duration:?} with probability {probability}.\n\n\
             All forms run at the same time, each with its own application, Envoy and database. In-request and the \
             application queue write to PostgreSQL, where a trigger sleeps: for each statement, which is one row in a request \
             and a batch in the batch job. The edge writes to the collector's own database, SQLite, whose write lock is held \
             from outside after each batch that drew a stall, so that the next one waits; acknowledgements wait with it. Where it \
             says *stalls per row*, each row of a batch draws. The queue of the application queue, a collector of its own, does not \
             stall: it is not the database.\n"
        );
        text += &self.standstills();
        if !self.closed.is_empty() {
            text += &format!(
                "\n## Closed loop: {} users, {} requests\n\n{}\n{}\n{}\n{}",
                self.users,
                self.requests,
                latencies(&self.closed),
                records(&self.closed),
                self.noise(&self.closed),
                improvements(&self.closed),
            );
        }
        if !self.open.is_empty() {
            text += &format!(
                "\n## Open loop: {} requests/s for {:.0} s\n\nA request's time counts from when it was due, so waiting to be \
                 sent is part of it. A client leaves after a minute: then its time is that minute, and would have been more.\n\n{}\n{}\n{}",
                self.rate,
                self.open_loop_seconds,
                latencies(&self.open),
                records(&self.open),
                self.noise(&self.open),
            );
        }
        for answer in &self.questions {
            text += &format!(
                "\n## {}\n\n{}\n\n{}\n{}",
                answer.question,
                answer.how,
                latencies(&answer.figures),
                records(&answer.figures)
            );
        }
        text
    }

    fn standstills(&self) -> String {
        let parts: Vec<String> =
            self.longest_standstill_ms.iter().map(|(part, ms)| format!("{part} {ms} ms")).collect();
        format!(
            "\nThe machine is in all figures: this command, which needs next to nothing, was late by at most {}.\n",
            parts.join(", ")
        )
    }

    fn noise(&self, figures: &[Figures]) -> String {
        let copies: Vec<&Figures> =
            figures.iter().filter(|figures| figures.name.starts_with(Form::NoLogging.name())).collect();
        let Some(edge) = find(figures, Form::Edge.name()) else { return String::new() };
        let rows = Noise::all(&copies, edge).into_iter().map(|noise| {
            vec![
                noise.name.to_owned(),
                table::number(noise.least_ms),
                table::number(noise.most_ms),
                table::number(noise.spread_ms()),
                table::number(noise.form_ms),
                format!("{:+.2}", noise.difference_ms()),
                if noise.is_within() { "yes" } else { "no" }.to_owned(),
            ]
        });
        let header = [
            "ms",
            "least of the copies",
            "most",
            "noise",
            "edge",
            "edge less their middle",
            "within the noise",
        ];
        format!(
            "The noise: {} copies of *no logging* ran at the same time; what they differ by is the noise. The edge is within it \
             when it is no further from a copy than they are from each other.\n\n{}",
            copies.len(),
            table::render(&header, rows)
        )
    }
}

fn find<'a>(figures: &'a [Figures], name: &str) -> Option<&'a Figures> {
    figures.iter().find(|figures| figures.name == name)
}

fn latencies(figures: &[Figures]) -> String {
    let rows = figures.iter().map(|figures| {
        let latency = figures.latency.named().map(|(_, ms)| format!("{ms:.0}"));
        let convoys = figures.application.convoys;
        [figures.name.clone()]
            .into_iter()
            .chain(latency)
            .chain([
                format!("{:.0}", figures.total_seconds),
                convoys.waited.to_string(),
                format!("{} / {}", convoys.convoys, convoys.largest),
            ])
            .collect()
    });
    let header = [
        "form",
        "mean ms",
        "P50",
        "P90",
        "P95",
        "P99",
        "P99.9",
        "max",
        "total s",
        "waited for another's log",
        "convoys / largest",
    ];
    table::render(&header, rows)
}

fn records(figures: &[Figures]) -> String {
    let rows = figures.iter().filter(|figures| figures.stored.is_some()).map(|figures| {
        let offers = figures.application.offers;
        vec![
            figures.name.clone(),
            figures.ends.requests.to_string(),
            figures.ends.answered_200.to_string(),
            figures.ends.failed.to_string(),
            figures.ends.gave_up.to_string(),
            figures.stalls.to_string(),
            offers.fallbacks().to_string(),
            figures.stored.unwrap_or_default().to_string(),
            figures.missing.to_string(),
            figures.answered_missing.to_string(),
            figures.application.waiting.to_string(),
            figures.dropped.to_string(),
            format!("{:.1}", figures.settled_after_seconds),
        ]
    });
    let header = [
        "records",
        "requests",
        "answered 200",
        "failed",
        "gave up",
        "stalls",
        "written by the request after all",
        "stored",
        "not stored",
        "of these answered 200",
        "in the application's memory",
        "dropped and counted",
        "settled after s",
    ];
    table::render(&header, rows)
}

fn improvements(figures: &[Figures]) -> String {
    let pairs = [
        ("edge (offpath)", "in-request", "edge (offpath)"),
        ("application queue", "in-request", "application queue"),
        (
            "edge (offpath), shorter service times",
            "in-request, shorter service times",
            "edge (offpath), shorter service times",
        ),
    ];
    let rows = pairs.iter().filter_map(|(name, before, after)| {
        let (before, after) = (find(figures, before)?, find(figures, after)?);
        let percent = THEN.iter().filter_map(|(quantile, _)| {
            let value = |figures: &Figures| {
                figures.latency.named().into_iter().find(|(name, _)| name == quantile).map(|(_, ms)| ms)
            };
            Some(format!("{:.1} %", improvement(value(before)?, value(after)?)))
        });
        Some([(*name).to_owned()].into_iter().chain(percent).collect())
    });
    let then = [
        vec!["the incident's queue, as it was told".to_owned()],
        THEN.iter().map(|(_, percent)| format!("{percent} %")).collect(),
    ]
    .concat();
    format!(
        "How much less than in-request:\n\n{}",
        table::render(&["form", "P95", "P99", "mean"], [then].into_iter().chain(rows))
    )
}
