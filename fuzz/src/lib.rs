//! What the fuzz targets call: bytes come in that somebody outside chose, and nothing may panic. Where there is a second
//! opinion (the OpenTelemetry project's own messages, an encoding of one's own) the outcome is held against it.
//!
//! `filter/tests/corpus.rs` runs the same functions over the committed corpus.

use std::collections::BTreeSet;

use offpath_filter::capture::{Captured, WantedHeader, WantedHeaders};
use offpath_filter::config::Config;
use offpath_filter::lease::Table;
use offpath_filter::ledger::Stat;
use offpath_filter::otlp::answer::{Answer, Verdict};
use offpath_filter::pipeline::{Node, Pipeline};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;

/// A fuzz target's function.
pub type Entry = fn(&[u8]);

/// All targets, by name.
pub const ENTRIES: [(&str, Entry); 6] = [
    ("configuration", configuration),
    ("captured", captured),
    ("retry_after", retry_after),
    ("answer_body", answer_body),
    ("pairs", pairs),
    ("lease_table", lease_table),
];

/// 2023-11-14T22:13:20Z.
const NOW: u64 = 1_700_000_000_000_000_000;

/// Any bytes as the plugin's configuration: one that is refused gets one line that says why, one that is taken works.
pub fn configuration(bytes: &[u8]) {
    let configured =
        Config::parse(bytes).and_then(|config| Pipeline::new(config, &Node::default(), [7; 16], NOW));
    match configured {
        Ok(mut pipeline) => {
            observe(&mut pipeline, Captured::default());
            pipeline.drain(NOW);
            let _ = exports(&mut pipeline);
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty() && !error.contains(char::is_control), "{error:?}");
        }
    }
}

/// What keeps most of a request, and what cuts nearly all of it.
const CONFIGURATIONS: [&str; 2] = [
    r#"{"collector": {"cluster": "otlp"},
        "logs": {"request_headers": ["x-a", "authorization"], "response_headers": ["set-cookie", "x-b"]},
        "metrics": {"histograms": ["duration", "upstream", "proxy"],
                    "attributes": ["envoy.upstream.cluster", "envoy.route.name", "envoy.virtual_host.name"]}}"#,
    r#"{"collector": {"cluster": "otlp"},
        "logs": {"max_record_bytes": 512, "client_address": "truncated", "request_headers": ["x-a"]},
        "metrics": {"temporality": "delta", "max_series": 1},
        "batch": {"max_bytes": 1024}}"#,
];

/// Any bytes as any value of a request, in either configuration: there is one record, which is whole.
pub fn captured(bytes: &[u8]) {
    let (choice, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
    let configuration = CONFIGURATIONS[usize::from(choice % 2)];
    let config = Config::parse(configuration.as_bytes()).unwrap();
    let (max_record_bytes, max_batch_bytes) = (config.logs.max_record_bytes, config.batch.max_bytes);
    let mut pipeline = Pipeline::new(config, &Node::default(), [7; 16], NOW).unwrap();
    let mut captured = Captured::default();
    for _ in pipeline.plan().property_paths() {
        captured.push(take_value(&mut rest));
    }
    observe(&mut pipeline, captured);
    pipeline.drain(NOW);
    let mut records = Vec::new();
    for (path, body) in exports(&mut pipeline) {
        assert!(body.len() <= max_batch_bytes);
        if path == "/v1/logs" {
            let request = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
            let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
            records.extend(scopes.flat_map(|scope| scope.log_records));
        } else {
            ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
        }
    }
    let [record] = &records[..] else { panic!("{records:?}") };
    assert!(record.encoded_len() <= max_record_bytes, "{} bytes", record.encoded_len());
    let names: BTreeSet<&str> = record.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(names.len(), record.attributes.len(), "an attribute comes twice: {record:?}");
    assert!(record.attributes.iter().all(|attribute| attribute.value.is_some()), "{record:?}");
}

/// A request that ends.
fn observe(pipeline: &mut Pipeline, captured: Captured) {
    let kept = pipeline.judge(&captured, NOW);
    pipeline.observe(captured, kept, NOW);
}

/// A byte that says how long the value is, 0 for none and 255 for two more bytes that say it; then the value, as far as
/// there is one.
fn take_value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = match take(rest, 1) {
        [] | [0] => return None,
        [255] => take(rest, 2).iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)),
        bytes => usize::from(bytes[0]) - 1,
    };
    Some(take(rest, length))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length.min(rest.len()));
    *rest = left;
    taken
}

