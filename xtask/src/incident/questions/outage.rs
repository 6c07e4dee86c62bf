//! What drains a queue is dead for minutes and comes back: with queues that are soon full, and with queues as they are meant
//! to be.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::incident::{
    OUTAGE_SETTLE, Options, PATIENCE,
    form::{Form, QUEUE_ENTRIES, Setup},
    lane::{Lane, Stand},
    load::Sample,
    questions::Answer,
    side_by_side,
};

/// The load begins so long before something fails.
const BEFORE: Duration = Duration::from_secs(5);
/// And lasts so long after it is back: longer than the plugin's longest pause between two tries, `retry.max_backoff` of 30 s.
const AFTER: Duration = Duration::from_secs(40);
/// A queue that is to be full soon.
const FEW_ENTRIES: u64 = 200;

/// What is dead meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Nobody,
    /// The batch job of the application queue.
    Consumer,
    /// The collector: the queue of the one form, the consumer of the other.
    Collector,
}

pub(super) async fn outages(stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Answer>> {
    let stand = Stand { settle: OUTAGE_SETTLE, ..stand };
    let settle_seconds = stand.settle.as_secs();
    let setup = |form| Setup::of(form, options.service_times());
    let (queue, edge) = (setup(Form::ApplicationQueue), setup(Form::Edge));
    let full_queue = Setup { queue_entries: FEW_ENTRIES, ..queue.clone().named("application queue, full") };
    let full_edge = Setup { plugin_keys: little_room(), ..edge.clone().named("edge (offpath), queue full") };
    let cases = [
        (setup(Form::NoLogging), Victim::Nobody),
        (full_queue, Victim::Consumer),
        (full_edge, Victim::Collector),
        (queue.clone().named("application queue, consumer dead"), Victim::Consumer),
        (queue.named("application queue, queue dead"), Victim::Collector),
        (edge.named("edge (offpath), consumer dead"), Victim::Collector),
    ];
    let mut full =
        side_by_side(stand, cases, async |lane: &mut Lane, victim| outage(lane, victim, options).await)
            .await?;
    let mut dead = full.split_off(3);
    dead.splice(0..0, full.first().cloned());
    let (rate, seconds) = (options.rate, options.outage().as_secs());
    let after = AFTER.as_secs();
    Ok(vec![
        Answer {
            question: "The queue is full for minutes".to_owned(),
            how: format!(
                "{rate} requests/s; what drains the queue is killed for {seconds} s and back for {after} s. So that the queue \
                 is full for nearly all of that, it has {FEW_ENTRIES} entries instead of {QUEUE_ENTRIES}, and the plugin's \
                 32 KiB for each worker instead of 16 MiB."
            ),
            settle_seconds,
            figures: full,
        },
        Answer {
            question: "The consumer is dead for minutes, and comes back".to_owned(),
            how: format!(
                "{rate} requests/s; killed (SIGKILL) for {seconds} s, then started again and loaded for {after} s more: the \
                 batch job of the application queue, its queue (the collector), and the collector of the edge. All queues as \
                 large as they are meant to be."
            ),
            settle_seconds,
            figures: dead,
        },
    ])
}

/// A worker's queue in the plugin that holds a few seconds of this load.
fn little_room() -> Vec<(&'static str, Value)> {
    vec![
        ("logs.max_record_bytes", json!(1024)),
        ("batch.max_bytes", json!(8192)),
        ("queue.max_bytes", json!(32768)),
    ]
}

async fn outage(lane: &mut Lane, victim: Victim, options: &Options) -> anyhow::Result<Vec<Sample>> {
    let lasts = BEFORE + options.outage() + AFTER;
    let generator = lane.load(options.open(options.rate, lasts, PATIENCE))?;
    sleep(BEFORE).await;
    match victim {
        Victim::Nobody => {}
        Victim::Consumer => lane.kill_consumer().await?,
        Victim::Collector => lane.kill_collector().await?,
    }
    sleep(options.outage()).await;
    match victim {
        Victim::Nobody => {}
        Victim::Consumer => lane.start_consumer()?,
        Victim::Collector => lane.start_collector().await?,
    }
    generator.samples().await
}
