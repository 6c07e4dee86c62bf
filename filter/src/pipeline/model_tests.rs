//! Any order of requests, time, answers and reconfigurations, against a model of the collector that remembers what it
//! took: every record has one end, nothing is delivered that was not captured or twice, no bound is exceeded.

use std::collections::{HashMap, HashSet};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::testing::{Told, config};

const NOW: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;
const QUEUE_BYTES: usize = 3000;
const BATCH_BYTES: usize = 1200;
const MAX_IN_FLIGHT: usize = 2;

/// How long the paths of uniform requests are.
const UNIFORM_LEN: usize = 60;

#[derive(Debug, Clone)]
enum Step {
    /// A request ends, with a path of this many bytes.
    Request(usize),
    /// So many requests end at once.
    Burst(usize),
    /// Milliseconds pass.
    Tick(u64),
    /// The clock is set back by milliseconds.
    SetClockBack(u64),
    /// The nth call under way is answered.
    Answer(usize, Reply),
    /// The proxy refuses the next call of each.
    Refuse,
    /// The proxy takes all calls that may be made.
    Send,
    /// A new configuration: the old pipeline drains.
    Reconfigure,
}

#[derive(Debug, Clone)]
enum Reply {
    Ok,
    Partial(u8),
    Status(u16),
    RetryAfter(u8),
    /// No answer; the collector has taken the batch or not.
    Silence(bool),
}

/// What a case is played with.
#[derive(Debug, Clone, Copy)]
struct Setting {
    when_full: &'static str,
    /// More of the section `logs`.
    sampling: &'static str,
    batches: Batches,
}

/// How requests make batches.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Batches {
    /// One each, all alike, and the queue is a byte too small for a whole number of them: otherwise few cases come exactly to
    /// its bound.
    Uniform,
    /// Three each, or fewer: none waits for long to be worked on.
    Small,
    /// As many as fit: they wait for each other, and what is worked on together is several batches.
    Large,
}