/// Path and body of all calls of a drained pipeline; each is taken, and nothing is left.
fn exports(pipeline: &mut Pipeline) -> Vec<(&'static str, Vec<u8>)> {
    let mut batches = Vec::new();
    while let Some(batch) = pipeline.take_next(NOW) {
        assert!(!pipeline.call_headers(&batch).is_empty());
        let token = u32::try_from(batches.len()).unwrap();
        batches.push((batch.signal.path(), batch.body.clone()));
        pipeline.dispatched(batch, token, NOW);
        pipeline.answered(token, Answer { status: Some(200), ..Answer::default() }, NOW);
    }
    assert!(pipeline.is_drained());
    assert_eq!(pipeline.ledger().get(Stat::RecordsPending), 0);
    batches
}

/// Any bytes as a `Retry-After` header: a pause, or none.
pub fn retry_after(bytes: &[u8]) {
    for status in [429, 502, 503, 504] {
        for now in [0, NOW, u64::MAX] {
            let answer = Answer { status: Some(status), retry_after: bytes, body: b"" };
            assert!(matches!(answer.verdict(now), Verdict::Unavailable { .. }));
        }
    }
}

/// Any bytes as the body of an answer: what the OpenTelemetry project's own message says was refused, was refused.
pub fn answer_body(bytes: &[u8]) {
    let answer = Answer { status: Some(200), retry_after: b"", body: bytes };
    let Verdict::Accepted { rejected } = answer.verdict(NOW) else { panic!("200 is no refusal") };
    if let Ok(response) = ExportLogsServiceResponse::decode(bytes) {
        let told = response.partial_success.map_or(0, |partial| partial.rejected_log_records);
        assert_eq!(rejected, u64::try_from(told).unwrap_or(0));
    }
    for status in [400, 500, 503] {
        Answer { status: Some(status), retry_after: b"", body: bytes }.verdict(NOW);
    }
}

/// Any bytes as what `expr_evaluate` returns or as a header map, and any values as Envoy would return them: those are found again.
pub fn pairs(bytes: &[u8]) {
    let mut captured = Captured::default();
    for slots in [0, 1, 2, 24, usize::MAX] {
        captured.clear();
        if captured.take_list(bytes.to_vec(), slots).is_ok() {
            let found: usize = (0..slots).map(|slot| captured.slot(slot).len()).sum();
            assert!(found <= bytes.len());
        }
    }
    let wanted = |name: &[u8]| WantedHeader { name: name.into(), is_joined: true };
    let wanted = WantedHeaders::new(vec![wanted(b""), wanted(b"x-a")]);
    captured.clear();
    if captured.take_headers(bytes.to_vec(), &wanted).is_ok() {
        let longest = (0..wanted.len()).map(|slot| captured.slot(slot).len()).max();
        assert!(longest.is_some_and(|longest| longest <= bytes.len()));
    }
    let mut rest = bytes;
    let mut values = Vec::new();
    while !rest.is_empty() {
        values.push(take_value(&mut rest).unwrap_or_default());
    }
    captured.clear();
    captured.take_list(encode_list(&values), values.len()).unwrap();
    for (slot, value) in values.iter().enumerate() {
        assert_eq!(captured.slot(slot), *value);
    }
}

fn encode_list(values: &[&[u8]]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut list = word(values.len()).to_vec();
    values.iter().for_each(|value| list.extend([word(value.len()), word(0)].concat()));
    values.iter().for_each(|value| list.extend([value, &b"\0\0"[..]].concat()));
    list
}

/// Any bytes as the table of leases: it is read as far as it is one, and what is read is written and read alike.
pub fn lease_table(bytes: &[u8]) {
    let mut table = Table::decode(bytes);
    let written = table.encode();
    assert!(written.len() <= bytes.len());
    assert!(Table::decode(&written) == table, "a table of {} bytes is read as another", written.len());
    let slot = table.claim([9; 16]);
    assert!(slot.is_none() || table.slot_of([9; 16]).is_some());
    slot.into_iter().for_each(|slot| table.free(slot));
}
