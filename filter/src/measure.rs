//! Latency histograms of every request, by series, and what was dropped, exported as OTLP metrics.
//!
//! [`crate::request`] and the counts of [`crate::ledger`] come in; encoded export requests go to [`crate::delivery`]. Series are bounded in number: what
//! finds no room is measured in the overflow series, so that every request is in exactly one. Exemplars are dropped where
//! they find no room in an export, or where it is replaced by a newer one before it was sent.

mod drops;
mod exemplar;
mod export;
mod histogram;
mod series;

pub use export::{DeltaPoints, ExportedRequest};
pub use histogram::{Histogram, Layout, ZERO_THRESHOLD_SECONDS};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::config::{Histograms, Metrics, SeriesAttributes, Temporality};
use crate::ledger::Ledger;
use crate::otlp::envelope::Envelope;
use crate::request::FinishedRequest;
use drops::Drops;
use exemplar::Exemplars;
use export::{HISTOGRAMS, HistogramPart, HistogramPoint, Part, Writer};
use series::SeriesKey;

/// The histograms of one root context.
#[derive(Debug)]
pub struct Measurements {
    kept: Histograms,
    attributes: SeriesAttributes,
    has_exemplars: bool,
    temporality: Temporality,
    max_series: usize,
    layout: Layout,
    series: HashMap<SeriesKey<Box<[u8]>>, Series, FxBuildHasher>,
    overflow: Option<Series>,
    drops: Drops,
    start_unix_nano: u64,
}

/// One series of each metric: they share their attributes.
#[derive(Debug, Clone)]
struct Series {
    /// Encoded as a data point's attributes.
    attributes: Vec<u8>,
    /// In the order of [`HISTOGRAMS`]: a request is in one of the first two, by its direction.
    measured: [Measured; HISTOGRAMS.len()],
}

/// What one series of one metric has measured.
#[derive(Debug, Clone, Default)]
struct Measured {
    histogram: Histogram,
    exemplars: Exemplars,
    /// Since when, where it holds points that could not be delivered.
    handed_back_since_unix_nano: Option<u64>,
}

impl Measurements {
    /// No measurements yet, since `now_unix_nano`.
    pub fn new(config: &Metrics, now_unix_nano: u64) -> Self {
        Self {
            kept: config.histograms,
            attributes: config.attributes,
            has_exemplars: config.exemplars,
            temporality: config.temporality,
            max_series: config.max_series,
            layout: Layout::new(config.max_buckets),
            series: HashMap::default(),
            overflow: None,
            drops: Drops::default(),
            start_unix_nano: now_unix_nano,
        }
    }

    /// Counts a request into the histograms of its series.
    pub fn record(&mut self, request: &FinishedRequest<'_>) {
        let kept = self.kept;
        let has_exemplars = self.has_exemplars;
        let key = SeriesKey::of(request, self.attributes);
        let (series, layout) = self.series_of(&key);
        let record = |measured: &mut Measured, nano: u64| {
            let seconds = nano as f64 / 1e9;
            measured.histogram.record(layout, seconds);
            if has_exemplars {
                measured.exemplars.offer(seconds, request.ended_unix_nano, || request.trace_context());
            }
        };
        let [server, client, upstream, proxy] = &mut series.measured;
        if kept.duration {
            record(if request.is_outbound { client } else { server }, request.duration_nano);
        }
        let upstream_nano = request.upstream_duration_nano.map(|nano| nano.min(request.duration_nano));
        if let Some(nano) = upstream_nano.filter(|_| kept.upstream) {
            record(upstream, nano);
        }
        if kept.proxy {
            record(proxy, request.duration_nano.saturating_sub(upstream_nano.unwrap_or(0)));
        }
    }

    /// Whether records were dropped of which no export has told yet.
    pub fn has_new_drops(&self, ledger: &Ledger) -> bool {
        self.drops.are_new(ledger)
    }

