//! The plugin's parts, natively: `cargo bench`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot be set up has nothing to say")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use offpath_benches::{config, ordinary_request};
use offpath_filter::capture::Plan;
use offpath_filter::config::Config;
use offpath_filter::measure::{Histogram, Layout, Measurements};
use offpath_filter::otlp::answer::Answer;
use offpath_filter::pipeline::{Node, Pipeline};
use offpath_filter::record::Encoder;
use offpath_filter::request::FinishedRequest;

const NOW: u64 = 1_700_000_000_500_000_000;
const ACCEPTED: Answer<'_> = Answer { status: Some(200), retry_after: b"", body: b"" };
const CONFIG: &str = r#"{"collector": {"cluster": "otlp"}}"#;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    histogram(&mut criterion);
    request(&mut criterion);
    configuration(&mut criterion);
    criterion.final_summary();
}

fn histogram(criterion: &mut Criterion) {
    let layout = Layout::new(160);
    let mut histogram = Histogram::default();
    let mut seconds = 1e-3;
    criterion.bench_function("histogram/record", |bencher| {
        bencher.iter(|| {
            seconds = if seconds > 50.0 { 1e-3 } else { seconds * 1.37 };
            histogram.record(&layout, black_box(seconds));
        });
    });
}

fn request(criterion: &mut Criterion) {
    let config = config(CONFIG).unwrap();
    let plan = Plan::new(&config);
    let captured = ordinary_request(&plan);
    let request = FinishedRequest::read(&plan, &captured, NOW);

    let mut measurements = Measurements::new(&config.metrics, NOW);
    criterion.bench_function("measure/series look-up and record", |bencher| {
        bencher.iter(|| measurements.record(black_box(&request)));
    });

    let mut encoder = Encoder::new(&config.logs, config.logs.max_record_bytes);
    let mut out = Vec::new();
    encoder.encode(&request, NOW, &mut out);
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encoder.encode(black_box(&request), NOW, &mut out);
        });
    });
    group.finish();

    let mut pipeline = Pipeline::new(config, &Node::default(), [0; 16], NOW).unwrap();
    criterion.bench_function("pipeline/observe, batches sealed and accepted", |bencher| {
        let mut token = 0;
        bencher.iter(|| {
            pipeline.observe(black_box(&captured), NOW);
            while let Some(batch) = pipeline.take_next(NOW) {
                token += 1;
                pipeline.dispatched(batch, token, NOW);
                pipeline.answered(token, ACCEPTED, NOW);
            }
            pipeline.ledger().take_changes(|stat, change| {
                black_box((stat, change));
            });
        });
    });
}

fn configuration(criterion: &mut Criterion) {
    criterion.bench_function("config/parse", |bencher| {
        bencher.iter(|| Config::parse(black_box(CONFIG.as_bytes())))
    });
}
