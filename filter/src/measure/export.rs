//! Histograms as OTLP: `ExportMetricsServiceRequest`s of exponential histograms, split at a number of bytes.
//! Source: opentelemetry-proto, `metrics/v1/metrics.proto`.

use super::exemplar::Exemplars;
use super::histogram::{Histogram, Layout};
use super::series::SeriesKey;
use crate::config::Temporality;
use crate::otlp::envelope::{Envelope, ITEM, OpenRequest};
use crate::otlp::wire::{Open, put_bytes, put_header, put_uint};

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

/// What one data point was made of, of the overflow series where there is no key.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) key: Option<SeriesKey<Box<[u8]>>>,
    /// The index in [`METRICS`].
    pub(super) metric: usize,
    pub(super) start_unix_nano: u64,
    pub(super) histogram: Histogram,
    pub(super) exemplars: Exemplars,
}

/// What a data point tells.
pub(super) struct Point<'m> {
    /// Encoded.
    pub(super) attributes: &'m [u8],
    pub(super) start_unix_nano: u64,
    pub(super) histogram: &'m Histogram,
    pub(super) exemplars: &'m Exemplars,
}

/// A metric's name and description; the unit is seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    name: &'static str,
    description: &'static str,
}

/// All metrics: whole requests taken in and sent out, the upstream's part, the proxy's part.
pub(super) const METRICS: [Metric; 4] = [
    Metric { name: "http.server.request.duration", description: "Duration of HTTP server requests." },
    Metric { name: "http.client.request.duration", description: "Duration of HTTP client requests." },
    Metric {
        name: "envoy.upstream.duration",
        description: "From the first byte sent to the upstream to the last byte received from it.",
    },
    Metric {
        name: "envoy.proxy.duration",
        description: "The part of the request's duration that was not the upstream's.",
    },
];

/// The most bytes of a metric besides its data points: texts, tags, padded lengths, the temporality.
const METRIC_OVERHEAD_BYTES: usize = 160;

/// The tag and the length, of at most four bytes, of a data point.
const POINT_OVERHEAD_BYTES: usize = 5;

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
    metric: Open<4>,
    histogram: Open<4>,
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

    /// Appends a data point of a metric; `part` says what it was made of, should it come back.
    pub(super) fn point(
        &mut self,
        metric: &Metric,
        point: &Point<'_>,
        layout: &Layout,
        part: impl FnOnce() -> Part,
    ) {
        self.point.clear();
        self.point.extend_from_slice(point.attributes);
        point.histogram.encode(layout, point.start_unix_nano, self.now_unix_nano, &mut self.point);
        let around = POINT_OVERHEAD_BYTES + METRIC_OVERHEAD_BYTES;
        let Some(room) = self.max_bytes.checked_sub(self.envelope_bytes + around + self.point.len()) else {
            self.oversized_points += 1;
            return;
        };
        point.exemplars.encode(self.now_unix_nano, room, &mut self.point);
        if self.body.len() + around + self.point.len() > self.max_bytes {
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
        put_bytes(&mut self.body, 3, b"s");
        let histogram = Open::begin(&mut self.body, 10);
        self.metric = Some(OpenMetric { name: metric.name, metric: open, histogram });
    }

    fn end_metric(&mut self) {
        if let Some(open) = self.metric.take() {
            let temporality = match self.temporality {
                Temporality::Delta => 1,
                Temporality::Cumulative => 2,
            };
            put_uint(&mut self.body, 2, temporality);
            open.histogram.end(&mut self.body);
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
