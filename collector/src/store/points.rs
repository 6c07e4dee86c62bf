//! Histogram points as intervals that add up.
//!
//! In: checked data points, cumulative or delta. Out: rows that each hold the measurements of their own interval only,
//! so that any of them can be merged. A cumulative point is compared with the last one of its stream (resource, scope,
//! metric, attributes): the difference is stored, and a later start time, or a count that fell, is a restart of the
//! sender, whose point stands as it is. A cumulative point not newer than the last one says nothing new: it is dropped
//! and counted as superseded. Intervals without measurements need no row. A stored point's exemplars go to
//! [`super::exemplars`]; those that a cumulative point repeats from before the last one are dropped, since they are not of
//! its interval.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::logs::{Origin, json, text};
use super::{StoreError, TENANT, exemplars};
use crate::distribution::Distribution;
use crate::otlp::exemplars::Exemplars;
use crate::otlp::metrics::{Metric, Point, Temporality};

/// What became of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its measurements are in the store.
    Stored,
    /// A later point of its stream had told them already.
    Superseded,
}

/// The last cumulative point of a stream.
struct State {
    start_unix_nano: i64,
    time_unix_nano: i64,
    sum: Option<f64>,
    distribution: Distribution,
}

/// Writes one point.
///
/// # Errors
/// [`StoreError`].
pub fn insert(
    connection: &Connection,
    origin: &Origin,
    metric: &Metric,
    point: &Point,
) -> Result<Outcome, StoreError> {
    let (stream_id, last) = stream(connection, origin, metric, point)?;
    // OTLP asks of exemplars to lie between a point's start and its end, and what is cumulative starts long ago.
    let told_until = last.as_ref().map_or(0, |last| last.time_unix_nano);
    let (outcome, told_until) = match metric.temporality {
        Temporality::Delta => (insert_delta(connection, stream_id, point)?, 0),
        Temporality::Cumulative => (insert_cumulative(connection, stream_id, last, point)?, told_until),
    };
    if outcome == Outcome::Stored {
        let of_interval = point.exemplars.iter().filter(|exemplar| exemplar.time_unix_nano > told_until);
        let exemplars: Exemplars = of_interval.copied().collect();
        exemplars::insert(connection, stream_id, point.time_unix_nano, &exemplars)?;
    }
    Ok(outcome)
}

fn insert_delta(connection: &Connection, stream_id: i64, point: &Point) -> Result<Outcome, StoreError> {
    let start = if point.start_unix_nano == 0 { point.time_unix_nano } else { point.start_unix_nano };
    write(connection, stream_id, start, point, point.sum, &point.distribution)?;
    Ok(Outcome::Stored)
}

fn insert_cumulative(
    connection: &Connection,
    stream_id: i64,
    last: Option<State>,
    point: &Point,
) -> Result<Outcome, StoreError> {
    match last {
        Some(last) if point.time_unix_nano <= last.time_unix_nano => return Ok(Outcome::Superseded),
        Some(last) if continues(&last, point) => {
            let sum = point.sum.zip(last.sum).map(|(now, before)| now - before);
            let added = point.distribution.since(&last.distribution);
            write(connection, stream_id, last.time_unix_nano, point, sum, &added)?;
        }
        // The first point of the stream, or the first after a restart: all it counts is new. Where its start
        // lies before the last interval's end, the interval begins there.
        last => {
            let known_end = last.map_or(0, |last| last.time_unix_nano);
            let start = if point.start_unix_nano == 0 { point.time_unix_nano } else { point.start_unix_nano };
            write(connection, stream_id, start.max(known_end), point, point.sum, &point.distribution)?;
        }
    }
    connection
        .prepare_cached(
            "UPDATE metric_streams SET start_unix_nano = ?2, time_unix_nano = ?3, sum = ?4, distribution = ?5
             WHERE id = ?1",
        )?
        .execute(params![
            stream_id,
            point.start_unix_nano,
            point.time_unix_nano,
            point.sum,
            point.distribution.to_bytes()
        ])?;
    Ok(Outcome::Stored)
}

