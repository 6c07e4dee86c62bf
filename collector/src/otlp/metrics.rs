//! A metrics request, data point by data point.
//!
//! In: the bytes of an `ExportMetricsServiceRequest`. Out: calls of a [`Visitor`]. Exponential histograms are what is
//! stored, with their exemplars ([`super::exemplars`]), and the sums by which the plugin tells what it has dropped ([`drops`]).
//! Points of other kinds, and points that contradict themselves, are refused one by one with a reason, which the sender
//! gets to read as a partial success; the points beside them are not touched.

use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, NumberDataPoint};

use super::drops::{self, Dropped};
use super::exemplars::Exemplar;
use super::value::{Attributes, attributes};
use super::wire::{self, Value};
use super::{Levels, MAX_MESSAGE_BYTES, Malformed, ScopeVisitor, Validated, decode, walk_scopes};
use crate::batch_id::HEADER;
use crate::distribution::Distribution;

/// How a sender counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// Each point covers its own interval.
    Delta,
    /// Each point covers all since the stream's start.
    Cumulative,
}

/// A metric's head: what its points have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name, such as `http.server.request.duration`.
    pub name: String,
    /// Its unit in UCUM, such as `s`.
    pub unit: String,
    /// How its points count.
    pub temporality: Temporality,
}

/// One exponential histogram, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What tells the stream from others of its metric.
    pub attributes: Attributes,
    /// When its counting started; 0 when the sender did not say.
    pub start_unix_nano: i64,
    /// The time up to which it counts.
    pub time_unix_nano: i64,
    /// The sum of the measurements, when the sender gave it.
    pub sum: Option<f64>,
    /// Their distribution.
    pub distribution: Distribution,
    /// Some of them, that lead to a trace.
    pub exemplars: Vec<Exemplar>,
}

/// Why a point is not stored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It is a sum, gauge, histogram or summary.
    #[error("only exponential histograms and offpath's own counters are stored, `{metric}` is a {kind}")]
    Unsupported {
        /// The metric's name.
        metric: String,
        /// What it is.
        kind: &'static str,
    },
    /// It tells what somebody has dropped, and nobody says who.
    #[error("`{metric}` is stored by sender: {HEADER} names none in this request")]
    Anonymous {
        /// The metric's name.
        metric: String,
    },
    /// It contradicts itself.
    #[error("a point of `{metric}` is invalid: {reason}")]
    Invalid {
        /// The metric's name.
        metric: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Sees a metrics request: each resource, each of its scopes, then each data point.
pub trait Visitor: ScopeVisitor {
    /// One point, checked, and as OTLP has it.
    ///
    /// # Errors
    /// Stops the walk.
    fn point(
        &mut self,
        metric: &Metric,
        point: Point,
        otlp: ExponentialHistogramDataPoint,
    ) -> Result<(), Self::Error>;
    /// What a sender has dropped, checked, and as OTLP has it.
    ///
    /// # Errors
    /// Stops the walk.
    fn dropped(&mut self, dropped: Dropped, otlp: NumberDataPoint) -> Result<(), Self::Error>;
    /// `count` points that are not stored.
    fn refused(&mut self, count: u64, reason: Refused);
}

/// Walks through a request.
///
/// # Errors
/// What the visitor returns, and [`Malformed`] for broken bytes.
pub fn walk<V: Visitor>(request: &[u8], visitor: &mut V) -> Result<(), V::Error> {
    const LEVELS: Levels =
        Levels { request: "ExportMetricsServiceRequest", resource: "ResourceMetrics", scope: "ScopeMetrics" };
    walk_scopes(&LEVELS, request, visitor, walk_metric)
}

fn walk_metric<V: Visitor>(visitor: &mut V, metric: &[u8]) -> Result<(), V::Error> {
    let (mut name, mut unit) = (String::new(), String::new());
    for field in wire::fields("Metric", metric) {
        match field? {
            (1, Value::Bytes(bytes)) => name = text("Metric.name", bytes)?,
            (3, Value::Bytes(bytes)) => unit = text("Metric.unit", bytes)?,
            _ => {}
        }
    }
    for field in wire::fields("Metric", metric) {
        let (tag, Value::Bytes(data)) = field? else { continue };
        let kind = match tag {
            5 => "gauge",
            7 if drops::METRICS.contains(&name.as_str()) => {
                drops::walk(&name, data, visitor)?;
                continue;
            }
            7 => "sum",
            9 => "histogram with explicit buckets",
            11 => "summary",
            10 => {
                walk_histogram(&name, &unit, data, visitor)?;
                continue;
            }
            _ => continue,
        };
        let mut count = 0;
        for point in wire::messages(kind, data, 1) {
            point?;
            count += 1;
        }
        visitor.refused(count, Refused::Unsupported { metric: name.clone(), kind });
    }
    Ok(())
}

fn walk_histogram<V: Visitor>(
    name: &str,
    unit: &str,
    histogram: &[u8],
    visitor: &mut V,
) -> Result<(), V::Error> {
    let temporality = temporality("ExponentialHistogram", histogram)?;
    let invalid = |reason: String| Refused::Invalid { metric: name.to_owned(), reason };
    let metric =
        temporality.map(|temporality| Metric { name: name.to_owned(), unit: unit.to_owned(), temporality });
    for bytes in wire::messages("ExponentialHistogram", histogram, 1) {
        let bytes = bytes?;
        let Some(metric) = &metric else {
            visitor.refused(1, invalid("its aggregation temporality is unspecified".to_owned()));
            continue;
        };
        if bytes.len() > MAX_MESSAGE_BYTES {
            visitor.refused(
                1,
                invalid(format!("{} bytes: at most {MAX_MESSAGE_BYTES} are allowed", bytes.len())),
            );
            continue;
        }
        let otlp: ExponentialHistogramDataPoint = decode("ExponentialHistogramDataPoint", bytes)?;
        match Point::check(&otlp) {
            Ok(point) => visitor.point(metric, point, otlp)?,
            Err(reason) => visitor.refused(1, invalid(reason)),
        }
    }
    Ok(())
}

/// How the points of a `message` count, if it says so. Sums and histograms say it in the same field.
pub(super) fn temporality(message: &'static str, bytes: &[u8]) -> Result<Option<Temporality>, Malformed> {
    let mut temporality = None;
    for field in wire::fields(message, bytes) {
        if let (2, Value::Varint(number)) = field? {
            temporality = match number {
                1 => Some(Temporality::Delta),
                2 => Some(Temporality::Cumulative),
                _ => None,
            };
        }
    }
    Ok(temporality)
}

fn text(message: &'static str, bytes: &[u8]) -> Result<String, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(Malformed::Wire { message, reason: error.to_string() }),
    }
}

