//! The spans of one trace, in the order of their starts.
//!
//! In: a trace's id and a cursor. Out: its spans, from however many senders they came; of a trace that is larger than a
//! page, one page and the cursor of the next.

use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::QueryError;
use super::page::{Cursor, MAX_PAGE_BYTES};
use crate::clock::rfc3339;
use crate::otlp::value::hex;
use crate::store::TENANT;

/// A trace, or a page of it.
#[derive(Debug, Serialize)]
pub struct Trace {
    trace_id: String,
    /// The spans as JSON ([`Span`]), the earliest first.
    pub spans: Vec<Box<RawValue>>,
    /// Where the next page starts; `null` when this is the last.
    next_cursor: Option<String>,
}

/// One span, as the API answers it. What is absent is an empty string, as for log records.
#[derive(Debug, Serialize)]
pub struct Span {
    span_id: String,
    parent_span_id: String,
    trace_state: String,
    flags: u32,
    name: String,
    kind: String,
    start_time: String,
    end_time: Option<String>,
    status: Status,
    resource: Box<RawValue>,
    attributes: Box<RawValue>,
    events: Box<RawValue>,
    links: Box<RawValue>,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_attributes_count: u32,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_events_count: u32,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_links_count: u32,
}

#[derive(Debug, Serialize)]
struct Status {
    code: String,
    message: String,
}

/// Reads a trace from its beginning, or from `cursor` on.
///
/// # Errors
/// [`QueryError`].
pub fn trace(
    connection: &Connection,
    trace_id: [u8; 16],
    cursor: Option<Cursor>,
) -> Result<Trace, QueryError> {
    let from = cursor.unwrap_or(Cursor { time_unix_nano: i64::MIN, id: i64::MIN });
    let mut statement = connection.prepare_cached(
        "SELECT start_unix_nano, spans.id, span_id, parent_span_id, trace_state, flags, name, kind, end_unix_nano,
         status_code, status_message, resources.attributes, spans.attributes, events, links, dropped_attributes,
         dropped_events, dropped_links FROM spans JOIN resources ON resources.id = resource_id
         WHERE trace_id = ?1 AND tenant = ?2 AND (start_unix_nano, spans.id) > (?3, ?4)
         ORDER BY start_unix_nano, spans.id",
    )?;
    let mut rows = statement.query(params![trace_id, TENANT, from.time_unix_nano, from.id])?;
    let mut trace = Trace { trace_id: hex(&trace_id), spans: Vec::new(), next_cursor: None };
    let (mut last, mut bytes) = (None, 0_usize);
    while let Some(row) = rows.next()? {
        let span = to_raw_value(&span(row)?).map_err(unreadable)?;
        bytes = bytes.saturating_add(span.get().len());
        if last.is_some() && bytes > MAX_PAGE_BYTES {
            trace.next_cursor = last.map(Cursor::to_text);
            break;
        }
        last = Some(Cursor { time_unix_nano: row.get(0)?, id: row.get(1)? });
        trace.spans.push(span);
    }
    Ok(trace)
}

fn span(row: &Row<'_>) -> Result<Span, QueryError> {
    let text = |column| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    let json = |column| -> Result<Box<RawValue>, QueryError> {
        let text: Option<String> = row.get(column)?;
        RawValue::from_string(text.unwrap_or_else(|| "[]".to_owned())).map_err(unreadable)
    };
    Ok(Span {
        span_id: hex(&row.get::<_, Vec<u8>>(2)?),
        parent_span_id: hex(&row.get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default()),
        trace_state: text(4)?,
        flags: row.get(5)?,
        name: row.get(6)?,
        kind: kind(row.get(7)?),
        start_time: rfc3339(row.get(0)?),
        end_time: row.get::<_, Option<i64>>(8)?.map(rfc3339),
        status: Status { code: status_code(row.get(9)?), message: text(10)? },
        resource: json(11)?,
        attributes: json(12)?,
        events: json(13)?,
        links: json(14)?,
        dropped_attributes_count: row.get(15)?,
        dropped_events_count: row.get(16)?,
        dropped_links_count: row.get(17)?,
    })
}

fn unreadable(error: serde_json::Error) -> QueryError {
    QueryError::Store(format!("a stored span is not JSON: {error}"))
}

/// OTLP's name for a kind, `SERVER`; a number that this version of OTLP does not know stays one.
fn kind(number: i32) -> String {
    let kind = SpanKind::try_from(number).map(|kind| kind.as_str_name());
    kind.map_or_else(|_| number.to_string(), |name| name.trim_start_matches("SPAN_KIND_").to_owned())
}

/// OTLP's name for a status, `ERROR`; a number that this version of OTLP does not know stays one.
fn status_code(number: i32) -> String {
    let code = StatusCode::try_from(number).map(|code| code.as_str_name());
    code.map_or_else(|_| number.to_string(), |name| name.trim_start_matches("STATUS_CODE_").to_owned())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
