//! The proxy with the plugin, what was captured, and the collector's memory.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use offpath_host_test::{Answer, Call, FailurePolicy, LogLevel, LogLine, Proxy, VmRole, get};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::pacing::Pacing;
use super::{Batches, Health, Reply, Setting, Step};
use crate::support::{
    DROP_REASONS, attributes, batch_id, config, double, dropped, int, millis, points, records, text,
    trapping_wasm,
};

pub(super) const WORKERS: usize = 2;
pub(super) const MAX_IN_FLIGHT: usize = 2;
const BATCH_BYTES: usize = 1200;
const QUEUE_BYTES: u64 = 3000;

/// How long the paths of uniform requests are.
const UNIFORM_LEN: usize = 60;

/// When the first request began; each later one a nanosecond before the one before it, so that this is its name: all
/// else of a record may be cut.
const FIRST_BEGIN: u64 = 1_748_779_000_000_000_000;

/// What is known of a request that the plugin heard of.
struct Captured {
    path: String,
    status: u16,
}

pub(super) struct World {
    proxy: Proxy,
    setting: Setting,
    queue_bytes: u64,
    configurations: u64,
    trapped: u64,
    requests: u64,
    /// By when it began.
    captured: HashMap<u64, Captured>,
    /// What was sent under each name.
    sent: HashMap<String, Vec<u8>>,
    /// The collector's memory: batches taken, records in them, requests counted in them.
    taken_batches: HashSet<String>,
    taken: HashSet<u64>,
    measured: u64,
    pacing: Pacing,
    /// How many lines of the log say that somebody was taken for lost.
    taken_for_lost: usize,
}

impl World {
    pub(super) fn new(setting: Setting) -> Self {
        let queue_bytes =
            if setting.batches == Batches::Uniform { uniform_queue_bytes() } else { QUEUE_BYTES };
        let proxy = Proxy::load(trapping_wasm())
            .config(configuration(setting, queue_bytes, 0))
            .workers(WORKERS)
            .failure_policy(FailurePolicy::FailReload)
            .seed(setting.seed)
            .start()
            .unwrap();
        Self {
            proxy,
            setting,
            queue_bytes,
            configurations: 0,
            trapped: 0,
            requests: 0,
            captured: HashMap::new(),
            sent: HashMap::new(),
            taken_batches: HashSet::new(),
            taken: HashSet::new(),
            measured: 0,
            pacing: Pacing::default(),
            taken_for_lost: 0,
        }
    }