impl Setting {
    fn max_records(self) -> u64 {
        match self.batches {
            Batches::Uniform => 1,
            Batches::Small => 3,
            Batches::Large => 100,
        }
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    let when_full = prop_oneof![Just("drop_oldest"), Just("drop_newest"), Just("spill")];
    let sampling = prop_oneof![
        3 => Just(""),
        1 => Just(r#","sample_ratio":0.7,"sample_by":"random""#),
        1 => Just(r#","max_records_per_second":2,"sample_by":"random""#),
    ];
    let batches = prop_oneof![Just(Batches::Uniform), Just(Batches::Small), Just(Batches::Large)];
    (when_full, sampling, batches).prop_map(|(when_full, sampling, batches)| Setting {
        when_full,
        sampling,
        batches,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let reply = prop_oneof![
        4 => Just(Reply::Ok),
        1 => (0u8..4).prop_map(Reply::Partial),
        2 => prop_oneof![Just(400u16), Just(408), Just(429), Just(500), Just(502), Just(503), Just(504)].prop_map(Reply::Status),
        1 => (0u8..20).prop_map(Reply::RetryAfter),
        1 => any::<bool>().prop_map(Reply::Silence),
    ];
    prop_oneof![
        8 => (1usize..400).prop_map(Step::Request),
        1 => (2usize..40).prop_map(Step::Burst),
        4 => (0u64..3000).prop_map(Step::Tick),
        1 => (0u64..4_000_000).prop_map(Step::SetClockBack),
        4 => (0usize..3, reply).prop_map(|(nth, reply)| Step::Answer(nth, reply)),
        1 => Just(Step::Refuse),
        4 => Just(Step::Send),
        1 => Just(Step::Reconfigure),
    ]
}

struct Call {
    generation: usize,
    token: u32,
    name: String,
    is_logs: bool,
    body: Vec<u8>,
    items: i64,
}

struct World {
    setting: Setting,
    queue_bytes: usize,
    now: u64,
    /// The last one is current, the others drain.
    generations: Vec<Pipeline>,
    calls: Vec<Call>,
    next_token: u32,
    /// By generation: how many calls did not fail since the last one that did.
    successes: Vec<usize>,
    captured: HashSet<u64>,
    /// What was sent under each name.
    sent: HashMap<String, Vec<u8>>,
    /// The collector's memory: batches taken, and records in them.
    taken_batches: HashSet<String>,
    taken_records: HashSet<u64>,
    /// Records that the collector has said it took, and that it refused for good.
    accepted: i64,
    refused: i64,
    spilled_lines: i64,
}

impl World {
    fn new(setting: Setting) -> Self {
        let mut world = Self {
            setting,
            queue_bytes: if setting.batches == Batches::Uniform {
                uniform_queue_bytes()
            } else {
                QUEUE_BYTES
            },
            now: NOW,
            generations: Vec::new(),
            calls: Vec::new(),
            next_token: 0,
            successes: Vec::new(),
            captured: HashSet::new(),
            sent: HashMap::new(),
            taken_batches: HashSet::new(),
            taken_records: HashSet::new(),
            accepted: 0,
            refused: 0,
            spilled_lines: 0,
        };
        world.reconfigure();
        world
    }

    fn reconfigure(&mut self) {
        if let Some(old) = self.generations.last_mut() {
            old.drain(self.now);
        }
        let seed = [self.generations.len() as u8; 16];
        self.generations.push(pipeline(self.setting, self.queue_bytes, seed, self.now));
        self.successes.push(MAX_IN_FLIGHT);
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Request(len) => self.request(len),
            Step::Burst(requests) => (0..requests).for_each(|_| self.request(UNIFORM_LEN)),
            Step::Tick(ms) => {
                self.now += ms * MS;
                for pipeline in &mut self.generations {
                    pipeline.tick(self.now);
                    prop_assert!(pipeline.backlog.is_empty(), "something waits longer than for a tick");
                }
            }
            Step::Answer(nth, reply) => {
                if nth < self.calls.len() {
                    let call = self.calls.remove(nth);
                    self.answer(call, reply)?;
                }
            }
            Step::SetClockBack(ms) => self.now -= ms * MS,
            Step::Refuse => {
                for (pipeline, successes) in self.generations.iter_mut().zip(&mut self.successes) {
                    if let Some(batch) = pipeline.take_next(self.now) {
                        pipeline.refused(batch, self.now);
                        *successes = 0;
                        prop_assert!(pipeline.take_next(self.now).is_none(), "tried again without a pause");
                    }
                }
            }
            Step::Send => self.send()?,
            Step::Reconfigure => self.reconfigure(),
        }
        self.check()
    }

    fn request(&mut self, len: usize) {
        let id = NOW - 1 - self.captured.len() as u64;
        let len = if self.setting.batches == Batches::Uniform { UNIFORM_LEN } else { len };
        observe(self.generations.last_mut().unwrap(), id, len, self.now);
        self.captured.insert(id);
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        for (generation, pipeline) in self.generations.iter_mut().enumerate() {
            while let Some(batch) = pipeline.take_next(self.now) {
                prop_assert!(batch.body.len() <= BATCH_BYTES);
                let headers = pipeline.call_headers(&batch);
                let name = headers.into_iter().find(|header| header.0 == "x-offpath-batch").unwrap().1;
                let body = batch.body.clone();
                let first = self.sent.entry(name.clone()).or_insert_with(|| body.clone());
                prop_assert_eq!(&*first, &body, "{} was sent again with other bytes", name);
                let is_logs = matches!(batch.signal, Signal::Logs);
                let (token, items) = (self.next_token, batch.items as i64);
                self.calls.push(Call { generation, token, name, is_logs, body, items });
                pipeline.dispatched(batch, self.next_token, self.now);
                self.next_token += 1;
            }
            let under_way = self.calls.iter().filter(|call| call.generation == generation).count();
            // One while the collector fails, and one more with each call that is taken when it is back.
            let allowed = self.successes[generation].clamp(1, MAX_IN_FLIGHT);
            prop_assert!(under_way <= allowed, "{} calls under way, {} allowed", under_way, allowed);
        }
        Ok(())
    }

    fn answer(&mut self, call: Call, reply: Reply) -> Result<(), TestCaseError> {
        let mut body = Vec::new();
        let mut retry_after = String::new();
        let status = match reply {
            Reply::Ok => Some(200),
            Reply::Partial(rejected) => {
                body = vec![0x0a, 2, 8, rejected];
                Some(200)
            }
            Reply::Status(status) => Some(status),
            Reply::RetryAfter(seconds) => {
                retry_after = seconds.to_string();
                Some(503)
            }
            Reply::Silence(_) => None,
        };
        if call.is_logs && status.is_some() && !is_unavailable(status) {
            let refused = match reply {
                Reply::Ok => 0,
                Reply::Partial(rejected) => i64::from(rejected).min(call.items),
                _ => call.items,
            };
            self.refused += refused;
            self.accepted += call.items - refused;
        }
        let is_taken = matches!(reply, Reply::Ok | Reply::Partial(_) | Reply::Silence(true));
        let is_failure = status.is_none() || is_unavailable(status);
        let successes = &mut self.successes[call.generation];
        *successes = if is_failure { 0 } else { *successes + 1 };
        // A batch that comes again under its name is answered like the first, and stored once.
        if is_taken && call.is_logs && self.taken_batches.insert(call.name.clone()) {
            self.take_records(&call.body)?;
        }
        let answer = Answer { status, retry_after: retry_after.as_bytes(), body: &body };
        self.generations[call.generation].answered(call.token, answer, self.now);
        Ok(())
    }

    fn take_records(&mut self, body: &[u8]) -> Result<(), TestCaseError> {
        let request = ExportLogsServiceRequest::decode(body).unwrap();
        for record in &request.resource_logs[0].scope_logs[0].log_records {
            let id = record.time_unix_nano;
            prop_assert!(self.captured.contains(&id), "{} was delivered but never captured", id);
            let body = format!("{:?}", record.body);
            prop_assert!(body.contains(&format!("GET /{id}/x")), "{} tells of another request: {}", id, body);
            prop_assert!(self.taken_records.insert(id), "{} was delivered twice", id);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let (mut captured, mut ended, mut delivered, mut rejected, mut spilled) = (0, 0, 0, 0, 0);
        for (generation, pipeline) in self.generations.iter_mut().enumerate() {
            self.spilled_lines += pipeline.take_spilled().len() as i64;
            prop_assert!(!pipeline.backlog.is_full(), "too much waits");
            let unsealed = pipeline.batcher.records() + pipeline.backlog.records();
            prop_assert!(unsealed < self.setting.max_records(), "a batch was not sealed by its last record");
            let ledger = pipeline.ledger();
            let dropped: i64 =
                Reason::ALL.iter().map(|reason| ledger.get(Stat::RecordsDropped(*reason))).sum();
            let pending = ledger.get(Stat::RecordsPending);
            prop_assert!(pending >= 0);
            prop_assert!((0..=self.queue_bytes as i64).contains(&ledger.get(Stat::QueueBytes)));
            let of_generation = self.calls.iter().filter(|call| call.generation == generation);
            let under_way: usize = of_generation.map(|call| call.body.len()).sum();
            prop_assert!(under_way as i64 <= ledger.get(Stat::QueueBytes), "what is under way counts");
            captured += ledger.get(Stat::RecordsCaptured);
            delivered += ledger.get(Stat::RecordsDelivered);
            rejected += ledger.get(Stat::RecordsDropped(Reason::Rejected));
            spilled += ledger.get(Stat::RecordsDropped(Reason::Spilled));
            let sampled_out = ledger.get(Stat::RecordsSampledOut);
            ended += sampled_out + ledger.get(Stat::RecordsDelivered) + dropped + pending;
        }
        prop_assert_eq!(captured, ended, "captured = sampled out + delivered + dropped + pending");
        prop_assert_eq!(captured, self.captured.len() as i64);
        prop_assert_eq!(spilled, self.spilled_lines);
        prop_assert_eq!((delivered, rejected), (self.accepted, self.refused), "as the collector has said");
        prop_assert!(delivered <= self.taken_records.len() as i64, "and no more than it has taken");
        Ok(())
    }

    /// The collector answers everything from now on.
    fn recover(&mut self) -> Result<(), TestCaseError> {
        self.generations.last_mut().unwrap().drain(self.now);
        for _ in 0..1000 {
            if self.generations.iter().all(Pipeline::is_drained) {
                return Ok(());
            }
            self.step(Step::Tick(100))?;
            self.step(Step::Send)?;
            while !self.calls.is_empty() {
                self.step(Step::Answer(0, Reply::Ok))?;
            }
        }
        Err(TestCaseError::fail("the drain does not end"))
    }
}

fn is_unavailable(status: Option<u16>) -> bool {
    matches!(status, Some(429 | 502 | 503 | 504))
}

fn pipeline(setting: Setting, queue_bytes: usize, seed: [u8; 16], now: u64) -> Pipeline {
    let Setting { when_full, sampling, batches } = setting;
    let (max_records, metrics) = (setting.max_records(), batches != Batches::Uniform);
    let sections = format!(
        r#""logs":{{"max_record_bytes":512{sampling}}},
           "metrics":{{"enabled":{metrics},"interval":"1s","temporality":"delta"}},
           "batch":{{"max_records":{max_records},"max_bytes":{BATCH_BYTES},"max_delay":"500ms"}},
           "queue":{{"max_bytes":{queue_bytes},"when_full":"{when_full}"}},
           "retry":{{"initial_backoff":"100ms","max_backoff":"1s","max_elapsed":"5s"}}"#
    );
    Pipeline::new(config(&sections), &Node::default(), seed, now).unwrap()
}

/// What makes a request this one is when it began: all else may be cut.
fn observe(pipeline: &mut Pipeline, id: u64, len: usize, now: u64) {
    let path = format!("/{id}/{}", "x".repeat(len));
    let told = Told::ordinary().text("request.path", &path).int("request.time", id as i64);
    let captured = told.captured(pipeline.plan());
    let kept = pipeline.judge(&captured, now);
    pipeline.observe(captured, kept, now);
}

/// As many uniform batches as the configuration asks room for, less a byte.
fn uniform_queue_bytes() -> usize {
    let setting = Setting { when_full: "drop_oldest", sampling: "", batches: Batches::Uniform };
    let mut pipeline = pipeline(setting, QUEUE_BYTES, [0; 16], NOW);
    observe(&mut pipeline, NOW - 1, UNIFORM_LEN, NOW);
    let batch = pipeline.take_next(NOW).unwrap().body.len();
    (2 * BATCH_BYTES + 1).div_ceil(batch) * batch - 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn every_record_has_one_end_whatever_happens(
        steps in proptest::collection::vec(step(), 0..80),
        setting in setting(),
    ) {
        let mut world = World::new(setting);
        for step in steps {
            world.step(step)?;
        }
        world.recover()?;
        for pipeline in &mut world.generations {
            prop_assert_eq!(pipeline.ledger().get(Stat::RecordsPending), 0);
            prop_assert_eq!(pipeline.ledger().get(Stat::QueueBytes), 0);
        }
    }
}