fn continues(last: &State, point: &Point) -> bool {
    point.start_unix_nano == last.start_unix_nano && point.distribution.count() >= last.distribution.count()
}

fn write(
    connection: &Connection,
    stream_id: i64,
    start_unix_nano: i64,
    point: &Point,
    sum: Option<f64>,
    distribution: &Distribution,
) -> Result<(), StoreError> {
    if distribution.count() == 0 {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO metric_points (stream_id, start_unix_nano, time_unix_nano, sum, distribution)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![stream_id, start_unix_nano, point.time_unix_nano, sum, distribution.to_bytes()])?;
    Ok(())
}

/// The stream's row, written when it is new, and its last cumulative point.
fn stream(
    connection: &Connection,
    origin: &Origin,
    metric: &Metric,
    point: &Point,
) -> Result<(i64, Option<State>), StoreError> {
    let attributes = json(&point.attributes)?;
    let scope = origin.scope.as_deref().unwrap_or_default();
    let found = connection
        .prepare_cached(
            "SELECT id, start_unix_nano, time_unix_nano, sum, distribution FROM metric_streams
             WHERE tenant = ?1 AND metric = ?2 AND resource_id = ?3 AND scope = ?4 AND attributes = ?5",
        )?
        .query_row(params![TENANT, metric.name, origin.resource_id, scope, attributes], |row| {
            let state: (Option<i64>, Option<i64>, Option<f64>, Option<Vec<u8>>) =
                (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((row.get(0)?, state))
        })
        .optional()?;
    if let Some((id, state)) = found {
        let (Some(start_unix_nano), Some(time_unix_nano), sum, Some(bytes)) = state else {
            return Ok((id, None));
        };
        let distribution = Distribution::from_bytes(&bytes)
            .map_err(|error| StoreError::Fatal(format!("metric stream {id} is unreadable: {error}")))?;
        return Ok((id, Some(State { start_unix_nano, time_unix_nano, sum, distribution })));
    }
    let status = point.attributes.get("http.response.status_code").and_then(Value::as_i64);
    let is_error = status.is_some_and(|status| status >= 500) || point.attributes.contains_key("error.type");
    connection
        .prepare_cached(
            "INSERT INTO metric_streams (tenant, metric, resource_id, scope, attributes, unit, service, method,
             route, status, is_error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            TENANT,
            metric.name,
            origin.resource_id,
            scope,
            attributes,
            metric.unit,
            origin.service,
            text(&point.attributes, "http.request.method"),
            text(&point.attributes, "http.route"),
            status,
            is_error,
        ])?;
    Ok((connection.last_insert_rowid(), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{in_memory, intern_resource};

    /// A cumulative point: its start and time in seconds, scale and buckets.
    type Cumulative = (i64, i64, i32, &'static [(i32, u64)]);

    /// A stored interval: its start, end, scale and buckets.
    type Interval = (i64, i64, i32, Vec<(i32, u64)>);

    /// Inserts points of one stream; answers what became of each, and the stored intervals.
    fn intervals(temporality: Temporality, points: &[Cumulative]) -> (Vec<Outcome>, Vec<Interval>) {
        let connection = in_memory();
        let resource_id = intern_resource(&connection, "{}").unwrap();
        let origin = Origin { resource_id, ..Origin::default() };
        let metric = Metric { name: "m".into(), unit: "s".into(), temporality };
        let outcomes = points.iter().map(|(start, time, scale, buckets)| {
            let distribution = Distribution {
                scale: *scale,
                positive: buckets.iter().copied().collect(),
                ..Distribution::default()
            };
            let point = Point {
                attributes: [("http.route".to_owned(), Value::from("/a"))].into(),
                start_unix_nano: *start,
                time_unix_nano: *time,
                sum: Some(distribution.count() as f64),
                distribution,
                exemplars: vec![],
            };
            insert(&connection, &origin, &metric, &point).unwrap()
        });
        let outcomes = outcomes.collect();
        let mut rows = connection
            .prepare(
                "SELECT start_unix_nano, time_unix_nano, distribution, sum FROM metric_points ORDER BY id",
            )
            .unwrap();
        let rows = rows.query_map([], |row| {
            let bytes: Vec<u8> = row.get(2)?;
            let distribution = Distribution::from_bytes(&bytes).unwrap();
            assert_eq!(row.get::<_, f64>(3)?, distribution.count() as f64);
            Ok((row.get(0)?, row.get(1)?, distribution.scale, distribution.positive.into_iter().collect()))
        });
        (outcomes, rows.unwrap().map(Result::unwrap).collect())
    }

    use Outcome::{Stored, Superseded};
    use Temporality::{Cumulative as C, Delta as D};

    #[test]
    fn cumulative_points_become_their_differences() {
        let (outcomes, rows) = intervals(C, &[(5, 10, 3, &[(1, 2)]), (5, 20, 3, &[(1, 3), (7, 1)])]);
        assert_eq!(outcomes, [Stored, Stored]);
        assert_eq!(rows, [(5, 10, 3, vec![(1, 2)]), (10, 20, 3, vec![(1, 1), (7, 1)])]);
    }

    #[test]
    fn an_interval_without_measurements_has_no_row() {
        let (outcomes, rows) =
            intervals(C, &[(5, 10, 3, &[(1, 2)]), (5, 20, 3, &[(1, 2)]), (5, 30, 3, &[(1, 3)])]);
        assert_eq!(outcomes, [Stored; 3]);
        assert_eq!(rows, [(5, 10, 3, vec![(1, 2)]), (20, 30, 3, vec![(1, 1)])]);
    }

    #[test]
    fn an_older_cumulative_point_is_superseded() {
        let (outcomes, rows) =
            intervals(C, &[(5, 20, 3, &[(1, 9)]), (5, 10, 3, &[(1, 2)]), (5, 20, 3, &[(1, 9)])]);
        assert_eq!(outcomes, [Stored, Superseded, Superseded]);
        assert_eq!(rows.len(), 1);
    }

    #[test]
    fn a_restart_counts_from_zero_again() {
        let (_, rows) =
            intervals(C, &[(5, 10, 3, &[(1, 9)]), (12, 20, 3, &[(1, 2)]), (12, 30, 3, &[(1, 5)])]);
        assert_eq!(rows, [(5, 10, 3, vec![(1, 9)]), (12, 20, 3, vec![(1, 2)]), (20, 30, 3, vec![(1, 3)])]);
    }

    #[test]
    fn a_count_that_fell_is_a_restart() {
        let (_, rows) = intervals(C, &[(5, 10, 3, &[(1, 9)]), (5, 20, 3, &[(1, 2)])]);
        assert_eq!(rows, [(5, 10, 3, vec![(1, 9)]), (10, 20, 3, vec![(1, 2)])]);
    }

    #[test]
    fn a_lower_scale_in_between_is_met() {
        let (_, rows) =
            intervals(C, &[(5, 10, 3, &[(6, 2), (7, 1)]), (5, 20, 2, &[(3, 4)]), (5, 30, 2, &[(3, 5)])]);
        assert_eq!(
            rows,
            [(5, 10, 3, vec![(6, 2), (7, 1)]), (10, 20, 2, vec![(3, 1)]), (20, 30, 2, vec![(3, 1)])]
        );
    }

    #[test]
    fn deltas_are_stored_as_they_are_in_any_order() {
        let (outcomes, rows) = intervals(D, &[(10, 20, 3, &[(1, 2)]), (0, 10, 3, &[(1, 3)])]);
        assert_eq!(outcomes, [Stored, Stored]);
        assert_eq!(rows, [(10, 20, 3, vec![(1, 2)]), (10, 10, 3, vec![(1, 3)])]);
    }
}
