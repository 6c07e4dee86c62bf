//! Any order of requests, time, answers, reconfigurations, traps and stalls, through the built module, against a model
//! of the collector that remembers what it took. After every step each record has one end, no bound is exceeded, and
//! what was delivered is what was captured.

mod pacing;
mod world;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use self::world::{WORKERS, World};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A request to a worker ends, with a path of this many bytes and that status.
    Request(usize, usize, u16),
    /// So many requests to a worker end at once.
    Burst(usize, usize),
    /// A request to a worker springs the trap.
    Trap(usize),
    /// Milliseconds pass.
    Advance(u64),
    /// The whole process stands still for that many milliseconds.
    Freeze(u64),
    /// A worker does.
    Stall(usize, u64),
    /// The clock is set back by that many milliseconds.
    SetClockBack(u64),
    /// The nth call under way is answered.
    Answer(usize, Reply),
    /// The cluster is what a call finds from now on.
    Cluster(Health),
    /// A listener update.
    Reconfigure,
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Ok,
    Partial(u8),
    Status(u16),
    RetryAfter(u8),
    /// No answer; the collector has taken the batch or not.
    Reset(bool),
    Timeout(bool),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Health {
    There,
    Unknown,
    WithoutEndpoints,
}

/// What a case is played with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) when_full: &'static str,
    pub(crate) batches: Batches,
    pub(crate) seed: u64,
}

/// How requests make batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Batches {
    /// One each, all alike, and the queue is a byte too small for a whole number of them: otherwise few cases come exactly to
    /// its bound.
    Uniform,
    /// Three each, or fewer: none waits for long to be worked on.
    Small,
    /// As many as fit: they wait for each other, and what is worked on together is several batches.
    Large,
}

fn setting() -> impl Strategy<Value = Setting> {
    let when_full = prop_oneof![Just("drop_oldest"), Just("drop_newest"), Just("spill")];
    let batches =
        prop_oneof![1 => Just(Batches::Uniform), 2 => Just(Batches::Small), 2 => Just(Batches::Large)];
    (when_full, batches, 0u64..1000).prop_map(|(when_full, batches, seed)| Setting {
        when_full,
        batches,
        seed,
    })
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
        24 => (worker.clone(), 1usize..400, prop_oneof![Just(200u16), Just(404), Just(503)])
            .prop_map(|(worker, len, status)| Step::Request(worker, len, status)),
        2 => (worker.clone(), 2usize..40).prop_map(|(worker, requests)| Step::Burst(worker, requests)),
        2 => worker.clone().prop_map(Step::Trap),
        12 => (0u64..3000).prop_map(Step::Advance),
        2 => (3000u64..40_000).prop_map(Step::Advance),
        2 => (0u64..100_000).prop_map(Step::Freeze),
        2 => (worker, 0u64..40_000).prop_map(|(worker, ms)| Step::Stall(worker, ms)),
        1 => (0u64..4_000_000).prop_map(Step::SetClockBack),
        12 => (0usize..4, reply).prop_map(|(nth, reply)| Step::Answer(nth, reply)),
        2 => health.prop_map(Step::Cluster),
        2 => Just(Step::Reconfigure),
    ]
}

fn play(steps: impl IntoIterator<Item = Step>, setting: Setting) -> Result<(), TestCaseError> {
    let mut world = World::new(setting);
    for step in steps {
        world.step(step)?;
    }
    world.recover()
}

proptest! {
    #![proptest_config(ProptestConfig {
        // The native model (filter/src/pipeline/model_tests.rs) has more cases; these show that the shell keeps them.
        cases: 300,
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plugin/model.regressions"),
        ))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_record_has_one_end_whatever_happens(
        steps in proptest::collection::vec(step(), 0..60),
        setting in setting(),
    ) {
        play(steps, setting)?;
    }
}

/// Cases that failed once.
#[test]
fn a_worker_that_was_only_slow_is_not_counted_twice() {
    use Reply::{Ok, Timeout};
    use Step::{Advance, Answer, Reconfigure, Request, SetClockBack, Stall};
    let request = |worker| Request(worker, 1, 200);
    let taken_for_lost = [request(1), Stall(1, 21_581), Advance(0), request(0), Advance(16_125), request(1)];
    let reconfigured = [request(0), Advance(500), Stall(0, 15_626), Advance(17_625), request(0), Reconfigure];
    let answered_late = [
        request(1),
        request(0),
        Advance(625),
        Answer(0, Ok),
        Answer(1, Timeout(true)),
        Advance(8738),
        Advance(1887),
    ];
    let set_back =
        [Advance(0), request(0), SetClockBack(19_471), Stall(0, 15_125), Advance(15_625), request(0)];
    for (steps, seed) in [
        (taken_for_lost.to_vec(), 0),
        (reconfigured.to_vec(), 0),
        (answered_late.to_vec(), 4),
        (set_back.to_vec(), 0),
    ] {
        let setting = Setting { when_full: "drop_oldest", batches: Batches::Small, seed };
        play(steps, setting).unwrap();
    }
}
