//! What a sender says that it has dropped: the points of two sums.
//!
//! In: an encoded `Sum` of one of the metrics in [`METRICS`]. Out: calls of a [`Visitor`]. Points that contradict
//! themselves are refused one by one, as in [`super::metrics`].

use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};

use super::metrics::{Refused, Temporality, Visitor, temporality};
use super::value::attributes;
use super::{MAX_MESSAGE_BYTES, decode, wire};

/// The sums that are stored: what the plugin counts as dropped.
pub const METRICS: [&str; 2] = ["offpath.records.dropped", "offpath.metric_points.dropped"];

/// Why the plugin drops: whatever else a sender makes up takes no row.
pub const REASONS: [&str; 8] =
    ["queue_full", "spilled", "rejected", "expired", "oversized", "rate_limited", "shutdown", "vm_lost"];

/// How much was dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// One of [`METRICS`].
    pub metric: String,
    /// The attribute `reason`: one of [`REASONS`].
    pub reason: String,
    /// Whether `count` is all of it or what came since the last point.
    pub temporality: Temporality,
    /// The time up to which it counts.
    pub time_unix_nano: i64,
    /// How many.
    pub count: i64,
}

pub(super) fn walk<V: Visitor>(metric: &str, sum: &[u8], visitor: &mut V) -> Result<(), V::Error> {
    let temporality = temporality("Sum", sum)?;
    for bytes in wire::messages("Sum", sum, 1) {
        let bytes = bytes?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            let reason = format!("{} bytes: at most {MAX_MESSAGE_BYTES} are allowed", bytes.len());
            visitor.refused(1, Refused::Invalid { metric: metric.to_owned(), reason });
            continue;
        }
        let otlp: NumberDataPoint = decode("NumberDataPoint", bytes)?;
        match Dropped::check(metric, temporality, &otlp) {
            Ok(dropped) => visitor.dropped(dropped, otlp)?,
            Err(reason) => visitor.refused(1, Refused::Invalid { metric: metric.to_owned(), reason }),
        }
    }
    Ok(())
}

impl Dropped {
    fn check(
        metric: &str,
        temporality: Option<Temporality>,
        point: &NumberDataPoint,
    ) -> Result<Self, String> {
        let count = match point.value {
            Some(number_data_point::Value::AsInt(count)) if count >= 0 => count,
            Some(number_data_point::Value::AsInt(count)) => {
                return Err(format!("its value `{count}` is negative"));
            }
            _ => return Err("its value is no integer".to_owned()),
        };
        let time_unix_nano = i64::try_from(point.time_unix_nano).map_err(|_| {
            format!("time_unix_nano `{}` is out of range: at most {}", point.time_unix_nano, i64::MAX)
        })?;
        if time_unix_nano == 0 {
            return Err("time_unix_nano is missing".to_owned());
        }
        let attributes = attributes(&point.attributes);
        let reason = attributes.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        if !REASONS.contains(&reason) {
            return Err(format!("its reason is none of {}", REASONS.join(", ")));
        }
        Ok(Self {
            metric: metric.to_owned(),
            reason: reason.to_owned(),
            temporality: temporality.ok_or("its aggregation temporality is unspecified")?,
            time_unix_nano,
            count,
        })
    }
}
