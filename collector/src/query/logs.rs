//! Log records, newest first.
//!
//! In: filters and a cursor. Out: one page of records, and the cursor of the next.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, Row, params_from_iter};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::QueryError;
use super::page::{Cursor, MAX_PAGE_BYTES};
use crate::clock::rfc3339;
use crate::otlp::value::hex;

/// The largest page, in records.
pub const MAX_LIMIT: usize = 1000;

/// Which records are asked for; what is `None` does not filter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Not before this time.
    pub from_unix_nano: Option<i64>,
    /// Before this time.
    pub to_unix_nano: Option<i64>,
    /// Status codes, from and to, both included.
    pub status: Option<(i64, i64)>,
    /// The exact path.
    pub path: Option<String>,
    /// The exact route.
    pub route: Option<String>,
    /// The exact service.
    pub service: Option<String>,
    /// At least this slow.
    pub min_duration_ms: Option<f64>,
    /// The trace.
    pub trace_id: Option<[u8; 16]>,
    /// Records after this one, in the answer's order.
    pub cursor: Option<Cursor>,
    /// The size of a page.
    pub limit: usize,
}

/// One record, as the API answers it.
#[derive(Debug, Serialize)]
pub struct Record {
    time: String,
    trace_id: String,
    span_id: String,
    severity: String,
    body: Value,
    resource: Box<RawValue>,
    attributes: Box<RawValue>,
}

/// A page of records.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The records as JSON ([`Record`]), newest first.
    pub records: Vec<Box<RawValue>>,
    /// Where the next page starts; `null` when this is the last.
    pub next_cursor: Option<String>,
}

/// Reads one page.
///
/// # Errors
/// [`QueryError`].
pub fn page(connection: &Connection, filter: &Filter) -> Result<Page, QueryError> {
    let (sql, mut parameters) = select(filter);
    // One more than asked for tells whether there is a next page.
    parameters.push(SqlValue::from(i64::try_from(filter.limit).unwrap_or(i64::MAX).saturating_add(1)));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(parameters))?;
    let mut page = Page { records: Vec::new(), next_cursor: None };
    let (mut last, mut bytes) = (None, 0_usize);
    while let Some(row) = rows.next()? {
        let record = to_raw_value(&record(row)?).map_err(unreadable)?;
        bytes = bytes.saturating_add(record.get().len());
        if page.records.len() == filter.limit || (last.is_some() && bytes > MAX_PAGE_BYTES) {
            page.next_cursor = last.map(Cursor::to_text);
            break;
        }
        last = Some(Cursor { time_unix_nano: row.get(0)?, id: row.get(1)? });
        page.records.push(record);
    }
    Ok(page)
}

fn select(filter: &Filter) -> (String, Vec<SqlValue>) {
    let (mut conditions, mut parameters) = (Vec::new(), Vec::new());
    let mut add = |condition: &'static str, values: Vec<SqlValue>| {
        conditions.push(condition);
        parameters.extend(values);
    };
    if let Some(cursor) = filter.cursor {
        add("(time_unix_nano, logs.id) < (?, ?)", vec![cursor.time_unix_nano.into(), cursor.id.into()]);
    }
    if let Some(from) = filter.from_unix_nano {
        add("time_unix_nano >= ?", vec![from.into()]);
    }
    if let Some(to) = filter.to_unix_nano {
        add("time_unix_nano < ?", vec![to.into()]);
    }
    if let Some((from, to)) = filter.status {
        add("status BETWEEN ? AND ?", vec![from.into(), to.into()]);
    }
    if let Some(path) = &filter.path {
        add("path = ?", vec![path.clone().into()]);
    }
    if let Some(route) = &filter.route {
        add("route = ?", vec![route.clone().into()]);
    }
    if let Some(service) = &filter.service {
        add("service = ?", vec![service.clone().into()]);
    }
    if let Some(milliseconds) = filter.min_duration_ms {
        add("duration_seconds >= ?", vec![(milliseconds / 1000.0).into()]);
    }
    if let Some(trace_id) = filter.trace_id {
        add("trace_id = ?", vec![trace_id.to_vec().into()]);
    }
    let condition = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
    let sql = format!(
        "SELECT time_unix_nano, logs.id, trace_id, span_id, severity_number, severity_text, body, body_json,
         resources.attributes, logs.attributes FROM logs JOIN resources ON resources.id = resource_id
         WHERE {condition} ORDER BY time_unix_nano DESC, logs.id DESC LIMIT ?"
    );
    (sql, parameters)
}

fn record(row: &Row<'_>) -> Result<Record, QueryError> {
    let body: (Option<String>, Option<String>) = (row.get(6)?, row.get(7)?);
    let body = match body {
        (Some(text), _) => Value::from(text),
        (None, Some(json)) => serde_json::from_str(&json).map_err(unreadable)?,
        (None, None) => Value::Null,
    };
    Ok(Record {
        time: rfc3339(row.get(0)?),
        trace_id: hex(&row.get::<_, Option<Vec<u8>>>(2)?.unwrap_or_default()),
        span_id: hex(&row.get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default()),
        severity: severity(row.get(4)?, row.get(5)?),
        body,
        resource: RawValue::from_string(row.get(8)?).map_err(unreadable)?,
        attributes: RawValue::from_string(row.get(9)?).map_err(unreadable)?,
    })
}

fn unreadable(error: serde_json::Error) -> QueryError {
    QueryError::Store(format!("a stored record is not JSON: {error}"))
}

/// The sender's own text, or the short name that OTLP gives the number.
fn severity(number: i64, text: Option<String>) -> String {
    let name = match number {
        1..=4 => "TRACE",
        5..=8 => "DEBUG",
        9..=12 => "INFO",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        21..=24 => "FATAL",
        _ => "",
    };
    text.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory;

    #[test]
    fn the_records_of_a_trace_are_found_by_its_index() {
        let connection = in_memory();
        let filter =
            Filter { trace_id: Some([1; 16]), from_unix_nano: Some(1), limit: 100, ..Filter::default() };
        let (sql, mut parameters) = select(&filter);
        parameters.push(SqlValue::from(101));
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let plan = plan.query_map(params_from_iter(parameters), |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<String> = plan.map(Result::unwrap).collect();
        assert!(plan[0].contains("USING INDEX logs_by_trace (trace_id=?)"), "{plan:?}");
    }
}
