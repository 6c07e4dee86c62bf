//! The faults: what goes wrong, how the plugin is configured for it, and what it may drop then.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::bootstrap::Mode;
use crate::harness::receiver::Behaviour;

/// What goes wrong, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// The receiver treats calls so.
    Receiver(Behaviour),
    /// Nobody listens where the receiver was.
    Down,
    /// The listener is replaced by one with another configuration of the plugin, a few times, while the receiver treats
    /// calls so.
    UpdateListener(Behaviour),
    /// The plugin traps, or the dynamic module panics, a few times.
    Trap,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// For people.
    pub name: &'static str,
    /// What goes wrong.
    pub treatment: Treatment,
    /// How the plugin is loaded.
    pub mode: Mode,
    /// How much longer than the others it lasts.
    pub times_longer: u32,
    /// What is changed in the plugin's configuration.
    pub keys: Vec<(&'static str, Value)>,
    /// The reasons for which records may be dropped; with none of them, all have to be delivered.
    pub may_drop: &'static [&'static str],
}

/// The most bytes that the queue of a worker holds, unless a fault says otherwise.
pub const QUEUE_BYTES: u64 = 4 << 20;

/// What all faults have in common: small constants, so that seconds show what otherwise takes minutes.
#[must_use]
pub fn common_keys() -> Vec<(&'static str, Value)> {
    vec![
        ("batch.max_records", json!(64)),
        ("batch.max_delay", json!("250ms")),
        ("metrics.interval", json!("1s")),
        ("collector.timeout", json!("1s")),
        ("queue.max_bytes", json!(QUEUE_BYTES)),
        ("retry.initial_backoff", json!("100ms")),
        ("retry.max_backoff", json!("1s")),
    ]
}

/// All faults, in the order of the table.
#[must_use]
pub fn all() -> Vec<Fault> {
    use Behaviour::{Answer, AskForPause, Delay, Hang, Reset, ResetWithinAnswer, TakeInPart};
    use Treatment::{Down, Receiver, Trap, UpdateListener};
    let unavailable = Answer(StatusCode::SERVICE_UNAVAILABLE);
    // Two calls of 4 KiB are taken each half second, and several times as much comes.
    let slow = Receiver(Delay(Duration::from_millis(500)));
    let small = |when_full: &str| {
        vec![
            ("logs.max_record_bytes", json!(1024)),
            ("batch.max_bytes", json!(4096)),
            ("queue.max_bytes", json!(16384)),
            ("queue.when_full", json!(when_full)),
        ]
    };
    let briefly = vec![("retry.max_elapsed", json!("500ms"))];
    let rejected = ["rejected"].as_slice();
    let queue_full = ["queue_full"].as_slice();
    let of_module = |fault: Fault| Fault { mode: Mode::DynamicModule, ..fault };
    vec![
        fault("none", Receiver(Behaviour::HEALTHY), &[]),
        Fault { times_longer: 3, ..fault("collector down", Down, &[]) },
        Fault { keys: briefly, ..fault("down, max_elapsed 500ms", Down, &["expired"]) },
        fault("503, Retry-After: 1", Receiver(AskForPause(StatusCode::SERVICE_UNAVAILABLE, 1)), &[]),
        fault("400", Receiver(Answer(StatusCode::BAD_REQUEST)), rejected),
        fault("500", Receiver(Answer(StatusCode::INTERNAL_SERVER_ERROR)), rejected),
        fault("partial success", Receiver(TakeInPart), rejected),
        fault("accepts, never answers", Receiver(Hang), &[]),
        fault("accepts, resets", Receiver(Reset), &[]),
        fault("resets within answer", Receiver(ResetWithinAnswer), &[]),
        Fault { keys: small("drop_oldest"), ..fault("too slow, drop_oldest", slow, queue_full) },
        Fault { keys: small("drop_newest"), ..fault("too slow, drop_newest", slow, queue_full) },
        Fault { keys: small("spill"), ..fault("too slow, spill", slow, &["spilled", "queue_full"]) },
        fault("listener update", UpdateListener(Behaviour::HEALTHY), &[]),
        Fault {
            mode: Mode::HttpFilter,
            ..fault("listener update, filter", UpdateListener(Behaviour::HEALTHY), &[])
        },
        // Longer than a replaced listener lives, so that its root contexts are told to go while they hold something.
        Fault { times_longer: 3, ..fault("listener update, 503", UpdateListener(unavailable), &[]) },
        fault("trap", Trap, &["vm_lost"]),
        of_module(fault("module, none", Receiver(Behaviour::HEALTHY), &[])),
        of_module(Fault { times_longer: 3, ..fault("module, down", Down, &[]) }),
        of_module(fault("module, 503", Receiver(AskForPause(StatusCode::SERVICE_UNAVAILABLE, 1)), &[])),
        of_module(fault("module, never answers", Receiver(Hang), &[])),
        of_module(fault("module, resets answer", Receiver(ResetWithinAnswer), &[])),
        of_module(Fault { keys: small("drop_oldest"), ..fault("module, drop_oldest", slow, queue_full) }),
        of_module(Fault { keys: small("spill"), ..fault("module, spill", slow, &["spilled", "queue_full"]) }),
        of_module(fault("module, update", UpdateListener(Behaviour::HEALTHY), &[])),
        of_module(Fault {
            times_longer: 3,
            ..fault("module, update, 503", UpdateListener(unavailable), &[])
        }),
        of_module(fault("module, panic", Trap, &["vm_lost"])),
    ]
}

fn fault(name: &'static str, treatment: Treatment, may_drop: &'static [&'static str]) -> Fault {
    Fault { name, treatment, mode: Mode::AccessLogger, times_longer: 1, keys: Vec::new(), may_drop }
}
