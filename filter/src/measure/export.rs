//! Metrics as OTLP: `ExportMetricsServiceRequest`s of exponential histograms and sums, split at a number of bytes.
//! Source: opentelemetry-proto, `metrics/v1/metrics.proto`.

use super::drops::Told;
use super::exemplar::Exemplars;
use super::histogram::{Histogram, Layout};
use super::series::SeriesKey;
use crate::config::Temporality;
use crate::otlp::envelope::{Envelope, ITEM, OpenRequest};
use crate::otlp::wire::{Open, put_bytes, put_fixed64, put_header, put_uint};

/// One encoded request.
#[derive(Debug)]
pub struct ExportedRequest {
    /// An `ExportMetricsServiceRequest`.
    pub body: Vec<u8>,
    /// How many data points are in it.
    pub points: u64,
    /// What they were made of; `None` for cumulative ones, which the next export tells again.
    pub delta: Option<DeltaPoints>,
}

/// What the data points of a delta export were made of, to be measured again if they cannot be delivered.
#[derive(Debug)]
pub struct DeltaPoints {
    pub(super) parts: Vec<Part>,
}

/// What one data point was made of.
#[derive(Debug)]
pub(super) enum Part {
    Histogram(HistogramPart),
    Drops(Told),
}

/// What a histogram's data point was made of, of the overflow series where there is no key.
#[derive(Debug)]
pub(super) struct HistogramPart {
    pub(super) key: Option<SeriesKey<Box<[u8]>>>,
    /// The index in [`HISTOGRAMS`].
    pub(super) metric: usize,
    pub(super) start_unix_nano: u64,
    pub(super) histogram: Histogram,
    pub(super) exemplars: Exemplars,
}

/// What a histogram's data point tells.
pub(super) struct HistogramPoint<'m> {
    /// Encoded.
    pub(super) attributes: &'m [u8],
    pub(super) start_unix_nano: u64,
    pub(super) histogram: &'m Histogram,
    pub(super) exemplars: &'m Exemplars,
}

/// What a sum's data point tells.
pub(super) struct SumPoint<'m> {
    /// Encoded.
    pub(super) attributes: &'m [u8],
    pub(super) start_unix_nano: u64,
    pub(super) count: u64,
}

/// What all data points of a metric have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// In UCUM.
    pub(super) unit: &'static str,
    pub(super) kind: Kind,
}

/// What a metric's data points are; the discriminant is the field's number in `Metric`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Monotonic.
    Sum = 7,
    ExponentialHistogram = 10,
}

/// All histograms: whole requests taken in and sent out, the upstream's part, the proxy's part.
pub(super) const HISTOGRAMS: [Metric; 4] = [
    histogram("http.server.request.duration", "Duration of HTTP server requests."),
    histogram("http.client.request.duration", "Duration of HTTP client requests."),
    histogram(
        "envoy.upstream.duration",
        "From the first byte sent to the upstream to the last byte received from it.",
    ),
    histogram("envoy.proxy.duration", "The part of the request's duration that was not the upstream's."),
];

const fn histogram(name: &'static str, description: &'static str) -> Metric {
    Metric { name, description, unit: "s", kind: Kind::ExponentialHistogram }
}

/// The most bytes of a metric besides its data points: texts, tags, padded lengths, the temporality.
const METRIC_OVERHEAD_BYTES: usize = 160;

/// What a data point takes besides itself: its tag, its length of at most four bytes, and its metric.
const AROUND_POINT_BYTES: usize = 5 + METRIC_OVERHEAD_BYTES;

/// Writes data points into requests, a new one whenever the next point does not fit.
pub(super) struct Writer<'e, Take> {
    envelope: &'e Envelope,
    temporality: Temporality,
    max_bytes: usize,
    envelope_bytes: usize,
    now_unix_nano: u64,
    take: Take,
    oversized_points: u64,
    body: Vec<u8>,
    points: u64,
    parts: Vec<Part>,
    request: Option<OpenRequest>,
    metric: Option<OpenMetric>,
    point: Vec<u8>,
}

struct OpenMetric {
    name: &'static str,
    kind: Kind,
    metric: Open<4>,
    data: Open<4>,
}