    pub(super) fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let needs = match &step {
            Step::Request(worker, ..) | Step::Burst(worker, _) | Step::Trap(worker) => *worker..worker + 1,
            Step::Reconfigure => 0..WORKERS,
            _ => 0..0,
        };
        if needs.into_iter().any(|worker| self.proxy.is_stalled(worker)) {
            return Ok(());
        }
        match step {
            Step::Request(worker, ..) if self.setting.batches == Batches::Uniform => {
                self.request(worker, UNIFORM_LEN, 200);
            }
            Step::Request(worker, len, status) => self.request(worker, len, status),
            Step::Burst(worker, requests) => {
                (0..requests).for_each(|_| self.request(worker, UNIFORM_LEN, 200));
            }
            Step::Trap(worker) => {
                let request = get("/").header("x-offpath-trap", "1");
                self.requests += 1;
                // Where the machine is dead already, nobody hears of it.
                let trapped = self.proxy.request(request).on_worker(worker).respond(200).is_err();
                self.trapped += u64::from(trapped);
            }
            Step::Advance(ms) => self.proxy.advance(millis(ms)).unwrap(),
            Step::Freeze(ms) => self.proxy.freeze(millis(ms)),
            Step::Stall(worker, ms) => self.proxy.stall(worker, millis(ms)),
            Step::SetClockBack(ms) => self.proxy.set_clock_back(millis(ms)),
            Step::Answer(nth, reply) => {
                let pending = self.proxy.cluster("otlp").pending();
                let awake = |call: &&Call| {
                    !(0..WORKERS)
                        .any(|worker| call.vm == VmRole::Worker(worker) && self.proxy.is_stalled(worker))
                };
                if let Some(call) = pending.iter().filter(awake).nth(nth) {
                    self.answer(call, &reply)?;
                }
            }
            Step::Cluster(health) => {
                let mut cluster = self.proxy.cluster("otlp");
                cluster.add();
                cluster.restore_endpoints();
                match health {
                    Health::There => {}
                    Health::Unknown => cluster.remove(),
                    Health::WithoutEndpoints => cluster.remove_endpoints(),
                }
            }
            Step::Reconfigure => {
                self.configurations += 1;
                self.proxy
                    .reconfigure(configuration(self.setting, self.queue_bytes, self.configurations))
                    .unwrap();
            }
        }
        self.check()
    }

    fn request(&mut self, worker: usize, len: usize, status: u16) {
        let begin = FIRST_BEGIN - self.requests;
        self.requests += 1;
        let path = path(begin, len);
        let request = get(&path).with(|info| info.start_unix_nanos = begin);
        let unheard = self.proxy.vm_reloads().backoff;
        self.proxy.request(request).on_worker(worker).respond(status).unwrap();
        if self.proxy.vm_reloads().backoff == unheard {
            self.captured.insert(begin, Captured { path, status });
        }
    }

    fn answer(&mut self, call: &Call, reply: &Reply) -> Result<(), TestCaseError> {
        let (answer, is_taken) = match reply {
            Reply::Ok => (Answer::status(200), true),
            Reply::Partial(rejected) => (Answer::status(200).with_body([0x0a, 2, 8, *rejected]), true),
            Reply::Status(status) => (Answer::status(*status), false),
            Reply::RetryAfter(seconds) => {
                (Answer::status(503).header("retry-after", seconds.to_string()), false)
            }
            Reply::Reset(is_taken) => (Answer::Reset, *is_taken),
            Reply::Timeout(is_taken) => (Answer::timeout(), *is_taken),
        };
        // A batch that comes again under its name is answered like the first, and stored once.
        if is_taken && self.taken_batches.insert(batch_id(call)) {
            for record in records([call]) {
                self.take(&record)?;
            }
            self.measured +=
                points([call], "http.server.request.duration").iter().map(|point| point.count).sum::<u64>();
        }
        self.proxy.cluster("otlp").answer_call(call.number, answer).unwrap();
        self.pacing.answered(call, is_failure(reply));
        Ok(())
    }

    /// The collector takes a record: one that was captured, whole and once.
    fn take(&mut self, record: &LogRecord) -> Result<(), TestCaseError> {
        let begin = record.time_unix_nano;
        let Some(captured) = self.captured.get(&begin) else {
            return Err(TestCaseError::fail(format!("{begin} was delivered but never captured")));
        };
        prop_assert!(self.taken.insert(begin), "{} was delivered twice", begin);
        let attributes = attributes(&record.attributes);
        // One that was cut says so, and may lack an attribute or the end of one.
        let was_cut = attributes.contains_key("offpath.truncated");
        for (name, expected) in [
            ("http.request.method", text("GET")),
            ("http.response.status_code", int(captured.status.into())),
            ("http.server.request.duration", double(0.012)),
        ] {
            let told = attributes.get(name);
            prop_assert!(told == Some(&expected) || (was_cut && told.is_none()), "{}: {:?}", name, told);
        }
        let told = match attributes.get("url.path").and_then(|told| told.value.as_ref()) {
            Some(Any::StringValue(path)) => path.as_str(),
            _ => "",
        };
        prop_assert!(told == captured.path || (was_cut && captured.path.starts_with(told)), "{}", told);
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let proxy = &mut self.proxy;
        let pending = proxy.gauge("offpath_records_pending");
        let dropped_total: u64 = proxy.counters(DROP_REASONS).iter().map(|(_, count)| count).sum();
        let captured = proxy.counter("offpath_records_captured_total");
        let delivered = proxy.counter("offpath_records_delivered_total");
        prop_assert!(pending <= captured, "{} pending of {}", pending.cast_signed(), captured);
        prop_assert_eq!(captured, delivered + dropped_total + pending, "pending is {}", pending);
        prop_assert_eq!(captured, self.captured.len() as u64);
        prop_assert_eq!(captured + self.trapped + proxy.vm_reloads().backoff, self.requests);
        prop_assert!(delivered <= self.taken.len() as u64, "delivered is never more than what was taken");
        prop_assert!(self.measured <= captured, "a measurement was told twice");

        let sum = |gauges: &[(String, u64)]| gauges.iter().map(|(_, value)| value).sum::<u64>();
        let bytes = proxy.gauges("offpath_vm_queue_bytes.");
        prop_assert!(bytes.iter().all(|(_, bytes)| *bytes <= self.queue_bytes), "{:?}", bytes);
        prop_assert_eq!(sum(&bytes), proxy.gauge("offpath_queue_bytes"));
        prop_assert_eq!(sum(&proxy.gauges("offpath_vm_records_pending.")), pending);

        let pending = proxy.cluster("otlp").pending();
        for call in &pending {
            prop_assert!(call.body.len() <= BATCH_BYTES);
            let first = self.sent.entry(batch_id(call)).or_insert_with(|| call.body.clone());
            prop_assert_eq!(&*first, &call.body, "sent again with other bytes");
        }
        let is_of_loss = |line: &&LogLine| line.message.starts_with("taken for lost");
        let taken_for_lost = proxy.log_lines().iter().filter(is_of_loss).count();
        let somebody_was_lost = taken_for_lost > std::mem::replace(&mut self.taken_for_lost, taken_for_lost);
        let too_many = self.pacing.look(&pending, somebody_was_lost);
        prop_assert!(too_many.is_empty(), "(sender, calls under way, allowed): {:?}", too_many);
        Ok(())
    }

    /// Everything works from now on: in the end nothing is pending, and what did not arrive was counted.
    pub(super) fn recover(&mut self) -> Result<(), TestCaseError> {
        self.step(Step::Cluster(Health::There))?;
        (0..WORKERS).for_each(|worker| self.proxy.stall(worker, millis(0)));
        for _ in 0..300 {
            self.step(Step::Advance(500))?;
            while !self.proxy.cluster("otlp").pending().is_empty() {
                self.step(Step::Answer(0, Reply::Ok))?;
            }
            let pending = self.proxy.gauge("offpath_records_pending");
            if (pending, self.proxy.gauge("offpath_queue_bytes"), self.proxy.draining()) == (0, 0, 0) {
                return self.check_the_end();
            }
        }
        let pending = self.proxy.gauge("offpath_records_pending");
        Err(TestCaseError::fail(format!("{pending} records are pending for ever")))
    }

    fn check_the_end(&self) -> Result<(), TestCaseError> {
        let dropped_total: u64 = self.proxy.counters(DROP_REASONS).iter().map(|(_, count)| count).sum();
        let missing = (self.captured.len() - self.taken.len()) as u64;
        prop_assert!(missing <= dropped_total, "{} did not arrive, {} were counted", missing, dropped_total);
        let spilled: Vec<u64> = self
            .proxy
            .log_lines()
            .iter()
            .filter(|line| line.level == LogLevel::Warn && line.message.starts_with('{'))
            .map(|line| {
                serde_json::from_str::<Value>(&line.message).unwrap()["time_unix_nano"].as_u64().unwrap()
            })
            .collect();
        prop_assert_eq!(spilled.len() as u64, dropped(&self.proxy, "spilled"));
        for begin in spilled {
            prop_assert!(self.captured.contains_key(&begin) && !self.taken.contains(&begin), "{}", begin);
        }
        Ok(())
    }
}

