//! The HTTP listener for people and monitoring: the page, `/healthz`, `/readyz`, `/metrics` and JSON under `/api/`.
//!
//! In: GET requests. Out: answers from [`crate::query`]; mistakes are answered 400 with
//! `{"error":{"parameter","value","message"}}`. With a token, everything but the page and the two health checks needs it.

pub mod params;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use serde_json::json;

use crate::auth::Token;
use crate::clock::now_unix_nano;
use crate::otlp::Signal;
use crate::query::latency::{By, Question};
use crate::query::logs::{Filter, MAX_LIMIT};
use crate::query::page::Cursor;
use crate::query::{Pool, QueryError, latency, logs, senders, traces};
use crate::store::accounting;
use crate::writer::Shared;
use params::{InvalidParameter, Parameters};

const DEFAULT_LIMIT: usize = 100;
const DEFAULT_RANGE_NANOS: i64 = 3600 * 1_000_000_000;
const DEFAULT_STEP_SECONDS: i64 = 60;
const MAX_QUANTILES: usize = 16;
/// Each point of an answer names its quantiles as they were written.
const MAX_QUANTILE_BYTES: usize = 16;
const DEFAULT_METRIC: &str = "http.server.request.duration";
/// Before a trace's id.
const TRACES_PATH: &str = "/api/traces/";
const TRACE_ID: &str = "32 hexadecimal digits are allowed";
const CURSOR: &str = "what an answer gave as `next_cursor` is allowed";

/// What the API needs.
#[derive(Debug)]
pub struct Api {
    /// Runs queries.
    pub pool: Pool,
    /// What the writer tells.
    pub shared: Shared,
    /// Who may ask.
    pub token: Token,
}

type Answer = Result<Response<Body>, ApiError>;

/// The routes of the HTTP listener.
pub fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/accounting", get(accounting))
        .route("/api/logs", get(logs))
        .route("/api/latency", get(latency))
        .route("/api/senders", get(senders))
        .route("/api/traces/{trace_id}", get(trace))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), authorize));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .fallback(|| async { ApiError::NotFound })
        .with_state(api)
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error(transparent)]
    Parameter(#[from] InvalidParameter),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("the bearer token is missing or wrong")]
    Unauthorized,
    #[error("there is nothing here: `/` lists what there is")]
    NotFound,
    #[error("no span of trace `{0}` is stored")]
    UnknownTrace(String),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let message = self.to_string();
        let (status, error) = match self {
            Self::Parameter(InvalidParameter { name, value, .. }) => {
                (StatusCode::BAD_REQUEST, json!({"parameter": name, "value": value, "message": message}))
            }
            Self::Query(QueryError::TooLarge { .. }) => {
                (StatusCode::BAD_REQUEST, json!({"message": message}))
            }
            Self::Query(_) => (StatusCode::SERVICE_UNAVAILABLE, json!({"message": message})),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, json!({"message": message})),
            Self::NotFound | Self::UnknownTrace(_) => (StatusCode::NOT_FOUND, json!({"message": message})),
        };
        let mut response = json_response(status, json!({"error": error}).to_string());
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn answer(value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).map_err(|error| QueryError::Store(error.to_string()))?;
    Ok(json_response(StatusCode::OK, text))
}

async fn authorize(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response<Body> {
    if api.token.allows(request.headers()) {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    }
}

async fn page() -> Response<Body> {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("page.html")).into_response()
}

impl Api {
    /// Why requests are not taken now, if they are not.
    fn not_ready(&self) -> Option<&'static str> {
        if self.shared.admission.is_closed() {
            Some("shutting down\n")
        } else if !self.shared.writable.load(Ordering::Acquire) {
            Some("the database cannot be written\n")
        } else {
            None
        }
    }
}

