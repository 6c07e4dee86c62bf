//! The questions that the incident's fix left open, each answered by a run: the queue full, the consumer dead, more load,
//! the application killed.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use crate::incident::{
    Options, PATIENCE,
    figures::Figures,
    form::{Form, Setup},
    lane::{Lane, Stand},
    load::{self, Samples},
    side_by_side,
};

/// The load begins so long before something fails, and lasts so long after it is back.
const MARGIN: Duration = Duration::from_secs(5);
/// A queue that is to be full soon.
const FEW_ENTRIES: u64 = 200;
/// So many requests wait at once at most, or the machine runs out of connections before the application is shown.
const MAX_WAITING: u32 = 8000;
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
    /// Each form's figures.
    pub figures: Vec<Figures>,
}

/// What fails for a while.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// The batch job of the application queue.
    Consumer,
    /// The collector: the queue of the one form, the consumer of the other.
    Collector,
}

/// All of them, one after the other.
pub(super) async fn answer(stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Answer>> {
    eprintln!("the queue full, the consumer dead");
    let mut answers = outages(stand, options).await?;
    for times in [10, 100] {
        eprintln!("{times} times the load");
        answers.push(more_load(stand, options, times).await?);
    }
    eprintln!("the application killed");
    answers.push(killed(stand, options).await?);
    Ok(answers)
}

/// A worker's queue in the plugin that holds a few seconds of this load.
fn little_room() -> Vec<(&'static str, Value)> {
    vec![
        ("logs.max_record_bytes", json!(1024)),
        ("batch.max_bytes", json!(8192)),
        ("queue.max_bytes", json!(32768)),
    ]
}

async fn outages(stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Answer>> {
    let setup = |form| Setup::of(form, options.service_times());
    let queue = setup(Form::ApplicationQueue);
    let full_queue = Setup { queue_entries: FEW_ENTRIES, ..queue.clone().named("application queue, full") };
    let full_edge =
        Setup { plugin_keys: little_room(), ..setup(Form::Edge).named("edge (offpath), queue full") };
    let dead = |setup: &Setup| format!("{}, consumer dead", setup.name);
    let cases = [
        (full_queue, Victim::Consumer),
        (full_edge, Victim::Collector),
        (queue.clone().named(&dead(&queue)), Victim::Consumer),
        (queue.named("application queue, queue dead"), Victim::Collector),
        (setup(Form::Edge).named(&dead(&setup(Form::Edge))), Victim::Collector),
        (setup(Form::NoLogging), Victim::Consumer),
    ];
    let victims: Vec<(String, Victim)> =
        cases.iter().map(|(setup, victim)| (setup.name.clone(), *victim)).collect();
    let victim_of = |name: &str| {
        victims.iter().find(|(of, _)| of == name).map_or(Victim::Consumer, |(_, victim)| *victim)
    };
    let mut figures = side_by_side(stand, cases.map(|(setup, _)| setup), async |lane: &mut Lane| {
        let victim = victim_of(&lane.setup().name);
        outage(lane, victim, options).await
    })
    .await?;
    let bound = figures.pop();
    let dead = figures.split_off(2);
    let seconds = options.outage().as_secs();
    let with_bound = |figures: Vec<Figures>| figures.into_iter().chain(bound.clone()).collect();
    Ok(vec![
        Answer {
            question: "The queue is full for minutes".to_owned(),
            how: format!(
                "{} requests/s; what drains the queue is killed for {seconds} s. So that the queue is full for nearly all \
                 of that, it has {FEW_ENTRIES} entries instead of 100,000, and the plugin's 32 KiB for each worker instead of \
                 16 MiB.",
                options.rate
            ),
            figures: with_bound(figures),
        },
        Answer {
            question: "The consumer is dead for minutes, and comes back".to_owned(),
            how: format!(
                "{} requests/s; killed (SIGKILL) for {seconds} s, then started again: the batch job of the application \
                 queue, its queue (the collector), and the collector of the edge. All queues as large as they are meant to be.",
                options.rate
            ),
            figures: with_bound(dead),
        },
    ])
}

async fn outage(lane: &mut Lane, victim: Victim, options: &Options) -> anyhow::Result<Samples> {
    let whole = MARGIN + options.outage() + MARGIN;
    let count = (whole.as_secs_f64() * f64::from(options.rate)) as u64;
    let (_stop, stopped) = watch::channel(false);
    let load = tokio::spawn(load::open_loop(lane.address(), options.rate, count, PATIENCE, stopped));
    sleep(MARGIN).await;
    let hit = lane.setup().form.stores();
    match victim {
        _ if !hit => {}
        Victim::Consumer => lane.kill_consumer().await?,
        Victim::Collector => lane.kill_collector().await?,
    }
    sleep(options.outage()).await;
    match victim {
        _ if !hit => {}
        Victim::Consumer => lane.start_consumer()?,
        Victim::Collector => lane.start_collector().await?,
    }
    load.await?
}

/// One form after the other: at such rates they would take the processors from each other.
async fn more_load(stand: Stand<'_>, options: &Options, times: u32) -> anyhow::Result<Answer> {
    let rate = options.rate * times;
    let duration = options.open_loop().div_f64(if times > 10 { 12.0 } else { 6.0 });
    let patience = Duration::from_secs_f64(f64::from(MAX_WAITING) / f64::from(rate)).min(PATIENCE);
    let count = (duration.as_secs_f64() * f64::from(rate)) as u64;
    let mut figures = Vec::new();
    for form in [Form::NoLogging, Form::InRequest, Form::ApplicationQueue, Form::Edge] {
        let setup = Setup::of(form, options.service_times());
        figures.extend(
            side_by_side(stand, [setup], async |lane: &mut Lane| {
                let (_stop, stopped) = watch::channel(false);
                tokio::spawn(load::open_loop(lane.address(), rate, count, patience, stopped)).await?
            })
            .await?,
        );
    }
    Ok(Answer {
        question: format!("{times} times the load"),
        how: format!(
            "{rate} requests/s for {:.0} s, one form after the other; clients leave after {:.0} s, so that at most \
             {MAX_WAITING} requests wait at once.",
            duration.as_secs_f64(),
            patience.as_secs_f64()
        ),
        figures,
    })
}

async fn killed(stand: Stand<'_>, options: &Options) -> anyhow::Result<Answer> {
    let stand = Stand { settle: Duration::from_secs(10), ..stand };
    let setups = [Form::InRequest, Form::ApplicationQueue, Form::Edge]
        .map(|form| Setup::of(form, options.service_times()));
    let figures = side_by_side(stand, setups, async |lane: &mut Lane| {
        let (stop, stopped) = watch::channel(false);
        let load = tokio::spawn(load::open_loop(lane.address(), options.rate, u64::MAX, PATIENCE, stopped));
        wait_for_death(lane).await?;
        lane.kill_application().await?;
        stop.send_replace(true);
        load.await?
    })
    .await?;
    Ok(Answer {
        question: "The application is killed".to_owned(),
        how: format!(
            "{} requests/s until the application is killed (SIGKILL): in-request once {LOGS_AT_DEATH} logs wait in its \
             memory behind a stalled one, the others after {} s. Requests under way break off; the load ends with the application.",
            options.rate,
            ORDINARY_DEATH.as_secs()
        ),
        figures,
    })
}

async fn wait_for_death(lane: &Lane) -> anyhow::Result<()> {
    if lane.setup().form != Form::InRequest {
        sleep(ORDINARY_DEATH).await;
        return Ok(());
    }
    let end = tokio::time::Instant::now() + LATEST_DEATH;
    while tokio::time::Instant::now() < end && lane.application_stats().await?.waiting < LOGS_AT_DEATH {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
