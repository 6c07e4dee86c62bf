//! Latency over time, from the merged exponential histograms.
//!
//! In: a metric, a time range, a step and what to tell apart. Out: for each key and step the count, rate, errors,
//! quantiles, and exemplars, from which a trace is found. Intervals belong to the step in which they end, since a sender's
//! interval may reach over several; merging is exact, so that quantiles are as good over a week as over one interval.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::QueryError;
use crate::clock::rfc3339;
use crate::distribution::Distribution;
use crate::otlp::exemplars::{Exemplar, Exemplars};
use crate::otlp::value::hex;
use crate::store::{TENANT, exemplars};

/// The most points in one answer, over all series.
pub const MAX_POINTS: usize = 20_000;

/// The most memory that histograms, their exemplars and keys take while they are merged: all points with 160 buckets, and
/// some.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a bucket takes: its index and its count, aligned.
const BUCKET_BYTES: usize = 16;
/// What exemplars take, however many there are: all of them fit into one node of a map.
const EXEMPLARS_BYTES: usize = 640;

const NANOS: i64 = 1_000_000_000;

/// What tells series apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `http.route`.
    Route,
    /// `http.response.status_code`.
    Status,
    /// `http.request.method`.
    Method,
    /// `service.name` of the resource.
    Service,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The metric's name.
    pub metric: String,
    /// From this time on.
    pub from_unix_nano: i64,
    /// Up to this time.
    pub to_unix_nano: i64,
    /// The width of a point.
    pub step_seconds: i64,
    /// What tells series apart; without it there is one.
    pub by: Option<By>,
    /// The quantiles, as they were written and as numbers.
    pub quantiles: Vec<(String, f64)>,
}

/// All series.
#[derive(Debug, Serialize)]
pub struct Answer {
    series: Vec<Series>,
}

#[derive(Debug, Serialize)]
struct Series {
    key: String,
    points: Vec<Point>,
}

#[derive(Debug, Serialize)]
struct Point {
    time: String,
    count: u64,
    rate: f64,
    errors: u64,
    quantiles: BTreeMap<String, Option<f64>>,
    exemplars: Vec<Request>,
}

/// An exemplar, as it is answered.
#[derive(Debug, Serialize)]
struct Request {
    time: String,
    value: f64,
    trace_id: String,
    span_id: String,
}

impl Request {
    fn of(exemplar: &Exemplar) -> Self {
        Self {
            time: rfc3339(exemplar.time_unix_nano),
            value: exemplar.value,
            trace_id: hex(&exemplar.trace_id),
            span_id: exemplar.span_id.map(|id| hex(&id)).unwrap_or_default(),
        }
    }
}

/// The measurements of one key and step.
#[derive(Default)]
struct Cell {
    distribution: Distribution,
    errors: u64,
    exemplars: Exemplars,
}

type Cells = BTreeMap<(String, i64), Cell>;

impl Cell {
    fn bytes(&self) -> usize {
        let buckets = self.distribution.positive.len().saturating_add(self.distribution.negative.len());
        let exemplars = if self.exemplars.is_empty() { 0 } else { EXEMPLARS_BYTES };
        buckets.saturating_mul(BUCKET_BYTES).saturating_add(exemplars)
    }
}

/// Merges and answers.
///
/// # Errors
/// [`QueryError`].
pub fn answer(connection: &Connection, question: &Question) -> Result<Answer, QueryError> {
    // One view of the database: no exemplar is of a request that is not counted.
    let _snapshot = connection.unchecked_transaction()?;
    let cells = cells(connection, question, MAX_BYTES)?;
    let mut series: Vec<Series> = Vec::new();
    for ((key, step), cell) in cells {
        let point = point(question, step, &cell);
        match series.last_mut() {
            Some(last) if last.key == key => last.points.push(point),
            _ => series.push(Series { key, points: vec![point] }),
        }
    }
    Ok(Answer { series })
}

impl Question {
    /// The column of `metric_streams` that tells series apart.
    fn key(&self) -> &'static str {
        match self.by {
            None => "''",
            Some(By::Route) => "coalesce(route, '')",
            Some(By::Status) => "coalesce(CAST(status AS TEXT), '')",
            Some(By::Method) => "coalesce(method, '')",
            Some(By::Service) => "coalesce(service, '')",
        }
    }

    /// The step in which an interval ends. Its end is part of it: one that ends with a step is that step's.
    fn step(&self, end_unix_nano: i64) -> i64 {
        end_unix_nano.saturating_sub(1).div_euclid(self.step_seconds.saturating_mul(NANOS))
    }
}

