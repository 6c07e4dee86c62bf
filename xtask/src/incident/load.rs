//! Load, as users cause it: a closed loop, in which each waits for an answer before asking again, and an open loop, in
//! which requests come when they come. In the open loop a request's time counts from when it was to be sent, so that no
//! waiting hides (coordinated omission).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::watch, task::JoinSet};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this status.
    Answered(u16),
    /// Without a whole answer.
    Broken,
    /// Its client has waited long enough.
    GaveUp,
}

/// One request, as its client saw it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// In its path.
    pub number: u64,
    /// When it was to be sent, from the load's begin.
    pub due: Duration,
    /// From then to its end.
    pub took: Duration,
    /// How it ended.
    pub end: End,
}

/// All requests of a load.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// In no order.
    pub samples: Vec<Sample>,
    /// From the first request's begin to the last one's end.
    pub total: Duration,
}

type Http = Client<HttpConnector, Empty<Bytes>>;

/// `users` at once, each with `per_user` requests one after the other.
///
/// # Errors
/// When a user cannot go on.
pub async fn closed_loop(
    address: SocketAddr,
    users: u64,
    per_user: u64,
    patience: Duration,
) -> anyhow::Result<Samples> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for user in 0..users {
        clients.spawn(async move {
            let http = client();
            let mut samples = Vec::new();
            for number in user * per_user..(user + 1) * per_user {
                let due = begin.elapsed();
                let end = send(&http, address, number, patience).await;
                samples.push(Sample { number, due, took: begin.elapsed() - due, end });
            }
            samples
        });
    }
    let mut samples = Vec::new();
    while let Some(user) = clients.join_next().await {
        samples.extend(user.context("a user was aborted")?);
    }
    Ok(Samples { samples, total: begin.elapsed() })
}

/// `per_second` requests, `count` in all, evenly, whatever becomes of them; none are begun once `stop` says so.
///
/// # Errors
/// When a request was aborted.
pub async fn open_loop(
    address: SocketAddr,
    per_second: u32,
    count: u64,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<Samples> {
    let http = client();
    let begin = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..count {
        let due = Duration::from_secs_f64(number as f64 / f64::from(per_second));
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep_until((begin + due).into()) => {}
        }
        let http = http.clone();
        requests.spawn(async move {
            let end = send(&http, address, number, patience).await;
            Sample { number, due, took: begin.elapsed().saturating_sub(due), end }
        });
    }
    let mut samples = Vec::new();
    while let Some(request) = requests.join_next().await {
        samples.push(request.context("a request was aborted")?);
    }
    Ok(Samples { samples, total: begin.elapsed() })
}

fn client() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn send(http: &Http, address: SocketAddr, number: u64, patience: Duration) -> End {
    let exchange = async {
        let response = http.get(format!("http://{address}/work/{number}").parse()?).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        anyhow::Ok(status)
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(status)) => End::Answered(status),
        Ok(Err(_)) => End::Broken,
        Err(_) => End::GaveUp,
    }
}
