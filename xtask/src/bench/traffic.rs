//! The requests that are measured, and the order in which variants get them.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{h2load::H2load, paced::Paced};

/// How often, and how fast.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Load {
    /// How often each variant gets a turn
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Requests per second
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u32).range(100..=50000))]
    pub rate: u32,
}

/// Eight headers with the host, as an ordinary client sends them; `content-type` is there so that no field is missing.
pub const HEADERS: [&str; 7] = [
    "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept: application/json",
    "accept-language: en-GB,en;q=0.7",
    "accept-encoding: gzip, deflate, br",
    "content-type: application/json",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "referer: https://shop.example/orders",
];

/// The host that is asked for: as with most requests, without a port.
const HOST: &str = "shop.example";

/// Of so many requests, one fails: it is answered 503 by the application.
pub const ONE_FAILS_IN: u64 = 100;

/// How many connections [`generator`]'s load comes over.
const CLIENTS: u32 = 8;

/// How many connections [`paced`]'s load comes over: so many that hardly any request finds its own busy.
const PACED_CONNECTIONS: u32 = 64;

/// A load generator for [`HEADERS`] and paths with a number and a query; its files are in `folder`.
///
/// # Errors
/// When they cannot be written.
pub fn generator(folder: &Path) -> anyhow::Result<H2load> {
    H2load::new(HOST, &targets(), &HEADERS, CLIENTS, folder)
}

/// The same requests, for latencies.
#[must_use]
pub fn paced() -> Paced {
    Paced::new(HOST, &targets(), &HEADERS, PACED_CONNECTIONS)
}

fn targets() -> Vec<String> {
    (0..ONE_FAILS_IN)
        .map(|number| {
            let failure = if number == ONE_FAILS_IN / 2 { "&status=503" } else { "" };
            format!("/orders/{number}?page=2&sort=price{failure}")
        })
        .collect()
}

/// Routes by which Envoy answers [`generator`]'s requests itself, as the application would.
#[must_use]
pub fn direct_responses() -> Value {
    let answer = |status: u16, body: &str| json!({"status": status, "body": {"inline_string": body}});
    let fails = json!([{"name": "status", "string_match": {"exact": "503"}}]);
    json!([
        {
            "name": "orders",
            "match": {"prefix": "/", "query_parameters": fails},
            "direct_response": answer(503, "{\"ok\":false}\n"),
        },
        {"name": "orders", "match": {"prefix": "/"}, "direct_response": answer(200, "{\"ok\":true}\n")},
    ])
}

/// Numbers below `count` in an order that follows from `round`: the same in each run, another one in each round, so that
/// no variant always follows the same one.
#[must_use]
pub fn order(count: usize, round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::Rng::with_seed(round).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_each_variant_once_in_an_order_of_its_own() {
        let (first, second) = (order(20, 1), order(20, 2));
        assert_ne!(first, second);
        assert_eq!(first, order(20, 1));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