async fn readyz(State(api): State<Arc<Api>>) -> Response<Body> {
    match api.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn metrics(State(api): State<Arc<Api>>) -> Response<Body> {
    let text = api.shared.metrics.render(api.not_ready().is_none(), now_unix_nano());
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

async fn accounting(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Answer {
    let mut parameters = Parameters::read(query.as_deref(), &["signal"])?;
    let allowed = "logs, metrics or traces is allowed";
    let signal = parameters.parsed("signal", allowed, Signal::from_name)?.unwrap_or(Signal::Logs);
    let totals = api.pool.run(move |connection| Ok(accounting::read(connection, signal)?)).await?;
    answer(&totals)
}

async fn senders(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Answer {
    Parameters::read(query.as_deref(), &[])?;
    answer(&api.pool.run(senders::list).await?)
}

async fn logs(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Answer {
    let filter = filter(query.as_deref())?;
    answer(&api.pool.run(move |connection| logs::page(connection, &filter)).await?)
}

/// The id is taken from the path as it came: what is allowed needs no decoding.
async fn trace(State(api): State<Arc<Api>>, uri: Uri, RawQuery(query): RawQuery) -> Answer {
    let text = uri.path().strip_prefix(TRACES_PATH).unwrap_or_default();
    let id = trace_id(text).ok_or_else(|| InvalidParameter {
        name: "trace_id".to_owned(),
        value: text.to_owned(),
        allowed: TRACE_ID.to_owned(),
    })?;
    let cursor = Parameters::read(query.as_deref(), &["cursor"])?.parsed("cursor", CURSOR, Cursor::parse)?;
    let trace = api.pool.run(move |connection| traces::trace(connection, id, cursor)).await?;
    if trace.spans.is_empty() && cursor.is_none() {
        return Err(ApiError::UnknownTrace(text.to_owned()));
    }
    answer(&trace)
}

async fn latency(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Answer {
    let question = question(query.as_deref(), now_unix_nano())?;
    answer(&api.pool.run(move |connection| latency::answer(connection, &question)).await?)
}

fn filter(query: Option<&str>) -> Result<Filter, InvalidParameter> {
    let names = [
        "from",
        "to",
        "status",
        "path",
        "route",
        "service",
        "min_duration_ms",
        "trace_id",
        "limit",
        "cursor",
    ];
    let mut parameters = Parameters::read(query, &names)?;
    let (from_unix_nano, to_unix_nano) = (parameters.time("from")?, parameters.time("to")?);
    params::ordered(from_unix_nano.unwrap_or(i64::MIN), to_unix_nano.unwrap_or(i64::MAX))?;
    Ok(Filter {
        from_unix_nano,
        to_unix_nano,
        status: parameters.parsed("status", "100 to 999, or a class such as 5xx, is allowed", status)?,
        path: parameters.text("path"),
        route: parameters.text("route"),
        service: parameters.text("service"),
        min_duration_ms: parameters.parsed(
            "min_duration_ms",
            "0 or a positive number is allowed",
            |text| text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0),
        )?,
        trace_id: parameters.parsed("trace_id", TRACE_ID, trace_id)?,
        cursor: parameters.parsed("cursor", CURSOR, Cursor::parse)?,
        limit: parameters
            .parsed("limit", "1 to 1000 is allowed", |text| {
                text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
            })?
            .unwrap_or(DEFAULT_LIMIT),
    })
}

fn status(text: &str) -> Option<(i64, i64)> {
    if let Some(class) = text.strip_suffix("xx") {
        let class: i64 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let code = text.parse().ok().filter(|code| (100..=999).contains(code))?;
    Some((code, code))
}

fn trace_id(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok())?.map(u128::to_be_bytes)
}

fn question(query: Option<&str>, now_unix_nano: i64) -> Result<Question, InvalidParameter> {
    let mut parameters = Parameters::read(query, &["from", "to", "step", "by", "q", "metric"])?;
    let to_unix_nano = parameters.time("to")?.unwrap_or(now_unix_nano);
    let from_unix_nano =
        parameters.time("from")?.unwrap_or_else(|| to_unix_nano.saturating_sub(DEFAULT_RANGE_NANOS));
    params::ordered(from_unix_nano, to_unix_nano)?;
    Ok(Question {
        metric: parameters.text("metric").unwrap_or_else(|| DEFAULT_METRIC.to_owned()),
        from_unix_nano,
        to_unix_nano,
        step_seconds: parameters
            .parsed("step", "1 to 31536000 whole seconds are allowed", |text| {
                text.parse().ok().filter(|step| (1..=31_536_000).contains(step))
            })?
            .unwrap_or(DEFAULT_STEP_SECONDS),
        by: parameters.parsed("by", "route, status, method or service is allowed", by)?,
        quantiles: parameters
            .parsed(
                "q",
                "1 to 16 numbers from 0 to 1, of at most 16 characters, separated by commas, are allowed",
                quantiles,
            )?
            .unwrap_or_else(|| [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)].map(own).into()),
    })
}

fn own((text, number): (&str, f64)) -> (String, f64) {
    (text.to_owned(), number)
}

fn by(text: &str) -> Option<By> {
    match text {
        "route" => Some(By::Route),
        "status" => Some(By::Status),
        "method" => Some(By::Method),
        "service" => Some(By::Service),
        _ => None,
    }
}

fn quantiles(text: &str) -> Option<Vec<(String, f64)>> {
    let numbers: Option<Vec<_>> = text
        .split(',')
        .map(|text| {
            let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number))?;
            (text.len() <= MAX_QUANTILE_BYTES).then(|| own((text, number)))
        })
        .collect();
    numbers.filter(|numbers| numbers.len() <= MAX_QUANTILES)
}
