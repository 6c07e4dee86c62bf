//! JSON and text over HTTP, for Envoy's admin port and the collector's query API.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// How long an answer may take; a busy machine is slow, a broken one never answers.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Api {
    /// Of the server at `address`. Nothing is connected yet.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One request without a body, and its answer whatever the status.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn send(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri = format!("http://{}{path}", self.address);
        let request = Request::builder()
            .method(method)
            .uri(&uri)
            .body(Full::default())
            .with_context(|| format!("not a request: `{uri}`"))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        timeout(DEADLINE, exchange)
            .await
            .with_context(|| format!("no answer in time from `{uri}`"))?
            .with_context(|| format!("no answer from `{uri}`"))
    }

    /// The body of a successful answer, as text.
    ///
    /// # Errors
    /// When there is no answer, its status is not 2xx, or it is not UTF-8.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let (status, body) = self.send(Method::GET, path).await?;
        let body = String::from_utf8(body.to_vec())
            .with_context(|| format!("the answer to `{path}` is not UTF-8"))?;
        ensure!(status.is_success(), "`http://{}{path}` answers {status}: {body}", self.address);
        Ok(body)
    }

    /// The body of a successful answer, read as JSON.
    ///
    /// # Errors
    /// As [`Api::text`], and when the JSON is not a `T`.
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.text(path).await?;
        serde_json::from_str(&body).with_context(|| format!("unexpected answer to `{path}`: {body}"))
    }
}
