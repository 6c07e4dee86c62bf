//! Ten and a hundred times the load. What is measured is the log's way, as long as the machine keeps up without any logging;
//! where it does not, the highest multiple at which it does is taken instead, and said.

use std::time::Duration;

use crate::incident::{
    Options, PATIENCE,
    figures::Figures,
    form::{Form, ServiceTimes, Setup},
    lane::{Lane, Stand},
    questions::Answer,
    side_by_side,
};

const LASTS: Duration = Duration::from_secs(10);
/// So many requests wait at once at most, or the machine runs out of connections before the application is shown.
const MAX_WAITING: u32 = 8000;
const TEN: u32 = 10;
/// Tried one after the other until the machine keeps up.
const MULTIPLES: [u32; 6] = [100, 75, 50, 35, 25, 15];
/// The load generator keeps up when 99 of 100 requests are sent no later than so long after they were due.
const LATE_MS: f64 = 50.0;
const LOGGING: [Form; 3] = [Form::InRequest, Form::ApplicationQueue, Form::Edge];

/// All forms at the same time.
pub(super) async fn more(stand: Stand<'_>, options: &Options) -> anyhow::Result<Answer> {
    let forms = [Form::NoLogging].into_iter().chain(LOGGING);
    let figures = loaded(stand, options, TEN, forms, options.service_times()).await?;
    Ok(Answer {
        question: "10 times the load".to_owned(),
        how: format!("{}, all forms at the same time.", load(options, TEN)),
        figures,
    })
}

/// One form after the other, for at such rates they would take the processors from each other.
pub(super) async fn much_more(stand: Stand<'_>, options: &Options) -> anyhow::Result<Answer> {
    let mut tried = Vec::new();
    let mut found = (MULTIPLES[0], Vec::new());
    for times in MULTIPLES {
        let bound = loaded(stand, options, times, [Form::NoLogging], options.light()).await?;
        let keeps_up = bound.iter().all(keeps_up);
        tried.extend(bound.iter().map(|bound| attempt(times, bound)));
        found = (times, bound);
        if keeps_up {
            break;
        }
    }
    let (times, mut figures) = found;
    for form in LOGGING {
        figures.extend(loaded(stand, options, times, [form], options.light()).await?);
    }
    crate::incident::convoy::count(&mut figures, stand.stalls.duration);
    let ServiceTimes { median_ms, mean_ms, .. } = options.light();
    Ok(Answer {
        question: format!("{} times the load", MULTIPLES[0]),
        how: format!(
            "Here the work takes a median of {median_ms} ms and a mean of {mean_ms} ms, so that what is loaded is the log's way. \
             The machine, which has users, Envoy, application and databases to carry, was asked without any logging first: {}. \
             So what follows is **{times} times the load**: {}, one form after the other.",
            tried.join("; "),
            load(options, times)
        ),
        figures,
    })
}

async fn loaded(
    stand: Stand<'_>,
    options: &Options,
    times: u32,
    forms: impl IntoIterator<Item = Form>,
    service_times: ServiceTimes,
) -> anyhow::Result<Vec<Figures>> {
    let load = options.open(options.rate * times, lasts(options), patience(options, times));
    let cases = forms.into_iter().map(|form| (Setup::of(form, service_times), load));
    side_by_side(stand, cases, async |lane: &mut Lane, load| lane.load(load)?.samples().await).await
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

/// Whether all were answered and sent when they were due.
fn keeps_up(bound: &Figures) -> bool {
    bound.ends.answered_200 == bound.ends.requests && bound.ends.sent_late_p99_ms <= LATE_MS
}

fn attempt(times: u32, bound: &Figures) -> String {
    let share = bound.ends.answered_200 as f64 / bound.ends.requests.max(1) as f64 * 100.0;
    format!(
        "at {times} times {share:.1} % were answered and 99 of 100 sent no later than {:.0} ms after they were due ({})",
        bound.ends.sent_late_p99_ms,
        if keeps_up(bound) { "it keeps up" } else { "it does not keep up" }
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::incident::load::{End, Sample};

    fn bound(late_us: u64, last: End) -> Figures {
        let ends = [vec![End::Answered(200); 99], vec![last]].concat();
        let samples = (0..).zip(ends).map(|(number, end)| Sample {
            number,
            due_us: 1000,
            sent_us: 1000 + late_us,
            took_us: 20_000,
            end,
        });
        let setup = Setup::of(Form::NoLogging, Options::quick(&[], PathBuf::new()).light());
        Figures::of_samples(&setup, samples.collect())
    }

    #[test]
    fn a_machine_that_does_not_keep_up_is_said_to() {
        assert!(keeps_up(&bound(0, End::Answered(200))));
        assert!(!keeps_up(&bound(60_000, End::Answered(200))));
        let gave_up = bound(1000, End::GaveUp);
        assert!(!keeps_up(&gave_up));
        assert_eq!(
            attempt(100, &gave_up),
            "at 100 times 99.0 % were answered and 99 of 100 sent no later than 1 ms after they were due (it does not keep up)"
        );
    }

    #[test]
    fn no_more_clients_wait_than_the_machine_has_connections() {
        let options = Options::quick(&[], PathBuf::new());
        assert_eq!(patience(&options, 100), Duration::from_secs(2));
        assert_eq!(patience(&options, 1), PATIENCE);
    }
}
