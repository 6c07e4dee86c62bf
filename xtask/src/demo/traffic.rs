//! What the demo's clients ask for: a small shop, in which most goes well, some is slow, and some fails.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request};
use tokio::task::JoinSet;

use crate::harness::load::{self, Client};

const CLIENTS: usize = 8;

/// What some requests carry as a parameter that the plugin redacts.
pub(super) const SECRET: &str = "not-for-the-database";

/// Request `n` of a counted run: its number is in its query, and what it asks for follows from it.
pub(super) fn numbered(n: u64) -> anyhow::Result<Request<Empty<Bytes>>> {
    let target = match n % 20 {
        0 => format!("/orders/{n}?status=404&n={n}"),
        1 => format!("/orders/{n}?status=503&n={n}"),
        2 => format!("/reports/daily?delay_ms=5&n={n}"),
        3 => format!("/login?token={SECRET}&n={n}"),
        _ => format!("/orders/{n}?n={n}"),
    };
    load::get(&target)
}

/// Sends light traffic until it is dropped: about 30 requests a second.
///
/// # Errors
/// When Envoy does not answer.
pub(super) async fn run(address: SocketAddr) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut client = Client::connect(address).await?;
            loop {
                client.send(any()?).await?;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))).await;
            }
        });
    }
    match clients.join_next().await {
        Some(ended) => ended.context("a client was aborted")?,
        None => Ok(()),
    }
}

/// One request, by chance.
fn any() -> anyhow::Result<Request<Empty<Bytes>>> {
    let (id, quick) = (fastrand::u32(1..5000), fastrand::u32(1..25));
    let (method, target) = match fastrand::u32(0..100) {
        0..50 => (Method::GET, format!("/orders/{id}?delay_ms={quick}")),
        50..65 => (Method::POST, format!("/orders?status=201&delay_ms={}", 2 * quick)),
        65..80 => (Method::GET, format!("/reports/{id}?delay_ms={}", 80 + 12 * quick)),
        80..82 => (Method::GET, "/reports/yearly?delay_ms=1500".to_owned()),
        82..88 => (Method::GET, format!("/orders/{id}?status=404")),
        88..92 => (Method::GET, "/old-page?status=301".to_owned()),
        92..95 => (Method::GET, "/search?q=lamp&status=400".to_owned()),
        95..98 => (Method::GET, format!("/orders/{id}?status=503&delay_ms={quick}")),
        98 => (Method::GET, format!("/reports/{id}?end=reset")),
        _ => (Method::DELETE, format!("/orders/{id}?status=500")),
    };
    let mut request = load::get(&target)?;
    *request.method_mut() = method;
    Ok(request)
}
