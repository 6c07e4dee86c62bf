//! The collector's part of a record's way: a batch is checked at the door, and becomes rows: `cargo bench`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot be set up has nothing to say")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use offpath_benches::{Durations, NOW_UNIX_NANO as NOW, config, ordinary_request};
use offpath_collector::distribution::Distribution;
use offpath_collector::otlp::value::attributes;
use offpath_collector::otlp::{Malformed, ScopeVisitor, logs};
use offpath_collector::store::logs::{Origin, insert, json};
use offpath_collector::store::{Folder, intern_resource};
use offpath_filter::capture::Plan;
use offpath_filter::measure::{Histogram, Layout};
use offpath_filter::otlp::envelope::Envelope;
use offpath_filter::record::Encoder;
use offpath_filter::redact::Redactor;
use offpath_filter::request::FinishedRequest;
use offpath_filter::route::Routes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use rusqlite::Connection;

const RECORDS: u64 = 512;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let batch = batch();
    decode(&mut criterion, &batch);
    decode_and_insert(&mut criterion, &batch);
    quantile(&mut criterion);
    criterion.final_summary();
}

/// A request as the plugin sends it.
fn batch() -> Vec<u8> {
    let config = config(r#"{"collector": {"cluster": "otlp"}}"#).unwrap();
    let plan = Plan::new(&config);
    let captured = ordinary_request(&plan);
    let mut request = FinishedRequest::read(&plan, &captured, NOW);
    let redactor = Redactor::new(&config, &Arc::new(Routes::new(&config.routes).unwrap()));
    let mut encoder = Encoder::new(&config.logs, redactor, config.logs.max_record_bytes);
    let envelope = Envelope::new([("service.name", "shop")].into_iter(), "offpath", "0");
    let mut body = Vec::new();
    let open = envelope.begin(&mut body);
    for _ in 0..RECORDS {
        request.start_unix_nano += 1_000_000;
        encoder.encode(&request, NOW, &mut body);
    }
    open.end(&mut body);
    body
}

/// Each record by itself, so that one which is refused is set aside alone; the peer decodes all of them at once.
fn decode(criterion: &mut Criterion, batch: &[u8]) {
    let mut group = criterion.benchmark_group("collector: decoding of 512 records");
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("offpath", |bencher| bencher.iter(|| logs::validate(black_box(batch)).unwrap()));
    group.bench_function("prost", |bencher| {
        bencher.iter(|| ExportLogsServiceRequest::decode(black_box(batch)).unwrap());
    });
    group.finish();
}

/// Into the real schema with all its indices. Nothing is committed: how long a disk takes is the disk's business.
fn decode_and_insert(criterion: &mut Criterion, batch: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let connection = Folder::lock(folder.path()).unwrap().open().unwrap();
    criterion.bench_function("collector: decoding and inserting of 512 records/offpath", |bencher| {
        bencher.iter(|| {
            connection.execute_batch("BEGIN").unwrap();
            let mut rows = Rows { connection: &connection, origin: Origin::default() };
            logs::walk(black_box(batch), &mut rows).unwrap();
            connection.execute_batch("ROLLBACK").unwrap();
        });
    });
}

/// The 99th percentile of 100,000 durations: ours in the 160 buckets in which they come from the plugin, the peer's with
/// two significant digits.
fn quantile(criterion: &mut Criterion) {
    let layout = Layout::new(160);
    let mut recorded = Histogram::default();
    let mut hdr = hdrhistogram::Histogram::<u64>::new_with_bounds(100_000, 86_400_000_000_000, 2).unwrap();
    let mut durations = Durations::default();
    for _ in 0..100_000 {
        let nano = durations.next_nano();
        recorded.record(&layout, nano as f64 / 1e9);
        hdr += nano;
    }
    let distribution = distribution(&recorded, &layout);
    let (ours, peers) = (distribution.quantile(0.99).unwrap(), hdr.value_at_quantile(0.99) as f64 / 1e9);
    assert!((ours / peers - 1.0).abs() < 0.06, "the same distribution: {ours} {peers}");

    let mut group = criterion.benchmark_group("histogram quantile");
    group.bench_function("offpath", |bencher| bencher.iter(|| black_box(&distribution).quantile(0.99)));
    group.bench_function("hdrhistogram", |bencher| {
        bencher.iter(|| black_box(&hdr).value_at_quantile(0.99));
    });
    group.finish();
}

/// As it comes from the plugin.
fn distribution(recorded: &Histogram, layout: &Layout) -> Distribution {
    let mut point = Vec::new();
    recorded.encode(layout, NOW, NOW, &mut point);
    Distribution::from_point(&ExponentialHistogramDataPoint::decode(point.as_slice()).unwrap()).unwrap()
}

struct Rows<'a> {
    connection: &'a Connection,
    origin: Origin,
}

impl ScopeVisitor for Rows<'_> {
    type Error = Malformed;

    fn resource(&mut self, resource: Resource) -> Result<(), Malformed> {
        let text = json(&attributes(&resource.attributes)).unwrap();
        self.origin.resource_id = intern_resource(self.connection, &text).unwrap();
        Ok(())
    }
}

impl logs::Visitor for Rows<'_> {
    fn record(&mut self, record: &[u8]) -> Result<(), Malformed> {
        insert(self.connection, &self.origin, &LogRecord::decode(record).unwrap()).unwrap();
        Ok(())
    }
}
