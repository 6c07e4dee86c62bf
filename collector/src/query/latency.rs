//! Latency over time, from the merged exponential histograms.
//!
//! In: a metric, a time range, a step and what to tell apart. Out: for each key and step the count, rate, errors and
//! quantiles. Intervals belong to the step in which they end, since a sender's interval may reach over several; merging
//! is exact, so that quantiles are as good over a week as over one interval.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::QueryError;
use crate::clock::rfc3339;
use crate::distribution::Distribution;
use crate::store::TENANT;

/// The most points in one answer, over all series.
pub const MAX_POINTS: usize = 20_000;

/// The most memory that histograms and keys take while they are merged: all points with 160 buckets, and some.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a bucket takes: its index and its count, aligned.
const BUCKET_BYTES: usize = 16;

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
}

/// The measurements of one key and step.
#[derive(Default)]
struct Cell {
    distribution: Distribution,
    errors: u64,
}

impl Cell {
    fn bytes(&self) -> usize {
        let buckets = self.distribution.positive.len().saturating_add(self.distribution.negative.len());
        buckets.saturating_mul(BUCKET_BYTES)
    }
}

/// Merges and answers.
///
/// # Errors
/// [`QueryError`].
pub fn answer(connection: &Connection, question: &Question) -> Result<Answer, QueryError> {
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

fn cells(
    connection: &Connection,
    question: &Question,
    max_bytes: usize,
) -> Result<BTreeMap<(String, i64), Cell>, QueryError> {
    let column = match question.by {
        None => "''",
        Some(By::Route) => "coalesce(route, '')",
        Some(By::Status) => "coalesce(CAST(status AS TEXT), '')",
        Some(By::Method) => "coalesce(method, '')",
        Some(By::Service) => "coalesce(service, '')",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {column}, metric_points.time_unix_nano, is_error, metric_points.distribution
         FROM metric_points JOIN metric_streams ON metric_streams.id = stream_id
         WHERE metric_points.time_unix_nano > ?1 AND metric_points.time_unix_nano <= ?2
         AND tenant = ?3 AND metric = ?4"
    ))?;
    let mut rows =
        statement.query(params![question.from_unix_nano, question.to_unix_nano, TENANT, question.metric])?;
    let mut cells = BTreeMap::<(String, i64), Cell>::new();
    let mut taken = 0_usize;
    while let Some(row) = rows.next()? {
        // An interval's end is part of it: one that ends with a step is that step's.
        let step =
            row.get::<_, i64>(1)?.saturating_sub(1).div_euclid(question.step_seconds.saturating_mul(NANOS));
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
            return Err(QueryError::TooLarge { limit: max_bytes, what: "bytes of histograms and keys" });
        }
    }
    Ok(cells)
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