fn path(begin: u64, len: usize) -> String {
    format!("/{begin}/{}", "x".repeat(len))
}

fn is_failure(reply: &Reply) -> bool {
    match reply {
        Reply::Ok | Reply::Partial(_) => false,
        Reply::Status(status) => [429, 502, 503, 504].contains(status),
        Reply::RetryAfter(_) | Reply::Reset(_) | Reply::Timeout(_) => true,
    }
}

fn configuration(setting: Setting, queue_bytes: u64, number: u64) -> Value {
    config(json!({
        "collector": {"max_in_flight": MAX_IN_FLIGHT},
        "resource": {"configuration": number.to_string()},
        "logs": {"max_record_bytes": 512},
        "metrics": {"enabled": setting.batches != Batches::Uniform, "interval": "1s", "temporality": "delta"},
        "batch": {
            "max_records": match setting.batches {
                Batches::Uniform => 1,
                Batches::Small => 3,
                Batches::Large => 100,
            },
            "max_bytes": BATCH_BYTES,
            "max_delay": "500ms",
        },
        "queue": {"max_bytes": queue_bytes, "when_full": setting.when_full},
        "retry": {"initial_backoff": "100ms", "max_backoff": "1s", "max_elapsed": "5s"},
    }))
}

/// As many uniform batches as the configuration asks room for, less a byte.
fn uniform_queue_bytes() -> u64 {
    static BATCH: OnceLock<usize> = OnceLock::new();
    let batch = *BATCH.get_or_init(|| {
        let setting = Setting { when_full: "drop_oldest", batches: Batches::Uniform, seed: 0 };
        let mut proxy =
            Proxy::load(trapping_wasm()).config(configuration(setting, QUEUE_BYTES, 0)).start().unwrap();
        let request = get(path(FIRST_BEGIN, UNIFORM_LEN));
        proxy.request(request.with(|info| info.start_unix_nanos = FIRST_BEGIN)).respond(200).unwrap();
        proxy.cluster("otlp").answer(200).unwrap().body.len()
    });
    ((2 * BATCH_BYTES + 1).div_ceil(batch) * batch - 1) as u64
}
