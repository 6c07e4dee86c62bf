//! Once, with every record accounted for: duplicates, refused records, restarts.

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use rusqlite::Connection;
use serde_json::json;
use tempfile::tempdir;

use crate::support::*;

#[test]
fn a_batch_that_comes_again_is_stored_once_and_counted() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    for batch_id in [format!("{UUID}-1"), "any-other-shape".to_owned()] {
        for _ in 0..3 {
            assert_eq!(collector.logs(&numbered("a", 5), Some(&batch_id)).status, 200);
        }
    }
    // The same id on another signal is another batch; without an id nothing is a duplicate.
    let point = point(T0, T0 + SECOND, vec![], &[0.1]);
    assert_eq!(collector.metrics(&metrics_of(DELTA, vec![point]), Some("any-other-shape")).status, 200);
    for _ in 0..2 {
        assert_eq!(collector.logs(&numbered("a", 1), None).status, 200);
    }
    let expected = json!({"received": 32, "stored": 12, "deduplicated": 20, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled(), expected);
    let metrics = collector.get("/metrics").text();
    assert!(metrics.contains("offpath_collector_deduplicated_batches_total{signal=\"logs\"} 4"), "{metrics}");
}

/// Makes the database refuse records whose body is `poison`, as a constraint would.
fn refuse_poison(data: &std::path::Path) {
    let connection = Connection::open(data.join("offpath.db")).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON logs WHEN NEW.body = 'poison'
             BEGIN SELECT RAISE(ABORT, 'poison is not stored'); END",
        )
        .unwrap();
}

#[test]
fn a_refused_record_is_set_aside_alone_and_can_be_replayed() {
    let data = tempdir().unwrap();
    let folder = data.path().to_str().unwrap();
    let collector = Collector::start(data.path(), &[]);
    refuse_poison(data.path());
    let mut records: Vec<LogRecord> = (0..9).map(|number| record(&format!("good/{number}"))).collect();
    records.insert(4, record("poison"));
    assert_eq!(collector.logs(&logs_of(records), Some(&format!("{UUID}-1"))).status, 200);
    let expected = json!({"received": 10, "stored": 9, "deduplicated": 0, "dead_lettered": 1, "queued": 0});
    assert_eq!(collector.settled(), expected);

    let (success, list, _) = run(&["dead-letters", "list", "--data", folder]);
    assert!(success);
    let columns: Vec<&str> = list.trim_end().split('\t').collect();
    assert_eq!((columns[0], columns[2], columns[3]), ("1", "logs", "1"), "{list}");
    assert_eq!((columns[5], columns[6]), (format!("{UUID}-1").as_str(), "poison is not stored"));

    // Replayed while the database still refuses it, it comes back as a new dead letter.
    let (success, said, _) = run(&["dead-letters", "replay", "--data", folder, "1"]);
    assert!(success, "{said}");
    let (_, list, _) = eventually("the second dead letter", || {
        Some(run(&["dead-letters", "list", "--data", folder])).filter(|(_, list, _)| list.starts_with("2\t"))
    });
    assert_eq!(list.lines().count(), 1);
    assert_eq!(collector.settled(), expected);

    Connection::open(data.path().join("offpath.db")).unwrap().execute_batch("DROP TRIGGER refuse").unwrap();
    assert!(run(&["dead-letters", "replay", "--data", folder, "--all"]).0);
    let expected = json!({"received": 10, "stored": 10, "deduplicated": 0, "dead_lettered": 0, "queued": 0});
    eventually("the replayed record", || (collector.json("/api/accounting") == expected).then_some(()));
    let (success, _, error) = run(&["dead-letters", "replay", "--data", folder, "7"]);
    assert_eq!((success, error.as_str()), (false, "offpath-collector: there is no dead letter `7`\n"));
    let records = collector.json("/api/logs?service=api&limit=1000")["records"].clone();
    assert_eq!(records.as_array().unwrap().iter().filter(|record| record["body"] == "poison").count(), 1);
}

#[test]
fn a_replayed_record_takes_no_name_that_a_sender_could_give_a_batch() {
    let data = tempdir().unwrap();
    let folder = data.path().to_str().unwrap();
    let collector = Collector::start(data.path(), &[]);
    refuse_poison(data.path());
    // The second dead letter is of `run#1`, and `run#2` is a batch beside it, as `run#3` will be.
    for batch_id in ["first", "run#1"] {
        assert_eq!(collector.logs(&logs_of(vec![record("poison")]), Some(batch_id)).status, 200);
    }
    assert_eq!(collector.logs(&numbered("second", 1), Some("run#2")).status, 200);
    let expected = json!({"received": 3, "stored": 1, "deduplicated": 0, "dead_lettered": 2, "queued": 0});
    assert_eq!(collector.settled(), expected);
    assert!(run(&["dead-letters", "replay", "--data", folder, "2"]).0);
    eventually("the third dead letter", || {
        run(&["dead-letters", "list", "--data", folder]).1.contains("\n3\t").then_some(())
    });
    Connection::open(data.path().join("offpath.db")).unwrap().execute_batch("DROP TRIGGER refuse").unwrap();
    assert!(run(&["dead-letters", "replay", "--data", folder, "--all"]).0);
    let expected = json!({"received": 3, "stored": 3, "deduplicated": 0, "dead_lettered": 0, "queued": 0});
    eventually("the replayed records", || (collector.json("/api/accounting") == expected).then_some(()));
    assert_eq!(collector.logs(&numbered("third", 1), Some("run#3")).status, 200);
    let expected = json!({"received": 4, "stored": 4, "deduplicated": 0, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled(), expected);
}

#[test]
fn records_that_no_row_can_hold_are_set_aside_and_their_neighbours_are_stored() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut far_future = record("far future");
    far_future.time_unix_nano = u64::MAX;
    let just_fits = record(&"x".repeat((1 << 20) - 30));
    let too_large = record(&"x".repeat(1 << 20));
    let request = logs_of(vec![record("first"), far_future, just_fits, too_large, record("last")]);
    assert_eq!(collector.logs(&request, None).status, 200);
    let expected = json!({"received": 5, "stored": 3, "deduplicated": 0, "dead_lettered": 2, "queued": 0});
    assert_eq!(collector.settled(), expected);
    let (_, list, _) = run(&["dead-letters", "list", "--data", data.path().to_str().unwrap()]);
    assert!(list.contains("timeUnixNano `18446744073709551615` is out of range"), "{list}");
    assert!(list.contains("at most 1048576 are allowed"), "{list}");
}

