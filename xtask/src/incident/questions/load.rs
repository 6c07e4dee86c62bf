//! Ten and a hundred times the load. What is measured is the log's way, as long as the machine has room without any logging;
//! where it has not, the highest multiple at which it has is taken instead, and said.

use std::{cell::Cell, time::Duration};

use tokio::time::sleep;

use crate::incident::{
    Options, PATIENCE, convoy,
    figures::Figures,
    form::{Form, ServiceTimes, Setup},
    lane::{Lane, Stand},
    questions::Answer,
    side_by_side,
    vigil::ProcessorTime,
};

const LASTS: Duration = Duration::from_secs(10);
/// So many requests wait at once at most, or the machine runs out of connections before the application is shown.
const MAX_WAITING: u32 = 8000;
const TEN: u32 = 10;
/// Tried one after the other until the machine has room.
const MULTIPLES: [u32; 6] = [100, 75, 50, 35, 25, 15];
/// The load generator keeps up when 99 of 100 requests are sent no later than so long after they were due.
const LATE_MS: f64 = 50.0;
/// There is room for logging when no more than so much of all processors is busy without it.
const BUSY_PERCENT: f64 = 60.0;
const LOGGING: [Form; 3] = [Form::InRequest, Form::ApplicationQueue, Form::Edge];

/// What came of a load.
struct Loaded {
    figures: Vec<Figures>,
    /// How busy all processors were, by whomever, while requests came.
    busy_percent: f64,
}

/// One form after the other, for at such rates they would take the processors from each other.
pub(super) async fn more(stand: Stand<'_>, options: &Options) -> anyhow::Result<Answer> {
    let (mut figures, mut busy) = (Vec::new(), Vec::new());
    for form in [Form::NoLogging].into_iter().chain(LOGGING) {
        let loaded = loaded(stand, options, TEN, form, options.service_times()).await?;
        busy.push(loaded.busy(form));
        figures.extend(loaded.figures);
    }
    convoy::count(&mut figures, stand.stalls.duration);
    Ok(Answer {
        question: format!("{TEN} times the load"),
        how: format!(
            "{}, one form after the other. The processors were busy meanwhile: {}.",
            load(options, TEN),
            busy.join(", ")
        ),
        settle_seconds: stand.settle.as_secs(),
        figures,
    })
}

/// Likewise, at the highest multiple at which the machine has room for logging. Who was held up is not counted: where
/// processors are short, it is by them.
pub(super) async fn much_more(stand: Stand<'_>, options: &Options) -> anyhow::Result<Answer> {
    let (mut tried, mut busy, mut figures, mut times) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for multiple in MULTIPLES {
        let bound = loaded(stand, options, multiple, Form::NoLogging, options.light()).await?;
        let has_room = bound.has_room();
        tried.push(format!("at {multiple} times {}", bound.describe()));
        (times, busy) = (multiple, vec![bound.busy(Form::NoLogging)]);
        figures = bound.figures;
        if has_room {
            break;
        }
    }
    for form in LOGGING {
        let loaded = loaded(stand, options, times, form, options.light()).await?;
        busy.push(loaded.busy(form));
        figures.extend(loaded.figures);
    }
    figures.iter_mut().for_each(|of| of.convoys = None);
    let ServiceTimes { median_ms, mean_ms, .. } = options.light();
    let asked = MULTIPLES[0];
    Ok(Answer {
        question: match times == asked {
            true => format!("{asked} times the load"),
            false => format!("{asked} times the load: shown at {times} times"),
        },
        how: format!(
            "Here the work takes a median of {median_ms} ms and a mean of {mean_ms} ms, so that what is loaded is the log's way. \
             Users, Envoy, application and databases share the machine, so it was asked without any logging first: {}. What \
             follows is **{times} times the load**: {}, one form after the other. The processors were busy meanwhile: {}. \
             Where that is nearly all, requests waited for processors, whatever for.",
            tried.join("; "),
            load(options, times),
            busy.join(", ")
        ),
        settle_seconds: stand.settle.as_secs(),
        figures,
    })
}

