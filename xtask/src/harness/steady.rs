//! Clients that send at a steady rate, whatever becomes of the answers, and note how long each took: by this it is seen
//! whether an application's users notice what happens behind the proxy.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};

use crate::harness::load::{self, Client};

/// Of failures, so many are told in words.
const MAX_TOLD: usize = 5;

/// Load that is under way until [`SteadyLoad::end`].
#[derive(Debug)]
pub struct SteadyLoad {
    clients: JoinSet<anyhow::Result<Tally>>,
    next: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
}

impl SteadyLoad {
    /// `per_second` requests over `connections` that are kept alive. Each carries its number, from 0, as `n` in its query.
    #[must_use]
    pub fn start(address: SocketAddr, connections: u32, per_second: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let next = Arc::new(AtomicU64::new(0));
        let pause = Duration::from_secs(1) * connections / per_second.max(1);
        let mut clients = JoinSet::new();
        for client in 0..connections {
            // Not all at the same moment.
            let begin = tokio::time::Instant::now() + pause * client / connections;
            let mut pace = tokio::time::interval_at(begin, pause);
            // A late answer does not lower the rate.
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            clients.spawn(send(address, pace, Arc::clone(&next), stopped.clone()));
        }
        Self { clients, next, stop }
    }

    /// How many requests were sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Sends no more, and waits for what is under way.
    ///
    /// # Errors
    /// When a client could not connect.
    pub async fn end(&mut self) -> anyhow::Result<Tally> {
        self.stop.send_replace(true);
        let mut total = Tally::default();
        while let Some(client) = self.clients.join_next().await {
            total.add(client.context("a client was aborted")??);
        }
        total.micros.sort_unstable();
        Ok(total)
    }
}

async fn send(
    address: SocketAddr,
    mut pace: Interval,
    next: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Tally> {
    let mut client = Client::connect(address).await?;
    let mut tally = Tally::default();
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(tally),
            _ = pace.tick() => {}
        }
        let number = next.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        match client.send(load::get(&format!("/orders/{number}?n={number}"))?).await {
            Ok(status) => *tally.statuses.entry(status.as_u16()).or_insert(0) += 1,
            Err(error) => {
                tally.failed += 1;
                tally.failures.push(format!("request {number}: {error:#}"));
                tally.failures.truncate(MAX_TOLD);
            }
        }
        tally.micros.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// What became of the requests, as their senders saw it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer.
    pub failed: u64,
    /// The first of those, in words.
    pub failures: Vec<String>,
    /// How long each took; sorted, once all are in.
    micros: Vec<u32>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_insert(0) += count;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(MAX_TOLD);
        self.micros.extend(other.micros);
    }

    /// How many were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.micros.len() as u64
    }

    /// The smallest duration that at least this share of the requests did not exceed.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.micros.len() as f64).ceil() as usize;
        self.micros.get(rank.saturating_sub(1)).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }
}
