//! Any order of requests, time, answers, reconfigurations, traps and stalls, through the built module, against a model
//! of the collector that remembers what it took. After every step each record has one end, no bound is exceeded, and
//! what was delivered is what was captured.

use std::collections::{BTreeMap, HashMap, HashSet};

use offpath_host_test::{Answer, Call, FailurePolicy, LogLevel, Proxy, VmRole, get};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};

use crate::support::{
    DROP_REASONS, attributes, batch_id, config, double, dropped, int, millis, points, records, text,
    trapping_wasm,
};

const WORKERS: usize = 2;
const MAX_IN_FLIGHT: usize = 2;
const BATCH_BYTES: usize = 1200;
const QUEUE_BYTES: u64 = 3000;

/// When the first request began; each later one a nanosecond before the one before it, so that this is its name: all
/// else of a record may be cut.
const FIRST_BEGIN: u64 = 1_748_779_000_000_000_000;

#[derive(Debug, Clone)]
enum Step {
    /// A request to a worker ends, with a path of this many bytes and that status.
    Request(usize, usize, u16),
    /// A request to a worker springs the trap.
    Trap(usize),
    /// Milliseconds pass.
    Advance(u64),
    /// The whole process stands still for that many milliseconds.
    Freeze(u64),
    /// A worker does.
    Stall(usize, u64),
    /// The nth call under way is answered.
    Answer(usize, Reply),
    /// The cluster is what a call finds from now on.
    Cluster(Health),
    /// A listener update.
    Reconfigure,
}

#[derive(Debug, Clone)]
enum Reply {
    Ok,
    Partial(u8),
    Status(u16),
    RetryAfter(u8),
    /// No answer; the collector has taken the batch or not.
    Reset(bool),
    Timeout(bool),
}

#[derive(Debug, Clone, Copy)]
enum Health {
    There,
    Unknown,
    WithoutEndpoints,
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..WORKERS;
    let statuses = prop_oneof![Just(400u16), Just(408), Just(429), Just(500), Just(502), Just(503)];
    let reply = prop_oneof![
        5 => Just(Reply::Ok),
        1 => (0u8..4).prop_map(Reply::Partial),
        2 => statuses.prop_map(Reply::Status),
        1 => (0u8..20).prop_map(Reply::RetryAfter),
        1 => any::<bool>().prop_map(Reply::Reset),
        1 => any::<bool>().prop_map(Reply::Timeout),
    ];
    let health = prop_oneof![2 => Just(Health::There), 1 => Just(Health::Unknown), 1 => Just(Health::WithoutEndpoints)];
    prop_oneof![
        12 => (worker.clone(), 1usize..400, prop_oneof![Just(200u16), Just(404), Just(503)])
            .prop_map(|(worker, len, status)| Step::Request(worker, len, status)),
        1 => worker.clone().prop_map(Step::Trap),
        6 => (0u64..3000).prop_map(Step::Advance),
        1 => (3000u64..40_000).prop_map(Step::Advance),
        1 => (0u64..100_000).prop_map(Step::Freeze),
        1 => (worker, 0u64..40_000).prop_map(|(worker, ms)| Step::Stall(worker, ms)),
        6 => (0usize..4, reply).prop_map(|(nth, reply)| Step::Answer(nth, reply)),
        1 => health.prop_map(Step::Cluster),
        1 => Just(Step::Reconfigure),
    ]
}

/// What is known of a request that the plugin heard of.
struct Captured {
    path: String,
    status: u16,
}

struct World {
    proxy: Proxy,
    when_full: &'static str,
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
}

impl World {
    fn new(when_full: &'static str, seed: u64) -> Self {
        let proxy = Proxy::load(trapping_wasm())
            .config(configuration(when_full, 0))
            .workers(WORKERS)
            .failure_policy(FailurePolicy::FailReload)
            .seed(seed)
            .start()
            .unwrap();
        Self {
            proxy,
            when_full,
            configurations: 0,
            trapped: 0,
            requests: 0,
            captured: HashMap::new(),
            sent: HashMap::new(),
            taken_batches: HashSet::new(),
            taken: HashSet::new(),
            measured: 0,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let needs = match &step {
            Step::Request(worker, ..) | Step::Trap(worker) => *worker..worker + 1,
            Step::Reconfigure => 0..WORKERS,
            _ => 0..0,
        };
        if needs.into_iter().any(|worker| self.proxy.is_stalled(worker)) {
            return Ok(());
        }
        match step {
            Step::Request(worker, len, status) => self.request(worker, len, status),
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
                self.proxy.reconfigure(configuration(self.when_full, self.configurations)).unwrap();
            }
        }
        self.check()
    }

    fn request(&mut self, worker: usize, len: usize, status: u16) {
        let begin = FIRST_BEGIN - self.requests;
        self.requests += 1;
        let path = format!("/{begin}/{}", "x".repeat(len));
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
        prop_assert!(bytes.iter().all(|(_, bytes)| *bytes <= QUEUE_BYTES), "{:?}", bytes);
        prop_assert_eq!(sum(&bytes), proxy.gauge("offpath_queue_bytes"));
        prop_assert_eq!(sum(&proxy.gauges("offpath_vm_records_pending.")), pending);

        let mut under_way = BTreeMap::new();
        for call in proxy.cluster("otlp").pending() {
            prop_assert!(call.body.len() <= BATCH_BYTES);
            let name = batch_id(&call);
            let sender = name.rsplit_once('-').unwrap().0.to_owned();
            *under_way.entry(sender).or_insert(0) += 1;
            let first = self.sent.entry(name).or_insert_with(|| call.body.clone());
            prop_assert_eq!(&*first, &call.body, "sent again with other bytes");
        }
        prop_assert!(under_way.values().all(|calls| *calls <= MAX_IN_FLIGHT), "{:?}", under_way);
        Ok(())
    }

    /// Everything works from now on: in the end nothing is pending, and what did not arrive was counted.
    fn recover(&mut self) -> Result<(), TestCaseError> {
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

fn configuration(when_full: &str, number: u64) -> Value {
    config(json!({
        "collector": {"max_in_flight": MAX_IN_FLIGHT},
        "resource": {"configuration": number.to_string()},
        "logs": {"max_record_bytes": 512},
        "metrics": {"interval": "1s", "temporality": "delta"},
        "batch": {"max_records": 3, "max_bytes": BATCH_BYTES, "max_delay": "500ms"},
        "queue": {"max_bytes": QUEUE_BYTES, "when_full": when_full},
        "retry": {"initial_backoff": "100ms", "max_backoff": "1s", "max_elapsed": "5s"},
    }))
}

proptest! {
    #![proptest_config(ProptestConfig {
        // The native model (filter/src/pipeline/model_tests.rs) has the many cases; these show that the shell keeps them.
        cases: 40,
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plugin/model.regressions"),
        ))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_record_has_one_end_whatever_happens(
        steps in proptest::collection::vec(step(), 0..60),
        when_full in prop_oneof![Just("drop_oldest"), Just("drop_newest"), Just("spill")],
        seed in 0u64..1000,
    ) {
        let mut world = World::new(when_full, seed);
        for step in steps {
            world.step(step)?;
        }
        world.recover()?;
    }
}
