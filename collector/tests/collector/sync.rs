//! An acknowledgement is preceded by a sync to disk: shown by what the process asks of the kernel, since a killed
//! process leaves its unsynced writes to the kernel, and so proves nothing about them.

use std::path::Path;

use rusqlite::Connection;
use tempfile::tempdir;

use crate::support::*;

/// What the kernel saw, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Request,
    BodyWrittenToLog,
    LogSynced,
    Acknowledged,
}

fn events(trace: &str, marker: &str) -> Vec<Event> {
    let mut syncing = Vec::new();
    let event = |line: &str| {
        let thread = line.split_whitespace().next().unwrap_or_default().to_owned();
        let is_sync = line.contains("fsync(") || line.contains("fdatasync(");
        if is_sync && line.contains("offpath.db-wal") {
            if line.contains("<unfinished") {
                syncing.push(thread);
                return None;
            }
            return line.ends_with("= 0").then_some(Event::LogSynced);
        }
        if line.contains("sync resumed>") && syncing.contains(&thread) {
            syncing.retain(|other| *other != thread);
            return line.ends_with("= 0").then_some(Event::LogSynced);
        }
        if line.contains("pwrite64(") && line.contains("offpath.db-wal") && line.contains(marker) {
            return Some(Event::BodyWrittenToLog);
        }
        let receives =
            line.contains("recvfrom(") || line.contains("read(") || line.contains("recvfrom resumed");
        if receives && line.contains("POST /v1/logs") {
            return Some(Event::Request);
        }
        line.contains("HTTP/1.1 200").then_some(Event::Acknowledged)
    };
    trace.lines().filter_map(event).collect()
}

#[test]
fn an_acknowledgement_is_preceded_by_a_sync() {
    need_strace();
    let data = tempdir().unwrap();
    let trace = data.path().join("trace");
    let calls = "trace=fsync,fdatasync,pwrite64,recvfrom,read,sendto,write,writev";
    // `-D` makes the collector, not strace, the process that was started; `-y` shows the files' names.
    let wrapper = ["strace", "-D", "-f", "-y", "-s", "8192", "-e", calls, "-o", trace.to_str().unwrap()];
    let mut collector = Collector::start_as(&wrapper, &data.path().join("data"), &[]);
    for number in 0..5 {
        let marker = format!("marker-{number}-marker");
        let before = std::fs::metadata(&trace).unwrap().len();
        assert_eq!(collector.logs(&logs_of(vec![record(&marker)]), None).status, 200);
        let acknowledged = eventually("the acknowledgement in the trace", || {
            let text =
                String::from_utf8_lossy(&std::fs::read(&trace).unwrap()[before as usize..]).into_owned();
            let events = events(&text, &marker);
            let end = events.iter().position(|event| *event == Event::Acknowledged)?;
            Some(events[..=end].to_vec())
        });
        let position = |wanted| acknowledged.iter().position(|event| *event == wanted).unwrap_or(usize::MAX);
        let written = position(Event::BodyWrittenToLog);
        assert!(position(Event::Request) < written, "{acknowledged:?}");
        let after_write = &acknowledged[written..];
        // The sync comes directly after the write of the request: it is not that of the rows made of it later.
        let next = after_write.iter().find(|event| **event != Event::BodyWrittenToLog);
        assert_eq!(next, Some(&Event::LogSynced), "{acknowledged:?}");
        // The next request starts when this one's rows are written, so that no sync of theirs lies in between.
        let settled = format!("marker-{number}-marker");
        eventually("its row", || {
            let connection = Connection::open(data.path().join("data/offpath.db")).ok()?;
            let sql =
                "SELECT (SELECT count(*) FROM logs WHERE body = ?1) AND NOT (SELECT count(*) FROM inbox)";
            connection.query_row(sql, [&settled], |row| row.get(0)).ok().filter(|stored: &bool| *stored)
        });
    }
    collector.terminate();
    assert!(collector.wait().success());
}

/// Starts a collector for whose write-ahead log the kernel fails some calls, as strace's `inject` describes them.
fn with_failing_calls(data: &Path, inject: &str) -> Collector {
    let log = data.join("offpath.db-wal");
    let (trace, inject) = (data.join("trace"), format!("inject={inject}"));
    let words =
        ["strace", "-D", "-f", "-P", log.to_str().unwrap(), "-e", &inject, "-o", trace.to_str().unwrap()];
    Collector::start_as(&words, data, &[])
}

#[test]
fn nothing_is_acknowledged_after_a_sync_failed_and_the_process_ends() {
    need_strace();
    for nth in 1..=4 {
        let data = tempdir().unwrap();
        let mut collector =
            with_failing_calls(data.path(), &format!("fsync,fdatasync:error=EIO:when={nth}+"));
        let url = format!("{}/v1/logs", collector.otlp);
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let name = format!("batch-{number}");
            let body = prost::Message::encode_to_vec(&numbered(&name, 1));
            match post(&url, &[("content-type", "application/x-protobuf")], &body) {
                Ok(answer) if answer.status == 200 => acknowledged.push(format!("{name}/0")),
                _ => break,
            }
            assert!(number < 100, "syncs fail, and requests are acknowledged");
        }
        assert!(acknowledged.len() < nth as usize, "{acknowledged:?} were acknowledged with {nth} - 1 syncs");
        assert_eq!(collector.wait().code(), Some(1), "sync {nth}");
        // What was acknowledged before is there.
        let collector = Collector::start(data.path(), &[]);
        collector.settled();
        let records = collector.json("/api/logs?limit=1000");
        for body in acknowledged {
            let found =
                records["records"].as_array().unwrap().iter().any(|record| record["body"] == body.as_str());
            assert!(found, "{body} was acknowledged and is not there");
        }
    }
}

#[test]
fn a_full_disk_is_said_waited_for_and_costs_nothing() {
    need_strace();
    let data = tempdir().unwrap();
    let collector = with_failing_calls(data.path(), "pwrite64:error=ENOSPC:when=20..40");
    let mut refusals = 0;
    for number in 0..20 {
        eventually("an acknowledgement", || {
            let answer =
                collector.logs(&numbered(&format!("b{number}"), 10), Some(&format!("{UUID}-{}", number + 1)));
            if answer.status == 200 {
                return Some(());
            }
            assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{}", answer.text());
            assert!(answer.text().contains("disk is full"), "{}", answer.text());
            refusals += 1;
            None
        });
    }
    let accounting = collector.settled();
    assert_eq!(
        (&accounting["stored"], &accounting["dead_lettered"]),
        (&200.into(), &0.into()),
        "{accounting}"
    );
    // Requests, rows, or both met the full disk.
    let metrics = collector.get("/metrics").text();
    assert!(refusals > 0 || !metrics.contains("offpath_collector_store_errors_total 0\n"), "{metrics}");
    assert_eq!(collector.get("/readyz").status, 200);
}