impl Point {
    fn check(point: &ExponentialHistogramDataPoint) -> Result<Self, String> {
        const NO_RECORDED_VALUE: u32 = 1;
        if point.flags & NO_RECORDED_VALUE != 0 {
            return Err("it is flagged as having no recorded value".to_owned());
        }
        let time = |name: &str, nanos: u64| {
            i64::try_from(nanos)
                .map_err(|_| format!("{name} `{nanos}` is out of range: at most {}", i64::MAX))
        };
        let time_unix_nano = time("time_unix_nano", point.time_unix_nano)?;
        if time_unix_nano == 0 {
            return Err("time_unix_nano is missing".to_owned());
        }
        Ok(Self {
            attributes: attributes(&point.attributes),
            start_unix_nano: time("start_time_unix_nano", point.start_time_unix_nano)?,
            time_unix_nano,
            sum: point.sum.filter(|sum| sum.is_finite()),
            distribution: Distribution::from_point(point).map_err(|error| error.to_string())?,
            exemplars: Exemplar::of_point(&point.exemplars),
        })
    }
}

/// Checks every part of a request, and counts its points. What somebody has dropped is refused where `names_sender` is
/// false: it would be nobody's.
///
/// # Errors
/// [`Malformed`].
pub fn validate(request: &[u8], names_sender: bool) -> Result<Validated, Malformed> {
    let mut check = Check { validated: Validated::default(), names_sender };
    walk(request, &mut check)?;
    check.validated.check_number()?;
    Ok(check.validated)
}

/// Counts what a request holds.
struct Check {
    validated: Validated,
    names_sender: bool,
}

impl ScopeVisitor for Check {
    type Error = Malformed;
}

impl Visitor for Check {
    fn point(&mut self, _: &Metric, _: Point, _: ExponentialHistogramDataPoint) -> Result<(), Malformed> {
        self.validated.accepted += 1;
        Ok(())
    }
    fn dropped(&mut self, dropped: Dropped, _: NumberDataPoint) -> Result<(), Malformed> {
        if self.names_sender {
            self.validated.accepted += 1;
        } else {
            self.refused(1, Refused::Anonymous { metric: dropped.metric });
        }
        Ok(())
    }
    fn refused(&mut self, count: u64, reason: Refused) {
        match reason {
            Refused::Unsupported { .. } | Refused::Anonymous { .. } => self.validated.unsupported += count,
            Refused::Invalid { .. } => self.validated.invalid += count,
        }
        self.validated.first_reason.get_or_insert_with(|| reason.to_string());
    }
}
