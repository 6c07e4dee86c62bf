//! The application behind Envoy. A request says in its query how it wants to be answered, so that its path can be any:
//! `/orders/7?status=503`, `?delay_ms=300`, `?end=reset` (closes instead of answering), `?end=truncate` (closes within).
//! With `?grpc_trailers=14` it answers a gRPC call, with the status in the trailers; with `?grpc_headers=14` there are only
//! headers, which have the status.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{self, HeaderName},
};

use crate::harness::server::{Answer, Server};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

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
    let (mut end, mut grpc) = (None, None);
    for (key, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match key.as_ref() {
            "status" => status = value.parse().unwrap_or(StatusCode::BAD_REQUEST),
            "delay_ms" => tokio::time::sleep(Duration::from_millis(value.parse().unwrap_or(0))).await,
            "end" => end = Some(value.into_owned()),
            "grpc_trailers" => grpc = Some(grpc_with_trailers(&value)),
            "grpc_headers" => grpc = Some(grpc_without_body(&value)),
            _ => {}
        }
    }
    request.into_body().collect().await.map_err(io::Error::other)?;
    if let Some(answer) = grpc {
        return answer.map_err(io::Error::other);
    }
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

/// An empty message, and the status after it; none where it is empty.
fn grpc_with_trailers(status: &str) -> Result<Answer, hyper::http::Error> {
    let mut frames = vec![Ok(Frame::data(Bytes::from_static(&[0; 5])))];
    if !status.is_empty() {
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, header::HeaderValue::from_str(status)?)]);
        frames.push(Ok(Frame::trailers(trailers)));
    }
    grpc().body(BoxBody::new(StreamBody::new(stream::iter(frames))))
}

/// What gRPC calls trailers-only.
fn grpc_without_body(status: &str) -> Result<Answer, hyper::http::Error> {
    grpc().header(GRPC_STATUS, status).body(Empty::new().map_err(io::Error::other).boxed())
}

fn grpc() -> hyper::http::response::Builder {
    Response::builder().header(header::CONTENT_TYPE, "application/grpc")
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