impl<'e, Take: FnMut(ExportedRequest)> Writer<'e, Take> {
    pub(super) fn new(
        envelope: &'e Envelope,
        temporality: Temporality,
        max_bytes: usize,
        now_unix_nano: u64,
        take: Take,
    ) -> Self {
        Self {
            envelope_bytes: envelope.encoded_len(),
            envelope,
            temporality,
            max_bytes,
            now_unix_nano,
            take,
            oversized_points: 0,
            body: Vec::new(),
            points: 0,
            parts: Vec::new(),
            request: None,
            metric: None,
            point: Vec::new(),
        }
    }

    /// Appends a data point of a histogram; `part` says what it was made of, should it come back.
    pub(super) fn histogram(
        &mut self,
        metric: &Metric,
        point: &HistogramPoint<'_>,
        layout: &Layout,
        part: impl FnOnce() -> Part,
    ) {
        self.point.clear();
        self.point.extend_from_slice(point.attributes);
        point.histogram.encode(layout, point.start_unix_nano, self.now_unix_nano, &mut self.point);
        if let Some(room) = self.room() {
            point.exemplars.encode(self.now_unix_nano, room, &mut self.point);
        }
        self.append(metric, part);
    }

    /// Appends a data point of a sum; `part` as above.
    pub(super) fn sum(&mut self, metric: &Metric, point: &SumPoint<'_>, part: impl FnOnce() -> Part) {
        self.point.clear();
        put_fixed64(&mut self.point, 2, point.start_unix_nano);
        put_fixed64(&mut self.point, 3, self.now_unix_nano);
        put_fixed64(&mut self.point, 6, point.count);
        self.point.extend_from_slice(point.attributes);
        self.append(metric, part);
    }

    /// How many bytes more the point could have in a request of its own; `None` when it fits into none.
    fn room(&self) -> Option<usize> {
        self.max_bytes.checked_sub(self.envelope_bytes + AROUND_POINT_BYTES + self.point.len())
    }

    fn append(&mut self, metric: &Metric, part: impl FnOnce() -> Part) {
        if self.room().is_none() {
            self.oversized_points += 1;
            return;
        }
        if self.body.len() + AROUND_POINT_BYTES + self.point.len() > self.max_bytes {
            self.end_request();
        }
        self.open(metric);
        put_header(&mut self.body, 1, self.point.len());
        self.body.extend_from_slice(&self.point);
        self.points += 1;
        if self.temporality == Temporality::Delta {
            self.parts.push(part());
        }
    }

    /// Ends the last request. Returns how many data points fit into none.
    pub(super) fn finish(mut self) -> u64 {
        self.end_request();
        self.oversized_points
    }

    fn open(&mut self, metric: &Metric) {
        if self.request.is_none() {
            self.request = Some(self.envelope.begin(&mut self.body));
        }
        if self.metric.as_ref().is_some_and(|open| open.name == metric.name) {
            return;
        }
        self.end_metric();
        let open = Open::begin(&mut self.body, ITEM);
        put_bytes(&mut self.body, 1, metric.name.as_bytes());
        put_bytes(&mut self.body, 2, metric.description.as_bytes());
        put_bytes(&mut self.body, 3, metric.unit.as_bytes());
        let data = Open::begin(&mut self.body, metric.kind as u32);
        self.metric = Some(OpenMetric { name: metric.name, kind: metric.kind, metric: open, data });
    }

    fn end_metric(&mut self) {
        if let Some(open) = self.metric.take() {
            let temporality = match self.temporality {
                Temporality::Delta => 1,
                Temporality::Cumulative => 2,
            };
            put_uint(&mut self.body, 2, temporality);
            if open.kind == Kind::Sum {
                // Monotonic.
                put_uint(&mut self.body, 3, 1);
            }
            open.data.end(&mut self.body);
            open.metric.end(&mut self.body);
        }
    }

    fn end_request(&mut self) {
        self.end_metric();
        if let Some(request) = self.request.take() {
            request.end(&mut self.body);
            let delta = DeltaPoints { parts: std::mem::take(&mut self.parts) };
            (self.take)(ExportedRequest {
                body: std::mem::take(&mut self.body),
                points: std::mem::take(&mut self.points),
                delta: (self.temporality == Temporality::Delta).then_some(delta),
            });
        }
    }
}
