//! The demo that ends: N numbered requests, and then the database is asked for each of them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{bail, ensure};
use tokio::time::{Instant, sleep};

use crate::{
    demo::{stage::Stage, traffic},
    harness::{collector, envoy, load},
};

/// As in a browser or a service mesh: a few connections, kept alive, with many requests.
const CONNECTIONS: usize = 16;

/// How long the numbers may stand still before the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(stage: &Stage, requests: u64) -> anyhow::Result<()> {
    println!("sending {requests} requests over {CONNECTIONS} connections");
    let begin = Instant::now();
    let statuses = load::keep_alive(stage.envoy.address(), CONNECTIONS, requests, traffic::numbered).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let statuses: Vec<String> =
        statuses.iter().map(|(status, count)| format!("{count} × {status}")).collect();
    println!("answered in {seconds:.1} s: {}", statuses.join(", "));

    let (envoy, collector) = settle(stage, requests).await?;
    let records = stage.collector.logs("").await?;
    let found = count_numbers(&records);
    print!("{}", summary(requests, &envoy, &collector, &found));
    verdict(requests, &envoy, &collector, &found)?;
    no_secrets(&records)?;
    println!("all {requests} requests are in the database, each once, and no secret is");
    Ok(())
}

/// Waits until all are stored, or nothing moves any more.
async fn settle(stage: &Stage, requests: u64) -> anyhow::Result<(envoy::Accounting, collector::Accounting)> {
    let mut last = None;
    let mut moved = Instant::now();
    loop {
        let now = (stage.envoy.accounting().await?, stage.collector.accounting().await?);
        let done = now.0.pending == 0 && now.1.queued == 0 && now.1.stored >= requests;
        if done || moved.elapsed() > PATIENCE {
            return Ok(now);
        }
        if last.as_ref() != Some(&now) {
            moved = Instant::now();
            last = Some(now);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// How often each request's number is in the database.
fn count_numbers(records: &[collector::LogRecord]) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    for number in records.iter().filter_map(|record| record.query_parameter("n")?.parse().ok()) {
        *found.entry(number).or_insert(0) += 1;
    }
    found
}

fn summary(
    requests: u64,
    envoy: &envoy::Accounting,
    collector: &collector::Accounting,
    found: &BTreeMap<u64, u64>,
) -> String {
    format!(
        "
requests sent       {requests:>8}
Envoy   captured    {:>8}
        delivered   {:>8}
        dropped     {:>8}  {:?}
        pending     {:>8}
store   received    {:>8}
        stored      {:>8}
        deduplicated{:>8}
        dead letters{:>8}
        distinct    {:>8}
",
        envoy.captured,
        envoy.delivered,
        envoy.dropped_total(),
        envoy.dropped,
        envoy.pending,
        collector.received,
        collector.stored,
        collector.deduplicated,
        collector.dead_lettered,
        found.len(),
    )
}

fn verdict(
    requests: u64,
    envoy: &envoy::Accounting,
    collector: &collector::Accounting,
    found: &BTreeMap<u64, u64>,
) -> anyhow::Result<()> {
    let missing: Vec<u64> = (0..requests).filter(|number| !found.contains_key(number)).collect();
    let twice: Vec<u64> = found.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect();
    if !missing.is_empty() {
        bail!(
            "{} of {requests} requests are not in the database, among them {:?}",
            missing.len(),
            first(&missing)
        );
    }
    if !twice.is_empty() {
        bail!("{} requests are in the database more than once, among them {:?}", twice.len(), first(&twice));
    }
    ensure!(
        collector.stored == requests,
        "the database has {} records for {requests} requests",
        collector.stored
    );
    ensure!(envoy.balances(), "the plugin's accounting does not balance: {envoy:?}");
    Ok(())
}

/// Some requests carried one, so that its absence says something.
fn no_secrets(records: &[collector::LogRecord]) -> anyhow::Result<()> {
    let telling: Vec<&str> = records
        .iter()
        .filter(|record| record.contains(traffic::SECRET))
        .map(|record| record.time.as_str())
        .collect();
    ensure!(
        telling.is_empty(),
        "{} records hold the value of `token`, which is to be redacted, among them those of {:?}",
        telling.len(),
        telling.get(..10).unwrap_or(&telling)
    );
    Ok(())
}

fn first(numbers: &[u64]) -> &[u64] {
    numbers.get(..10).unwrap_or(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(requests: u64) -> (envoy::Accounting, collector::Accounting) {
        (
            envoy::Accounting { captured: requests, delivered: requests, ..Default::default() },
            collector::Accounting {
                received: requests,
                stored: requests,
                deduplicated: 0,
                dead_lettered: 0,
                queued: 0,
            },
        )
    }

    #[test]
    fn every_request_once_is_a_success() {
        let (envoy, collector) = stored(3);
        verdict(3, &envoy, &collector, &BTreeMap::from([(0, 1), (1, 1), (2, 1)])).unwrap();
    }

    #[test]
    fn a_missing_request_is_a_failure_even_if_the_counts_agree() {
        let (envoy, collector) = stored(3);
        let error = verdict(3, &envoy, &collector, &BTreeMap::from([(0, 1), (2, 2)])).unwrap_err();
        assert!(
            error.to_string().contains("1 of 3 requests are not in the database, among them [1]"),
            "{error}"
        );
    }

    #[test]
    fn a_secret_in_a_record_is_a_failure() {
        let mut record = collector::LogRecord {
            attributes: BTreeMap::from([("url.query".to_owned(), "token=REDACTED&n=3".into())]),
            ..collector::LogRecord::default()
        };
        no_secrets(std::slice::from_ref(&record)).unwrap();
        record.body = format!("GET /login?token={} 200 1ms", traffic::SECRET).into();
        no_secrets(&[record]).unwrap_err();
    }

    #[test]
    fn a_request_stored_twice_is_a_failure() {
        let (envoy, collector) = stored(2);
        let error = verdict(2, &envoy, &collector, &BTreeMap::from([(0, 1), (1, 2)])).unwrap_err();
        assert!(error.to_string().contains("more than once, among them [1]"), "{error}");
    }
}
