//! The application behind Envoy. A request says in its query how it wants to be answered, so that its path can be any:
//! `/orders/7?status=503`, `?delay_ms=300`, `?end=reset` (closes instead of answering), `?end=truncate` (closes within).

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
};

use crate::harness::server::{Answer, Server};

/// A running application.
#[derive(Debug)]
pub struct Upstream {
    server: Server,
}

impl Upstream {
    /// Starts it, in this process.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> anyhow::Result<Self> {
        Ok(Self { server: Server::start(|_| true, answer).await? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

async fn answer(request: Request<Incoming>) -> io::Result<Answer> {
    let mut status = StatusCode::OK;
    let mut end = None;
    for (key, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match key.as_ref() {
            "status" => status = value.parse().unwrap_or(StatusCode::BAD_REQUEST),
            "delay_ms" => tokio::time::sleep(Duration::from_millis(value.parse().unwrap_or(0))).await,
            "end" => end = Some(value.into_owned()),
            _ => {}
        }
    }
    request.into_body().collect().await.map_err(io::Error::other)?;
    match end.as_deref() {
        Some("reset") => Err(io::Error::other("the request asked for a reset")),
        Some("truncate") => Ok(truncated(status)),
        _ => Ok(whole(status)),
    }
}

fn whole(status: StatusCode) -> Answer {
    let mut response =
        Response::new(Full::new(Bytes::from_static(b"{\"ok\":true}\n")).map_err(io::Error::other).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// Sends the head and a part of the body, and only then closes.
fn truncated(status: StatusCode) -> Answer {
    let part = Frame::data(Bytes::from_static(b"{\"ok\":"));
    let frames = stream::once(async { Ok(part) }).chain(stream::once(async {
        // Lets the server write what it has.
        tokio::task::yield_now().await;
        Err(io::Error::other("the request asked for a truncated answer"))
    }));
    let mut response = Response::new(BoxBody::new(StreamBody::new(frames)));
    *response.status_mut() = status;
    response
}
