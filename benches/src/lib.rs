//! What the benchmarks have in common: a configuration, and a finished request as the host tells it.

use std::hint::black_box;

use offpath_filter::capture::{Captured, Malformed, Plan};
use offpath_filter::config::{Config, ConfigError};
use offpath_filter::otlp::answer::Answer;
use offpath_filter::pipeline::{Node, Pipeline};

/// When everything happens.
pub const NOW_UNIX_NANO: u64 = 1_700_000_000_500_000_000;

const ACCEPTED: Answer<'_> = Answer { status: Some(200), retry_after: b"", body: b"" };

/// Reads `json`, which must be a whole configuration.
///
/// # Errors
/// What [`Config::parse`] says.
pub fn config(json: &str) -> Result<Config, ConfigError> {
    Config::parse(json.as_bytes())
}

/// An ordinary `GET` of 12 ms, answered 200, with every field that the plan asks for that such a request has.
pub fn ordinary_request(plan: &Plan) -> Captured {
    let mut captured = Captured::default();
    for path in plan.property_paths() {
        let value: Option<Vec<u8>> = match String::from_utf8_lossy(path).replace('\0', ".").as_str() {
            "request.time" => Some(1_700_000_000_000_000_000i64.to_le_bytes().into()),
            "request.duration" => Some(12_345_678i64.to_le_bytes().into()),
            "request.method" => Some("GET".into()),
            "request.path" => Some("/orders/7?page=2&sort=price".into()),
            "request.scheme" => Some("https".into()),
            "request.host" => Some("shop.example".into()),
            "request.protocol" => Some("HTTP/2".into()),
            "request.useragent" => {
                Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".into())
            }
            "request.id" => Some("8786c783-4b8d-4c8a-a3ee-2ed2e1b0eebd".into()),
            "request.headers.traceparent" => {
                Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into())
            }
            "request.total_size" => Some(320i64.to_le_bytes().into()),
            "response.code" => Some(200i64.to_le_bytes().into()),
            "response.code_details" => Some("via_upstream".into()),
            "response.flags" | "response.grpc_status" => Some(0i64.to_le_bytes().into()),
            "response.total_size" => Some(2048i64.to_le_bytes().into()),
            "response.backend_latency" => Some(11_000_000i64.to_le_bytes().into()),
            "source.address" => Some("10.1.2.3:55555".into()),
            "upstream.address" => Some("10.9.9.9:80".into()),
            "xds.cluster_name" | "xds.route_name" => Some("orders".into()),
            _ => None,
        };
        captured.push(value.as_deref());
    }
    captured
}

/// What the host answers when it is asked for `captured`, all of which is in the first stage of `plan`: the request's
/// header map, and the values of the CEL list.
pub fn host_answers(plan: &Plan, captured: &Captured) -> (Vec<u8>, Vec<u8>) {
    let stage = plan.first();
    let headers: Vec<_> = stage
        .headers()
        .iter()
        .enumerate()
        .map(|(slot, header)| (header.name.as_slice(), captured.slot(slot)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let listed: Vec<_> = (stage.headers().len()..)
        .take(stage.list_slots())
        .map(|slot| (captured.slot(slot), &[][..]))
        .collect();
    (pairs(&headers), pairs(&listed))
}

/// Proxy-wasm's serialized pairs.
fn pairs(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (first, second) in pairs {
        out.extend((first.len() as u32).to_le_bytes());
        out.extend((second.len() as u32).to_le_bytes());
    }
    for (first, second) in pairs {
        out.extend_from_slice(first);
        out.push(0);
        out.extend_from_slice(second);
        out.push(0);
    }
    out
}

/// Reads what [`host_answers`] tells, as the plugin does.
///
/// # Errors
/// When it cannot be read.
pub fn take_answers(
    plan: &Plan,
    (headers, list): (Vec<u8>, Vec<u8>),
    captured: &mut Captured,
) -> Result<(), Malformed> {
    captured.clear();
    captured.take_headers(headers, plan.first().headers())?;
    captured.take_list(list, plan.first().list_slots())
}

/// A pipeline whose collector accepts each batch as it comes.
#[derive(Debug)]
pub struct Accepting {
    pipeline: Pipeline,
    answers: (Vec<u8>, Vec<u8>),
    captured: Captured,
    calls: u32,
}

impl Accepting {
    /// As configured.
    ///
    /// # Errors
    /// What [`Pipeline::new`] says.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let pipeline = Pipeline::new(config, &Node::default(), [0; 16], NOW_UNIX_NANO)?;
        let answers = host_answers(pipeline.plan(), &ordinary_request(pipeline.plan()));
        Ok(Self { pipeline, answers, captured: Captured::default(), calls: 0 })
    }

    /// The whole of what an ordinary request takes, from the host's answers on, its part in batches and in statistics as well.
    ///
    /// # Errors
    /// When the answers cannot be read.
    pub fn observe(&mut self) -> Result<(), Malformed> {
        take_answers(self.pipeline.plan(), black_box(&self.answers).clone(), &mut self.captured)?;
        let kept = self.pipeline.judge(&self.captured, NOW_UNIX_NANO);
        let captured = std::mem::take(&mut self.captured);
        self.captured = self.pipeline.observe(captured, kept, NOW_UNIX_NANO);
        while let Some(batch) = self.pipeline.take_next(NOW_UNIX_NANO) {
            self.calls += 1;
            self.pipeline.dispatched(batch, self.calls, NOW_UNIX_NANO);
            self.pipeline.answered(self.calls, ACCEPTED, NOW_UNIX_NANO);
        }
        self.pipeline.ledger().take_changes(|stat, change| {
            black_box((stat, change));
        });
        Ok(())
    }
}

/// Durations from 200 µs to 10 s in no order that a branch predictor could learn.
#[derive(Debug, Clone, Default)]
pub struct Durations(u64);

impl Durations {
    /// The next duration, in nanoseconds.
    pub fn next_nano(&mut self) -> u64 {
        // Weyl's sequence by the golden ratio: no two neighbours are alike, and every run has the same ones.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let octave = self.0 >> 60;
        (200_000 << octave) + (self.0 >> 20 & 0xf_ffff) * (1 << octave) / 8
    }
}
