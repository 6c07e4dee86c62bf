//! `kill -9` at random moments under load: nothing that was acknowledged is lost, nothing is stored twice, and what was
//! never sent is missing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use rusqlite::Connection;
use tempfile::tempdir;

use crate::support::*;

const KILLS: usize = 20;
const SENDERS: usize = 4;
/// What is sent, how to find it in the database, and whether it is spans.
const SIGNALS: [(&str, &str, bool); 2] =
    [("logs", "SELECT body FROM logs", false), ("traces", "SELECT name FROM spans", true)];

/// What all senders share with the test.
struct Load {
    /// Where the collector of the moment listens.
    url: Mutex<String>,
    acknowledged_batches: AtomicU64,
    resent_batches: AtomicU64,
    stop: AtomicBool,
}

/// Sends numbered batches one after the other, each until it is acknowledged, every fifth once more, and every seventh not
/// at all: of records, or of spans if the sender's number is odd. Returns the bodies of all records, or the names of all
/// spans.
fn send(load: &Load, sender: usize) -> BTreeSet<String> {
    let mut random = fastrand::Rng::with_seed(sender as u64);
    let uuid = format!("00000000-0000-4000-8000-{sender:012x}");
    let mut bodies = BTreeSet::new();
    for sequence in 1.. {
        if load.stop.load(Ordering::Acquire) {
            break;
        }
        if sequence % 7 == 0 {
            continue;
        }
        let count = random.usize(1..=40);
        let name = format!("{sender}/{sequence}");
        bodies.extend((0..count).map(|number| format!("{name}/{number}")));
        let (path, plain) = if is_tracer(sender) {
            ("/v1/traces", numbered_spans(&name, count).encode_to_vec())
        } else {
            ("/v1/logs", numbered(&name, count).encode_to_vec())
        };
        let (encoding, body) = if random.bool() { ("gzip", gzip(&plain)) } else { ("identity", plain) };
        let batch_id = format!("{uuid}-{sequence}");
        let headers = [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", encoding),
            ("x-offpath-batch", batch_id.as_str()),
        ];
        let times = if sequence % 5 == 0 { 2 } else { 1 };
        for _ in 0..times {
            deliver(load, path, &headers, &body);
        }
    }
    bodies
}

fn is_tracer(sender: usize) -> bool {
    !sender.is_multiple_of(2)
}

fn deliver(load: &Load, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    eventually("an acknowledgement", || {
        let url = load.url.lock().unwrap().clone();
        match post(&format!("{url}{path}"), headers, body) {
            Ok(answer) if answer.status == 200 => Some(()),
            // Refused on the way down, or the connection died with the process: whether it arrived is unknown.
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.text());
                load.resent_batches.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(_) => {
                load.resent_batches.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    });
    load.acknowledged_batches.fetch_add(1, Ordering::AcqRel);
}

#[test]
fn no_record_or_span_is_lost_or_doubled_over_20_kills() {
    let data = tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(20);
    let mut collector = Collector::start(data.path(), &[]);
    let load = Arc::new(Load {
        url: Mutex::new(collector.otlp.clone()),
        acknowledged_batches: AtomicU64::new(0),
        resent_batches: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let load = Arc::clone(&load);
            std::thread::spawn(move || send(&load, sender))
        })
        .collect();
    let mut last_received = [0, 0];
    for _ in 0..KILLS {
        let target = load.acknowledged_batches.load(Ordering::Acquire) + random.u64(5..80);
        eventually("load", || (load.acknowledged_batches.load(Ordering::Acquire) >= target).then_some(()));
        // Anywhere within a request's way: this chooses the moment, it waits for nothing.
        std::thread::sleep(Duration::from_micros(random.u64(0..5_000)));
        collector.kill();
        collector = Collector::start(data.path(), &[]);
        load.url.lock().unwrap().clone_from(&collector.otlp);
        let received = SIGNALS.map(|(signal, ..)| {
            let accounting = collector.json(&format!("/api/accounting?signal={signal}"));
            accounting["received"].as_i64().unwrap()
        });
        let fell = received.iter().zip(last_received).any(|(now, last)| *now < last);
        assert!(!fell, "received fell from {last_received:?} to {received:?}");
        last_received = received;
    }
    load.stop.store(true, Ordering::Release);
    let sent: Vec<BTreeSet<String>> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();

    let connection = Connection::open(data.path().join("offpath.db")).unwrap();
    for (signal, names, is_traces) in SIGNALS {
        let of_signal = sent.iter().enumerate().filter(|(sender, _)| is_tracer(*sender) == is_traces);
        let sent: BTreeSet<String> = of_signal.flat_map(|(_, sent)| sent).cloned().collect();
        let accounting = collector.settled_signal(signal);
        let number = |name: &str| accounting[name].as_i64().unwrap();
        assert_eq!(number("stored"), sent.len() as i64, "{accounting}");
        assert_eq!(number("dead_lettered"), 0);
        assert_eq!(number("received"), number("stored") + number("deduplicated"), "{accounting}");
        assert!(number("deduplicated") > 0, "nothing came twice: {accounting}");

        let mut rows = connection.prepare(names).unwrap();
        let stored: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(stored.len(), sent.len(), "doubled");
        assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), sent, "lost");
        println!("{signal}: {accounting}");
    }
    let mut all_missing = 0;
    for sender in collector.json("/api/senders").as_array().unwrap() {
        let number = |name: &str| sender[name].as_i64().unwrap();
        let missing = number("last_sequence") / 7;
        assert_eq!(
            (number("missing"), number("received_batches")),
            (missing, number("last_sequence") - missing)
        );
        all_missing += missing;
    }
    assert!(all_missing > 0, "too little was sent");
    let line = format!("offpath_collector_missing_batches {all_missing}");
    eventually(&line, || collector.get("/metrics").text().lines().any(|found| found == line).then_some(()));
    println!("{KILLS} kills, {} batches resent after no answer", load.resent_batches.load(Ordering::Relaxed));
}
