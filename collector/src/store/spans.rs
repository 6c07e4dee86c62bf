//! Spans as rows.
//!
//! In: one `Span` at a time, its ids checked, with its resource. Out: a row with typed columns for what tells it apart
//! and where it belongs, and its attributes, events and links as JSON under OTLP's names. A span that does not fit a
//! row is refused with a reason, for the dead-letter store.

use opentelemetry_proto::tonic::trace::v1::{Span, span};
use rusqlite::{Connection, params};
use serde::Serialize;

use super::logs::{Origin, json, nanos, not_empty};
use super::{StoreError, TENANT};
use crate::clock::rfc3339;
use crate::otlp::traces::id;
use crate::otlp::value::{Attributes, attributes, hex};

/// Writes one span.
///
/// # Errors
/// [`StoreError::Refused`] when it does not fit a row, otherwise what the database says.
pub fn insert(connection: &Connection, origin: &Origin, span: &Span) -> Result<(), StoreError> {
    let start = nanos("startTimeUnixNano", span.start_time_unix_nano)?;
    let end = nanos("endTimeUnixNano", span.end_time_unix_nano)?;
    let status = span.status.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO spans (tenant, resource_id, scope, trace_id, span_id, parent_span_id, trace_state, flags, name,
             kind, start_unix_nano, end_unix_nano, service, status_code, status_message, attributes, events, links,
             dropped_attributes, dropped_events, dropped_links)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )?
        .execute(params![
            TENANT,
            origin.resource_id,
            origin.scope,
            span.trace_id,
            span.span_id,
            id(&span.parent_span_id, 8),
            not_empty(&span.trace_state),
            span.flags,
            span.name,
            span.kind,
            // Zero means unknown: as for log records, the next best time keeps it in its place.
            start.or(end).unwrap_or(origin.received_unix_nano),
            end,
            origin.service,
            status.map_or(0, |status| status.code),
            status.and_then(|status| not_empty(&status.message)),
            json(&attributes(&span.attributes))?,
            list(span.events.iter().map(Event::of))?,
            list(span.links.iter().map(|link| Ok(Link::of(link))))?,
            span.dropped_attributes_count,
            span.dropped_events_count,
            span.dropped_links_count,
        ])?;
    Ok(())
}

/// One event, as it is stored and answered.
#[derive(Serialize)]
struct Event<'a> {
    time: Option<String>,
    name: &'a str,
    attributes: Attributes,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_attributes_count: u32,
}

impl<'a> Event<'a> {
    fn of(event: &'a span::Event) -> Result<Self, StoreError> {
        Ok(Self {
            time: nanos("timeUnixNano of an event", event.time_unix_nano)?.map(rfc3339),
            name: &event.name,
            attributes: attributes(&event.attributes),
            dropped_attributes_count: event.dropped_attributes_count,
        })
    }
}

/// One link, as it is stored and answered.
#[derive(Serialize)]
struct Link<'a> {
    trace_id: String,
    span_id: String,
    trace_state: &'a str,
    flags: u32,
    attributes: Attributes,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_attributes_count: u32,
}

impl<'a> Link<'a> {
    fn of(link: &'a span::Link) -> Self {
        Self {
            trace_id: hex(&link.trace_id),
            span_id: hex(&link.span_id),
            trace_state: &link.trace_state,
            flags: link.flags,
            attributes: attributes(&link.attributes),
            dropped_attributes_count: link.dropped_attributes_count,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A list as JSON, or nothing when it is empty.
fn list<T: Serialize>(
    items: impl ExactSizeIterator<Item = Result<T, StoreError>>,
) -> Result<Option<String>, StoreError> {
    if items.len() == 0 {
        return Ok(None);
    }
    let items = items.collect::<Result<Vec<T>, _>>()?;
    match serde_json::to_string(&items) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(StoreError::Refused(error.to_string())),
    }
}