    /// Takes over, for the next export, what has been dropped by now.
    pub fn count_drops(&mut self, ledger: &Ledger) {
        self.drops.count(ledger);
    }

    /// Encodes all that was measured as export requests of at most `max_bytes` each, and hands them to `take` one by one.
    /// Exemplars, and with delta temporality all measurements, start anew. Returns how many data points fit into no request.
    pub fn export(
        &mut self,
        envelope: &Envelope,
        max_bytes: usize,
        now_unix_nano: u64,
        take: impl FnMut(ExportedRequest),
    ) -> u64 {
        // Where a clock was set back, nothing ends before it began.
        self.start_unix_nano = self.start_unix_nano.min(now_unix_nano);
        let mut writer = Writer::new(envelope, self.temporality, max_bytes, now_unix_nano, take);
        for (index, metric) in HISTOGRAMS.iter().enumerate() {
            let ordinary = self.series.iter_mut().map(|(key, series)| (Some(key), series));
            for (key, series) in ordinary.chain(self.overflow.iter_mut().map(|series| (None, series))) {
                let Some(measured) =
                    series.measured.get_mut(index).filter(|measured| measured.histogram.count() > 0)
                else {
                    continue;
                };
                measured.histogram.settle(&self.layout);
                let handed_back = measured.handed_back_since_unix_nano.unwrap_or(u64::MAX);
                let start_unix_nano = self.start_unix_nano.min(handed_back);
                let exemplars = std::mem::take(&mut measured.exemplars);
                let point = HistogramPoint {
                    attributes: &series.attributes,
                    start_unix_nano,
                    histogram: &measured.histogram,
                    exemplars: &exemplars,
                };
                let part = || {
                    Part::Histogram(HistogramPart {
                        key: key.cloned(),
                        metric: index,
                        start_unix_nano,
                        histogram: measured.histogram.clone(),
                        exemplars: exemplars.clone(),
                    })
                };
                writer.histogram(metric, &point, &self.layout, part);
            }
        }
        self.drops.export(&mut writer, self.temporality, self.start_unix_nano);
        if self.temporality == Temporality::Delta {
            self.series.clear();
            self.overflow = None;
            self.start_unix_nano = now_unix_nano;
        }
        writer.finish()
    }

    /// Measures again what an export could not deliver.
    pub fn absorb(&mut self, points: DeltaPoints) {
        for part in points.parts {
            let HistogramPart { key, metric, start_unix_nano, histogram, exemplars } = match part {
                Part::Histogram(part) => part,
                Part::Drops(told) => {
                    self.drops.absorb(told);
                    continue;
                }
            };
            let (series, layout) = match &key {
                Some(key) => self.series_of(&key.borrowed()),
                None => self.overflow_series(),
            };
            if let Some(measured) = series.measured.get_mut(metric) {
                measured.histogram.merge(layout, histogram);
                measured.exemplars.merge(exemplars);
                let since = measured.handed_back_since_unix_nano.get_or_insert(start_unix_nano);
                *since = start_unix_nano.min(*since);
            }
        }
    }

    /// How many series there are of each metric, the overflow series included.
    pub fn series_count(&self) -> usize {
        self.series.len() + usize::from(self.overflow.is_some())
    }

    fn series_of(&mut self, key: &SeriesKey<&[u8]>) -> (&mut Series, &Layout) {
        // One place is kept for the overflow series.
        if self.series.len() + 1 >= self.max_series && !self.series.contains_key(key) {
            return self.overflow_series();
        }
        let series = self.series.entry_ref(key).or_insert_with(|| Series::new(key.encode_attributes()));
        (series, &self.layout)
    }

    fn overflow_series(&mut self) -> (&mut Series, &Layout) {
        let overflow = self.overflow.get_or_insert_with(|| Series::new(series::overflow_attributes()));
        (overflow, &self.layout)
    }
}

impl Series {
    fn new(attributes: Vec<u8>) -> Self {
        Self { attributes, measured: Default::default() }
    }
}

#[cfg(test)]
mod tests;
