//! Log records as rows.
//!
//! In: one `LogRecord` at a time, with its resource. Out: a row with typed columns for what people filter by, which
//! [`dialect`](crate::otlp::dialect) reads in whatever way the record tells it, and all attributes as JSON under the names
//! that they came with. A record that does not fit a row is refused with a reason, for the dead-letter store.

use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::{StoreError, TENANT};
use crate::otlp::dialect::Request;
use crate::otlp::value::{Attributes, attributes, optional};

/// What the records of one scope have in common.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The row of the resource's attributes.
    pub resource_id: i64,
    /// `service.name` of the resource, or what stands for it.
    pub service: Option<String>,
    /// The scope's name.
    pub scope: Option<String>,
    /// When the collector received them.
    pub received_unix_nano: i64,
}

/// Writes one record.
///
/// # Errors
/// [`StoreError::Refused`] when it does not fit a row, otherwise what the database says.
pub fn insert(connection: &Connection, origin: &Origin, record: &LogRecord) -> Result<(), StoreError> {
    let time = nanos("timeUnixNano", record.time_unix_nano)?;
    let observed = nanos("observedTimeUnixNano", record.observed_time_unix_nano)?;
    let attributes = attributes(&record.attributes);
    let request = Request::of(record, &attributes);
    let (body, body_json) = body(record);
    connection
        .prepare_cached(
            "INSERT INTO logs (tenant, resource_id, scope, time_unix_nano, observed_unix_nano, trace_id, span_id,
             severity_number, severity_text, event_name, service, method, path, route, status, duration_seconds,
             body, body_json, attributes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
        )?
        .execute(params![
            TENANT,
            origin.resource_id,
            origin.scope,
            // Zero means unknown: then the time at which somebody saw it, or we did, is the best there is.
            time.or(observed).unwrap_or(origin.received_unix_nano),
            observed,
            request.trace_id,
            request.span_id,
            record.severity_number,
            not_empty(&record.severity_text),
            not_empty(&record.event_name),
            origin.service,
            request.method,
            request.path,
            request.route,
            request.status,
            request.duration_seconds,
            body,
            body_json,
            json(&attributes)?,
        ])?;
    Ok(())
}

/// Attributes as the JSON text that is stored.
///
/// # Errors
/// [`StoreError::Refused`], when they cannot be written as JSON.
pub fn json(attributes: &Attributes) -> Result<String, StoreError> {
    serde_json::to_string(attributes).map_err(|error| StoreError::Refused(error.to_string()))
}

/// The attribute `name`, when it is text.
#[must_use]
pub fn text<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a str> {
    attributes.get(name).and_then(Value::as_str)
}

pub(super) fn nanos(name: &str, nanos: u64) -> Result<Option<i64>, StoreError> {
    match i64::try_from(nanos) {
        Ok(0) => Ok(None),
        Ok(nanos) => Ok(Some(nanos)),
        Err(_) => Err(StoreError::Refused(format!(
            "{name} `{nanos}` is out of range: at most {} (the year 2262) is allowed",
            i64::MAX
        ))),
    }
}

pub(super) fn not_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn body(record: &LogRecord) -> (Option<&str>, Option<String>) {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        None => (None, None),
        Some(any_value::Value::StringValue(text)) => (Some(text), None),
        Some(_) => (None, Some(optional(record.body.as_ref()).to_string())),
    }
}