async fn loaded(
    stand: Stand<'_>,
    options: &Options,
    times: u32,
    form: Form,
    service_times: ServiceTimes,
) -> anyhow::Result<Loaded> {
    let load = options.open(options.rate * times, lasts(options), patience(options, times));
    let cases = [(Setup::of(form, service_times), load)];
    let busy_percent = Cell::new(0.0);
    let figures = side_by_side(stand, cases, async |lane: &mut Lane, load| {
        let before = ProcessorTime::now()?;
        let generator = lane.load(load)?;
        sleep(lasts(options)).await;
        busy_percent.set(ProcessorTime::now()?.busy_percent_since(before));
        generator.samples().await
    })
    .await?;
    Ok(Loaded { figures, busy_percent: busy_percent.get() })
}

fn lasts(options: &Options) -> Duration {
    options.scaled(LASTS)
}

fn patience(options: &Options, times: u32) -> Duration {
    Duration::from_secs_f64(f64::from(MAX_WAITING) / f64::from(options.rate * times)).min(PATIENCE)
}

fn load(options: &Options, times: u32) -> String {
    format!(
        "{} requests/s for {:.0} s; clients leave {:.1} s after their request was due, so that at most {MAX_WAITING} wait at \
         once",
        options.rate * times,
        lasts(options).as_secs_f64(),
        patience(options, times).as_secs_f64()
    )
}

impl Loaded {
    /// Whether all were answered, and sent when they were due, and processors are left for logging.
    fn has_room(&self) -> bool {
        let keeps_up =
            |of: &Figures| of.ends.answered_200 == of.ends.requests && of.ends.sent_late_p99_ms <= LATE_MS;
        self.busy_percent <= BUSY_PERCENT && self.figures.iter().all(keeps_up)
    }

    fn busy(&self, form: Form) -> String {
        format!("{} {:.0} %", form.name(), self.busy_percent)
    }

    /// The load alone, without any logging.
    fn describe(&self) -> String {
        let sum = |count: fn(&Figures) -> u64| self.figures.iter().map(count).sum::<u64>() as f64;
        let share = sum(|of| of.ends.answered_200) / sum(|of| of.ends.requests).max(1.0) * 100.0;
        let late_ms = self.figures.iter().map(|of| of.ends.sent_late_p99_ms).fold(0.0, f64::max);
        format!(
            "{share:.1} % were answered, 99 of 100 were sent no later than {late_ms:.0} ms after they were due, and the \
             processors were busy to {:.0} % ({})",
            self.busy_percent,
            if self.has_room() { "there is room" } else { "too much" }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::incident::load::{End, Sample};

    fn bound(late_us: u64, last: End, busy_percent: f64) -> Loaded {
        let ends = [vec![End::Answered(200); 99], vec![last]].concat();
        let samples = (0..).zip(ends).map(|(number, end)| Sample {
            number,
            due_us: 1000,
            sent_us: 1000 + late_us,
            took_us: 20_000,
            end,
        });
        let setup = Setup::of(Form::NoLogging, Options::quick(&[], PathBuf::new()).light());
        Loaded { figures: vec![Figures::of_samples(&setup, samples.collect())], busy_percent }
    }

    #[test]
    fn a_machine_without_room_is_said_to_have_none() {
        let ok = End::Answered(200);
        assert!(bound(0, ok, 60.0).has_room());
        assert!(!bound(0, ok, 61.0).has_room());
        assert!(!bound(60_000, ok, 10.0).has_room());
        let gave_up = bound(1000, End::GaveUp, 10.0);
        assert!(!gave_up.has_room());
        assert_eq!(
            gave_up.describe(),
            "99.0 % were answered, 99 of 100 were sent no later than 1 ms after they were due, and the processors were busy \
             to 10 % (too much)"
        );
    }

    #[test]
    fn no_more_clients_wait_than_the_machine_has_connections() {
        let options = Options::quick(&[], PathBuf::new());
        assert_eq!(patience(&options, 100), Duration::from_secs(2));
        assert_eq!(patience(&options, 1), PATIENCE);
    }
}