#[test]
fn a_queued_batch_that_no_longer_decodes_is_set_aside_whole_and_blocks_nothing() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    // As if another version had let it in: one good record, and then nonsense.
    let body = [prost::Message::encode_to_vec(&numbered("half", 1)), vec![0xff]].concat();
    let mut connection = Connection::open(data.path().join("offpath.db")).unwrap();
    let transaction = connection.transaction().unwrap();
    transaction
        .execute(
            "INSERT INTO inbox (tenant, signal, received_unix_nano, encoding, decoded_bytes, records, body)
             VALUES ('default', 'logs', 1, 'identity', length(?1), 3, ?1)",
            [&body],
        )
        .unwrap();
    let count = "UPDATE accounting SET received = 3, queued = 3, queued_bytes = ?1 WHERE signal = 'logs'";
    transaction.execute(count, [body.len() as i64]).unwrap();
    transaction.commit().unwrap();
    eventually("the dead letter", || (collector.json("/api/accounting")["dead_lettered"] == 3).then_some(()));
    assert_eq!(collector.logs(&numbered("good", 2), None).status, 200);
    let expected = json!({"received": 5, "stored": 2, "deduplicated": 0, "dead_lettered": 3, "queued": 0});
    assert_eq!(collector.settled(), expected);
}

#[test]
fn a_point_that_the_database_refuses_is_set_aside_and_can_be_replayed() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let connection = Connection::open(data.path().join("offpath.db")).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON metric_streams WHEN NEW.route = '/poison'
             BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )
        .unwrap();
    let at = |route: &str| point(T0, T0 + SECOND, vec![attribute("http.route", string(route))], &[0.1, 0.2]);
    let request = metrics_of(CUMULATIVE, vec![at("/a"), at("/poison"), at("/b")]);
    assert_eq!(collector.metrics(&request, None).status, 200);
    let folder = data.path().to_str().unwrap();
    eventually("the dead letter", || {
        run(&["dead-letters", "list", "--data", folder]).1.contains("metrics").then_some(())
    });
    connection.execute_batch("DROP TRIGGER refuse").unwrap();
    assert!(run(&["dead-letters", "replay", "--data", folder, "1"]).0);
    let range = "from=2026-01-01T00:00:00Z&to=2026-01-01T00:01:00Z";
    let series = eventually("three series", || {
        let answer = collector.json(&format!("/api/latency?{range}&by=route"));
        Some(answer["series"].clone()).filter(|series| series.as_array().unwrap().len() == 3)
    });
    assert_eq!((&series[2]["key"], &series[2]["points"][0]["count"]), (&"/poison".into(), &2.into()));
}

#[test]
fn totals_batch_ids_and_gaps_outlive_a_restart() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    for sequence in [1, 4] {
        let batch_id = format!("{UUID}-{sequence}");
        assert_eq!(collector.logs(&numbered("a", 3), Some(&batch_id)).status, 200);
    }
    let before = (collector.settled(), collector.json("/api/senders"));
    collector.terminate();
    assert!(collector.wait().success());
    let collector = Collector::start(data.path(), &[]);
    assert_eq!((collector.settled(), collector.json("/api/senders")), before);
    assert_eq!(collector.logs(&numbered("a", 3), Some(&format!("{UUID}-4"))).status, 200);
    let expected = json!({"received": 9, "stored": 6, "deduplicated": 3, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled(), expected);
}

#[test]
fn told_to_end_it_drains_its_queue_and_leaves_one_file() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    for number in 0..50 {
        assert_eq!(collector.logs(&numbered(&format!("b{number}"), 100), None).status, 200);
    }
    collector.terminate();
    assert!(collector.wait().success());
    assert!(!data.path().join("offpath.db-wal").exists(), "the write-ahead log was not folded in");
    let connection = Connection::open(data.path().join("offpath.db")).unwrap();
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM inbox"), 0);
    assert_eq!(count("SELECT count(DISTINCT body) FROM logs"), 5000);
}

#[test]
fn what_is_not_drained_in_time_waits_for_the_next_start() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &["--shutdown-timeout-ms", "0"]);
    for number in 0..20 {
        assert_eq!(collector.logs(&numbered(&format!("b{number}"), 2000), None).status, 200);
    }
    collector.terminate();
    assert!(collector.wait().success());
    let collector = Collector::start(data.path(), &[]);
    let expected =
        json!({"received": 40000, "stored": 40000, "deduplicated": 0, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled(), expected);
}