fn cells(connection: &Connection, question: &Question, max_bytes: usize) -> Result<Cells, QueryError> {
    let column = question.key();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {column}, metric_points.time_unix_nano, is_error, metric_points.distribution
         FROM metric_points JOIN metric_streams ON metric_streams.id = stream_id
         WHERE metric_points.time_unix_nano > ?1 AND metric_points.time_unix_nano <= ?2
         AND tenant = ?3 AND metric = ?4"
    ))?;
    let mut rows =
        statement.query(params![question.from_unix_nano, question.to_unix_nano, TENANT, question.metric])?;
    let mut cells = Cells::new();
    let mut taken = 0_usize;
    while let Some(row) = rows.next()? {
        let step = question.step(row.get(1)?);
        let (is_error, bytes): (bool, Vec<u8>) = (row.get(2)?, row.get(3)?);
        let distribution = Distribution::from_bytes(&bytes)
            .map_err(|error| QueryError::Store(format!("a stored distribution is unreadable: {error}")))?;
        let many = cells.len() >= MAX_POINTS;
        let cell = match cells.entry((row.get(0)?, step)) {
            Entry::Vacant(_) if many => {
                return Err(QueryError::TooLarge { limit: MAX_POINTS, what: "points" });
            }
            Entry::Vacant(place) => {
                taken = taken.saturating_add(place.key().0.len());
                place.insert(Cell::default())
            }
            Entry::Occupied(place) => place.into_mut(),
        };
        let before = cell.bytes();
        if is_error {
            cell.errors = cell.errors.saturating_add(distribution.count());
        }
        cell.distribution.merge(&distribution);
        taken = taken.saturating_sub(before).saturating_add(cell.bytes());
        if taken > max_bytes {
            return Err(too_many_bytes(max_bytes));
        }
    }
    add_exemplars(connection, question, &mut cells)?;
    if cells.iter().map(|((key, _), cell)| key.len() + cell.bytes()).sum::<usize>() > max_bytes {
        return Err(too_many_bytes(max_bytes));
    }
    Ok(cells)
}

fn too_many_bytes(limit: usize) -> QueryError {
    QueryError::TooLarge { limit, what: "bytes of histograms and keys" }
}

/// The slowest requests of each cell; at most as many as there are parts of the range, so that a cell stays small while it
/// takes them in.
fn add_exemplars(connection: &Connection, question: &Question, cells: &mut Cells) -> Result<(), QueryError> {
    let column = question.key();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {column}, point_unix_nano, exemplars.time_unix_nano, value, trace_id, span_id
         FROM exemplars JOIN metric_streams ON metric_streams.id = stream_id
         WHERE minute BETWEEN ?1 AND ?2 AND point_unix_nano > ?3 AND point_unix_nano <= ?4
         AND tenant = ?5 AND metric = ?6"
    ))?;
    let (from, to) = (question.from_unix_nano, question.to_unix_nano);
    let mut rows = statement.query(params![
        exemplars::minute(from),
        exemplars::minute(to),
        from,
        to,
        TENANT,
        question.metric
    ])?;
    while let Some(row) = rows.next()? {
        if let Some(cell) = cells.get_mut(&(row.get(0)?, question.step(row.get(1)?))) {
            cell.exemplars.offer(Exemplar {
                time_unix_nano: row.get(2)?,
                value: row.get(3)?,
                trace_id: row.get(4)?,
                span_id: row.get(5)?,
            });
        }
    }
    Ok(())
}

fn point(question: &Question, step: i64, cell: &Cell) -> Point {
    let width = question.step_seconds.saturating_mul(NANOS);
    let start = step.saturating_mul(width);
    // The first and the last step may lie in the time range only in part.
    let seen_from = start.max(question.from_unix_nano);
    let seen_to = start.saturating_add(width).min(question.to_unix_nano);
    let seconds = seen_to.saturating_sub(seen_from).max(1) as f64 / NANOS as f64;
    let count = cell.distribution.count();
    let quantiles = &question.quantiles;
    Point {
        time: rfc3339(start),
        count,
        rate: count as f64 / seconds,
        errors: cell.errors,
        quantiles: quantiles.iter().map(|(text, q)| (text.clone(), cell.distribution.quantile(*q))).collect(),
        exemplars: cell.exemplars.slowest_first().map(|(_, exemplar)| Request::of(exemplar)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory;

    /// Whether points of one second each, all of them of the same route and distribution, take at most 1600 bytes.
    fn fits(points: i64, route_bytes: i64, distribution: &Distribution) -> bool {
        let connection = in_memory();
        connection.execute("INSERT INTO resources (id, attributes) VALUES (1, '{}')", []).unwrap();
        let stream = "INSERT INTO metric_streams (id, tenant, metric, resource_id, scope, attributes, unit, route,
                      is_error) VALUES (1, ?1, 'm', 1, '', '', 's', replace(hex(zeroblob(?2)), '00', 'r'), FALSE)";
        connection.execute(stream, params![TENANT, route_bytes]).unwrap();
        for second in 1..=points {
            let point = "INSERT INTO metric_points (stream_id, start_unix_nano, time_unix_nano, distribution)
                         VALUES (1, 0, ?1, ?2)";
            connection.execute(point, params![second * NANOS, distribution.to_bytes()]).unwrap();
        }
        let question = Question {
            metric: "m".to_owned(),
            from_unix_nano: 0,
            to_unix_nano: i64::MAX,
            step_seconds: 1,
            by: Some(By::Route),
            quantiles: Vec::new(),
        };
        match cells(&connection, &question, 1600) {
            Ok(_) => true,
            Err(QueryError::TooLarge { limit: 1600, .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_histograms_and_keys_take_is_bounded() {
        let with_buckets = |buckets: i32| Distribution {
            positive: (0..buckets).map(|index| (index, 1)).collect(),
            ..Distribution::default()
        };
        // Of 16 bytes each.
        assert!(fits(1, 0, &with_buckets(99)) && fits(1, 0, &with_buckets(100)));
        assert!(!fits(1, 0, &with_buckets(101)));
        assert!(fits(2, 0, &with_buckets(50)) && !fits(3, 0, &with_buckets(50)));
        // The route is in each point's key.
        assert!(fits(2, 799, &with_buckets(0)) && fits(2, 800, &with_buckets(0)));
        assert!(!fits(2, 801, &with_buckets(0)) && !fits(3, 800, &with_buckets(0)));
    }
}
