//! Exemplars: requests that stand for what histograms count.
//!
//! In: those of a stored data point, at most one of each part of the range. Out: rows by minute, stream and part. Of those
//! that fall on one row the slowest stays and the others are dropped here: so a stream has at most
//! [`PARTS`](crate::otlp::exemplars::PARTS) rows a minute, however often its sender exports.

use rusqlite::{Connection, params};

use super::StoreError;
use crate::otlp::exemplars::Exemplars;

const MINUTE_NANOS: i64 = 60 * 1_000_000_000;

/// Writes the exemplars of a point of stream `stream_id` that ends at `point_unix_nano`.
///
/// # Errors
/// [`StoreError`].
pub fn insert(
    connection: &Connection,
    stream_id: i64,
    point_unix_nano: i64,
    exemplars: &Exemplars,
) -> Result<(), StoreError> {
    for (part, exemplar) in exemplars.slowest_first() {
        connection
            .prepare_cached(
                "INSERT INTO exemplars (minute, stream_id, part, point_unix_nano, time_unix_nano, value, trace_id, span_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET
                 point_unix_nano = excluded.point_unix_nano, time_unix_nano = excluded.time_unix_nano,
                 value = excluded.value, trace_id = excluded.trace_id, span_id = excluded.span_id
                 WHERE excluded.value > value",
            )?
            .execute(params![
                minute(point_unix_nano),
                stream_id,
                part,
                point_unix_nano,
                exemplar.time_unix_nano,
                exemplar.value,
                exemplar.trace_id,
                exemplar.span_id,
            ])?;
    }
    Ok(())
}

/// The minute that a point which ends at `unix_nano` belongs to: an interval's end is part of it.
#[must_use]
pub fn minute(unix_nano: i64) -> i64 {
    unix_nano.saturating_sub(1).div_euclid(MINUTE_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::exemplars::Exemplar;
    use crate::store::in_memory;

    /// The values that are left of those offered, each by one point at a second and with a trace of its own.
    fn kept(offered: &[(i64, f64)]) -> Vec<(i64, f64, u8)> {
        let connection = in_memory();
        connection
            .execute_batch(
                "INSERT INTO resources (id, attributes) VALUES (1, '{}');
                 INSERT INTO metric_streams (id, tenant, metric, resource_id, scope, attributes, unit, is_error)
                 VALUES (1, 'default', 'm', 1, '', '', 's', FALSE);",
            )
            .unwrap();
        for (&(second, value), number) in offered.iter().zip(1..) {
            let mut exemplars = Exemplars::default();
            let trace_id = [number; 16];
            exemplars.offer(Exemplar { value, time_unix_nano: 1, trace_id, span_id: None });
            insert(&connection, 1, second * 1_000_000_000, &exemplars).unwrap();
        }
        let mut rows = connection
            .prepare(
                "SELECT point_unix_nano / 1000000000, value, trace_id FROM exemplars ORDER BY minute, part",
            )
            .unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, [u8; 16]>(2)?[0])));
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn of_each_part_and_minute_the_slowest_stays_in_whatever_order_they_come() {
        assert_eq!(kept(&[(10, 0.02), (20, 0.05), (30, 0.03), (40, 2.0)]), [(20, 0.05, 2), (40, 2.0, 4)]);
        assert_eq!(kept(&[(30, 0.05), (10, 0.02)]), [(30, 0.05, 1)]);
        assert_eq!(kept(&[(60, 0.02), (61, 0.05)]), [(60, 0.02, 1), (61, 0.05, 2)]);
    }

    #[test]
    fn a_stream_has_one_row_a_minute_for_each_part_however_much_is_sent() {
        let many: Vec<(i64, f64)> = (0..200).map(|n| (1 + n % 60, 1e-5 * 1.1_f64.powi(n as i32))).collect();
        assert_eq!(kept(&many).len(), crate::otlp::exemplars::PARTS);
    }
}
