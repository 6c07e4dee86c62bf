//! The report: what was run, in figures, for people (Markdown, pictures) and for programs (JSON).

mod markdown;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    fetch::ENVOY_1_40,
    incident::{
        CLOSED_SETTLE, Options, PATIENCE, SETTLE,
        figures::Figures,
        form::ServiceTimes,
        noise::Noise,
        plot::{self, Caption},
        questions::Answer,
        stall::Stalls,
    },
};

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
    /// How long records of the closed loop may take to arrive, in each form.
    pub closed_settle_seconds: u64,
    /// Requests per second of the open loop.
    pub rate: u32,
    /// How long the open loop lasts.
    pub open_loop_seconds: f64,
    /// When its clients leave.
    pub patience_seconds: u64,
    /// How long all other records may take to arrive, in each form.
    pub settle_seconds: u64,
    /// By how much the command itself was late at most, in each part: the machine's doing.
    pub longest_standstill_ms: BTreeMap<&'static str, u64>,
    /// The closed loop, form by form.
    pub closed: Vec<Figures>,
    /// The edge and no logging there, compared on the same requests.
    pub closed_noise: Vec<Noise>,
    /// The open loop, form by form.
    pub open: Vec<Figures>,
    /// The edge and no logging there, compared on the same requests.
    pub open_noise: Vec<Noise>,
    /// The open questions.
    pub questions: Vec<Answer>,
    /// Questions that something failed in, with the reason.
    pub unanswered: Vec<String>,
    /// What it ran on.
    pub machine: String,
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
            closed_settle_seconds: CLOSED_SETTLE.as_secs(),
            rate: options.rate,
            open_loop_seconds: options.open_loop().as_secs_f64(),
            patience_seconds: PATIENCE.as_secs(),
            settle_seconds: SETTLE.as_secs(),
            longest_standstill_ms: BTreeMap::new(),
            closed: Vec::new(),
            closed_noise: Vec::new(),
            open: Vec::new(),
            open_noise: Vec::new(),
            questions: Vec::new(),
            unanswered: Vec::new(),
            machine: machine(),
        }
    }

    /// Writes what there is so far.
    pub(super) fn part_is_over(
        &mut self,
        part: &'static str,
        longest_standstill_ms: u64,
        folder: &Path,
    ) -> anyhow::Result<()> {
        self.longest_standstill_ms.insert(part, longest_standstill_ms);
        self.write(folder)
    }

    /// Runs that have not kept what they promise: in the closed loop, whose requests are all answered, a stored record of
    /// every request; everywhere, that no record is nowhere that was promised ([`Records::broken_promises`]).
    ///
    /// [`Records::broken_promises`]: crate::incident::records::Records::broken_promises
    #[must_use]
    pub fn broken_promises(&self) -> Vec<String> {
        let missing = |of: &Figures| if of.form.stores() { of.records.missing } else { 0 };
        let promised = |of: &Figures| of.records.broken_promises(of.form);
        let others = self.questions.iter().map(|answer| (answer.question.as_str(), &answer.figures));
        let parts = [("closed loop", &self.closed), ("open loop", &self.open)].into_iter().chain(others);
        parts
            .flat_map(|(part, figures)| figures.iter().map(move |of| (part, of)))
            .filter_map(|(part, of)| {
                let broken = if part == "closed loop" { promised(of).max(missing(of)) } else { promised(of) };
                (broken > 0).then(|| format!("{part}, {}: {broken} of {}", of.name, of.ends.requests))
            })
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
        for (name, figures, caption) in self.pictures() {
            write(&format!("{name}-percentiles.svg"), &plot::percentiles(figures, &caption)?)?;
            write(&format!("{name}-histograms.svg"), &plot::histograms(figures, &caption)?)?;
        }
        Ok(())
    }

    fn pictures(&self) -> impl Iterator<Item = (&'static str, &[Figures], Caption)> {
        let closed = Caption { load: format!("{} users at a time", self.users), patience_s: None };
        let open = Caption {
            load: format!("{} new requests a second", self.rate),
            patience_s: Some(self.patience_seconds as f64),
        };
        [("closed", self.closed.as_slice(), closed), ("open", self.open.as_slice(), open)]
            .into_iter()
            .filter(|(_, figures, _)| !figures.is_empty())
    }
}

/// Processors, their model, and what runs on them.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("of an unknown model", |(_, model)| model);
    format!("{processors} processors ({model}), Envoy {} and PostgreSQL, all on loopback", ENVOY_1_40.version)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::incident::{
        form::{Form, Setup},
        load::{End, Sample},
        records::Records,
    };

    fn figures(form: Form, records: Records) -> Figures {
        let sample =
            |number| Sample { number, due_us: 0, sent_us: 0, took_us: 120_000, end: End::Answered(200) };
        let options = Options::quick(&[], PathBuf::new());
        let setup = Setup::of(form, options.service_times());
        Figures { records, ..Figures::of_samples(&setup, (0..30).map(sample).collect()) }
    }

    fn report() -> Report {
        Report::new(&Options::quick(&[], PathBuf::new()))
    }

    #[test]
    fn a_record_on_its_way_breaks_the_promise_of_the_closed_loop_only() {
        let queued = Records { missing: 2, answered_missing: 2, queued: 2, ..Records::default() };
        let closed = Report { closed: vec![figures(Form::Edge, queued)], ..report() };
        assert_eq!(closed.broken_promises(), ["closed loop, edge (offpath): 2 of 30"]);
        let open = Report { open: vec![figures(Form::Edge, queued)], ..report() };
        assert_eq!(open.broken_promises(), [""; 0]);
    }

    #[test]
    fn promises_are_looked_at_in_the_questions_too() {
        let lost = Records { missing: 2, answered_missing: 1, ..Records::default() };
        let answer = |form| Answer {
            question: "The application is killed".to_owned(),
            how: String::new(),
            settle_seconds: 1,
            figures: vec![figures(form, lost)],
        };
        let report = Report { questions: vec![answer(Form::InRequest), answer(Form::NoLogging)], ..report() };
        assert_eq!(report.broken_promises(), ["The application is killed, in-request: 1 of 30"]);
    }

    #[test]
    fn what_is_there_so_far_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = report();
        report.part_is_over("closed loop", 3, folder.path()).unwrap();
        let written = fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(written.contains("closed loop 3 ms") && !written.contains("## Open loop"), "{written}");

        let forms = [Form::NoLogging, Form::InRequest, Form::Edge];
        report.open = forms.map(|form| figures(form, Records { twice: 7, ..Records::default() })).to_vec();
        report.part_is_over("open loop", 4, folder.path()).unwrap();
        let written = fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(written.contains("## Open loop: 40 requests/s for 5 s"), "{written}");
        assert!(folder.path().join("open-percentiles.svg").is_file());
        assert!(!folder.path().join("closed-percentiles.svg").exists());
    }
}
