//! Records: reading what was captured, encoding, sealing batches, the whole way, and the configuration before it.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use offpath_benches::{
    Accepting, NOW_UNIX_NANO as NOW, config, host_answers, ordinary_request, take_answers,
};
use offpath_filter::batch::Batcher;
use offpath_filter::capture::{Captured, Plan};
use offpath_filter::config::Config;
use offpath_filter::otlp::envelope::Envelope;
use offpath_filter::record::Encoder;
use offpath_filter::redact::Redactor;
use offpath_filter::request::FinishedRequest;
use offpath_filter::route::Routes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;

use super::CONFIG;
use super::prost_record::log_record;

pub(super) fn define(criterion: &mut Criterion) {
    capture(criterion);
    encode(criterion);
    batch(criterion);
    observe(criterion);
    configuration(criterion);
}

fn capture(criterion: &mut Criterion) {
    let plan = Plan::new(&config(CONFIG).unwrap());
    let answers = host_answers(&plan, &ordinary_request(&plan));
    let mut captured = Captured::default();
    criterion.bench_function("capture decoding/offpath", |bencher| {
        bencher.iter(|| {
            take_answers(&plan, black_box(&answers).clone(), &mut captured).unwrap();
            black_box(FinishedRequest::read(&plan, &captured, NOW));
        });
    });
}

/// From the same request to the same record's bytes.
fn encode(criterion: &mut Criterion) {
    let config = config(CONFIG).unwrap();
    let plan = Plan::new(&config);
    let captured = ordinary_request(&plan);
    let request = FinishedRequest::read(&plan, &captured, NOW);
    let redactor = Redactor::new(&config, &Arc::new(Routes::new(&config.routes).unwrap()));
    let mut encoder = Encoder::new(&config.logs, redactor, config.logs.max_record_bytes);

    let mut body = Vec::new();
    let envelope = Envelope::new(std::iter::empty(), "offpath", "0");
    let open = envelope.begin(&mut body);
    encoder.encode(&request, NOW, &mut body);
    open.end(&mut body);
    let decoded = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
    let scopes = decoded.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    let records: Vec<_> = scopes.flat_map(|scope| scope.log_records).collect();
    assert_eq!(records, [log_record(&request, NOW)], "the same record");

    let mut group = criterion.benchmark_group("record encoding");
    group.throughput(Throughput::Bytes((body.len() - envelope.encoded_len()) as u64));
    let mut out = Vec::new();
    group.bench_function("offpath", |bencher| {
        bencher.iter(|| {
            out.clear();
            encoder.encode(black_box(&request), NOW, &mut out);
        });
    });
    group.bench_function("prost", |bencher| {
        bencher.iter(|| {
            out.clear();
            log_record(black_box(&request), NOW).encode(&mut out).unwrap();
        });
    });
    group.finish();
}

/// A batch of 512 records of 700 bytes, without the work of encoding them.
fn batch(criterion: &mut Criterion) {
    let mut config = config(CONFIG).unwrap();
    config.batch.max_bytes = 1 << 20;
    let envelope = Envelope::new([("service.name", "shop")].into_iter(), "offpath", "0");
    let mut batcher = Batcher::new(&config.batch);
    let record = [7; 700];
    criterion.bench_function("batch of 512 filled and sealed/offpath", |bencher| {
        bencher.iter(|| {
            (0..config.batch.max_records)
                .find_map(|_| batcher.push(&envelope, NOW, |out| out.extend_from_slice(&record)))
        });
    });
}

fn observe(criterion: &mut Criterion) {
    let mut accepting = Accepting::new(config(CONFIG).unwrap()).unwrap();
    criterion.bench_function("observe, batches sealed and accepted/offpath", |bencher| {
        bencher.iter(|| accepting.observe().unwrap());
    });
}

fn configuration(criterion: &mut Criterion) {
    criterion.bench_function("configuration parsing/offpath", |bencher| {
        bencher.iter(|| Config::parse(black_box(CONFIG.as_bytes())))
    });
}
