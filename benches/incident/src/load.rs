//! Load, as users cause it: a closed loop, in which each waits for an answer before asking again, and an open loop, in
//! which requests come when they come. All times count from when a request was due, so that no waiting hides (coordinated
//! omission), and neither does the generator's own: when each request was really begun goes with it. Once all have ended,
//! a file has them as JSON. A client that left has the time until then.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{sleep_until, timeout_at},
};

/// Who asks, and where the samples go.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Where requests go
    #[arg(long)]
    address: SocketAddr,
    /// A file for the samples
    #[arg(long)]
    samples: PathBuf,
    #[command(subcommand)]
    load: Load,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Load {
    /// Each user waits for an answer, as long as it takes, before asking again
    Closed {
        #[arg(long)]
        users: u64,
        #[arg(long)]
        requests_per_user: u64,
    },
    /// Requests come at their times, whatever becomes of them; after SIGTERM none are begun
    Open {
        #[arg(long)]
        requests_per_second: u32,
        #[arg(long)]
        requests: u64,
        /// A client leaves so long after its request was due
        #[arg(long)]
        patience_ms: u64,
    },
}

/// One request, as its client saw it. Times are in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Sample {
    /// In its path.
    number: u64,
    /// When it was to be sent, from the load's begin.
    due_us: u64,
    /// When it was, from the load's begin.
    sent_us: u64,
    /// From when it was due to its end.
    took_us: u64,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum End {
    /// With this status.
    Answered(u16),
    /// Without a whole answer.
    Broken,
    /// Its client has waited long enough.
    GaveUp,
}

/// Returns when the last request has ended.
///
/// # Errors
/// When the file cannot be written.
pub(crate) async fn generate(options: Options) -> anyhow::Result<()> {
    let address = options.address;
    let samples = match options.load {
        Load::Closed { users, requests_per_user } => closed(address, users, requests_per_user).await?,
        Load::Open { requests_per_second, requests, patience_ms } => {
            let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
            let stop = async { terminate.recv().await };
            open(address, requests_per_second, requests, Duration::from_millis(patience_ms), stop).await?
        }
    };
    let path = &options.samples;
    std::fs::write(path, serde_json::to_vec(&samples)?)
        .with_context(|| format!("cannot write `{}`", path.display()))
}

async fn closed(address: SocketAddr, users: u64, per_user: u64) -> anyhow::Result<Vec<Sample>> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for user in 0..users {
        clients.spawn(async move {
            let http = client();
            let mut samples = Vec::new();
            for number in user * per_user..(user + 1) * per_user {
                let due = begin.elapsed();
                let end = exchange(&http, address, number).await;
                samples.push(sample(number, begin, due, due, end));
            }
            samples
        });
    }
    let mut samples = Vec::new();
    while let Some(user) = clients.join_next().await {
        samples.extend(user.context("a user was aborted")?);
    }
    Ok(samples)
}

async fn open<T>(
    address: SocketAddr,
    per_second: u32,
    count: u64,
    patience: Duration,
    stop: impl Future<Output = T>,
) -> anyhow::Result<Vec<Sample>> {
    let http = client();
    let begin = Instant::now();
    let mut stop = std::pin::pin!(stop);
    let mut requests = JoinSet::new();
    for number in 0..count {
        let due = Duration::from_secs_f64(number as f64 / f64::from(per_second));
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = sleep_until((begin + due).into()) => {}
        }
        let http = http.clone();
        requests.spawn(async move {
            let sent = begin.elapsed();
            let exchange = exchange(&http, address, number);
            let end = timeout_at((begin + due + patience).into(), exchange).await.unwrap_or(End::GaveUp);
            sample(number, begin, due, sent, end)
        });
    }
    let mut samples = Vec::new();
    while let Some(request) = requests.join_next().await {
        samples.push(request.context("a request was aborted")?);
    }
    Ok(samples)
}

fn sample(number: u64, begin: Instant, due: Duration, sent: Duration, end: End) -> Sample {
    let microseconds = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let took = begin.elapsed().saturating_sub(due);
    Sample {
        number,
        due_us: microseconds(due),
        sent_us: microseconds(sent),
        took_us: microseconds(took),
        end,
    }
}

type Http = Client<HttpConnector, Empty<Bytes>>;

fn client() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn exchange(http: &Http, address: SocketAddr, number: u64) -> End {
    let exchange = async {
        let response = http.get(format!("http://{address}/task/{number}").parse()?).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        anyhow::Ok(status)
    };
    exchange.await.map_or(End::Broken, End::Answered)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, future::pending};

    use axum::{Router, extract::Path, http::StatusCode, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    /// Number 1 is never answered, number 2 with an error.
    async fn application() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = async |Path(number): Path<u64>| match number {
            1 => pending().await,
            2 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        let router = Router::new().route("/task/{number}", get(answer));
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        address
    }

    fn numbers(samples: &[Sample]) -> BTreeSet<u64> {
        samples.iter().map(|sample| sample.number).collect()
    }

    #[tokio::test]
    async fn the_open_loop_waits_for_nobody_and_a_client_leaves_in_the_end() {
        let patience = Duration::from_millis(300);
        let mut samples = open(application().await, 1000, 5, patience, pending::<()>()).await.unwrap();
        samples.sort_by_key(|sample| sample.number);
        let ends: Vec<End> = samples.iter().map(|sample| sample.end.clone()).collect();
        let ok = End::Answered(200);
        assert_eq!(ends, [ok.clone(), End::GaveUp, End::Answered(503), ok.clone(), ok]);
        assert_eq!(samples[4].due_us, 4000);
        assert!(samples.iter().all(|sample| sample.sent_us >= sample.due_us));
        assert!(samples[1].took_us >= 300_000, "{}", samples[1].took_us);
    }

    #[tokio::test]
    async fn patience_counts_from_when_a_request_was_due() {
        let begun = Instant::now();
        // Nobody can begin these in time: the last is due when the first is, nearly.
        let samples =
            open(application().await, u32::MAX, 200, Duration::ZERO, pending::<()>()).await.unwrap();
        assert_eq!(samples.len(), 200);
        let elapsed_us = u64::try_from(begun.elapsed().as_micros()).unwrap();
        assert!(samples.iter().all(|sample| sample.due_us + sample.took_us <= elapsed_us));
        assert!(samples.iter().all(|sample| sample.took_us >= sample.sent_us - sample.due_us));
    }

    #[tokio::test]
    async fn a_stopped_open_loop_begins_no_request() {
        let address = application().await;
        assert_eq!(open(address, 1, 5, Duration::ZERO, async {}).await.unwrap(), []);
    }

    #[tokio::test]
    async fn users_of_the_closed_loop_share_the_numbers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = listener.local_addr().unwrap();
        drop(listener);
        let samples = closed(refused, 3, 4).await.unwrap();
        assert_eq!(numbers(&samples), (0..12).collect());
        assert!(samples.iter().all(|sample| sample.end == End::Broken && sample.sent_us == sample.due_us));
    }
}
