//! What senders say that they have dropped is stored, and no partial success.

use offpath_collector::store;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, Sum, metric, number_data_point};
use prost::Message as _;
use rusqlite::Connection;
use tempfile::tempdir;

use crate::support::*;

const SENDER: &str = "9cbfd7b1-2a3a-4bd5-9b68-0d6d8fbb7b2a";

fn sum(name: &str, time: u64, value: number_data_point::Value) -> Metric {
    let data_points = vec![NumberDataPoint {
        attributes: vec![attribute("reason", string("rejected"))],
        start_time_unix_nano: T0,
        time_unix_nano: time,
        value: Some(value),
        ..NumberDataPoint::default()
    }];
    let sum = Sum { data_points, aggregation_temporality: CUMULATIVE, is_monotonic: true };
    Metric { name: name.to_owned(), data: Some(metric::Data::Sum(sum)), ..Metric::default() }
}

#[test]
fn drops_of_nobody_are_refused_and_told_so() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let values = [("offpath.records.dropped", 3), ("offpath.metric_points.dropped", 1)];
    let sums = values.map(|(name, value)| sum(name, T0 + 1, number_data_point::Value::AsInt(value)));
    let mut request = metrics_of(DELTA, vec![point(T0, T0 + 1, vec![], &[0.1])]);
    request.resource_metrics[0].scope_metrics[0].metrics.extend(sums);
    // Neither has a name that a sequence of batches could have.
    for batch_id in [None, Some("a-batch")] {
        let answer = collector.metrics(&request, batch_id);
        assert_eq!(answer.status, 200);
        let response = ExportMetricsServiceResponse::decode(answer.body.as_slice()).unwrap();
        let partial = response.partial_success.unwrap();
        assert_eq!(partial.rejected_data_points, 2);
        let expected =
            "`offpath.records.dropped` is stored by sender: x-offpath-batch names none in this request";
        assert_eq!(partial.error_message, expected);
    }
    let accounting = collector.settled_signal("metrics");
    let number = |name: &str| accounting[name].as_i64().unwrap();
    assert_eq!((number("received"), number("stored"), number("dead_lettered")), (2, 2, 0), "{accounting}");
    let metrics = collector.get("/metrics").text();
    for line in ["rejected_points_total{reason=\"unsupported\"} 4\n", "superseded_points_total 0\n"] {
        assert!(metrics.contains(&format!("offpath_collector_{line}")), "{metrics}");
    }
}

#[test]
fn drops_of_nobody_that_an_older_collector_let_in_are_superseded() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let drops = |time| sum("offpath.records.dropped", time, number_data_point::Value::AsInt(3));
    let mut queued = metrics_of(DELTA, vec![point(T0, T0 + 1, vec![], &[0.1])]);
    queued.resource_metrics[0].scope_metrics[0].metrics.push(drops(T0 + 1));
    let (queued, letter) = (queued.encode_to_vec(), metrics_with(vec![drops(T0 + 2)]).encode_to_vec());
    // As it counted them: two points that wait, and one that was set aside.
    let mut connection = Connection::open(data.path().join("offpath.db")).unwrap();
    let transaction = connection.transaction().unwrap();
    let columns = "tenant, signal, encoding, decoded_bytes, records, body";
    let sql = format!(
        "INSERT INTO inbox ({columns}, received_unix_nano)
         VALUES ('default', 'metrics', 'identity', length(?1), 2, ?1, 1)"
    );
    transaction.execute(&sql, [&queued]).unwrap();
    let sql = format!(
        "INSERT INTO dead_letters ({columns}, dead_unix_nano, reason)
         VALUES ('default', 'metrics', 'identity', length(?1), 1, ?1, 1, 'poison')"
    );
    transaction.execute(&sql, [&letter]).unwrap();
    let sql = "UPDATE accounting SET received = 3, dead_lettered = 1, queued = 2, queued_bytes = ?1
               WHERE signal = 'metrics'";
    transaction.execute(sql, [queued.len() as i64]).unwrap();
    transaction.commit().unwrap();
    let folder = data.path().to_str().unwrap();
    assert!(run(&["dead-letters", "replay", "--data", folder, "1"]).0);
    let expected = serde_json::json!({
        "received": 3, "stored": 1, "superseded": 2, "deduplicated": 0, "dead_lettered": 0, "queued": 0
    });
    assert_eq!(collector.settled_signal("metrics"), expected);
}

#[test]
fn a_dead_letter_of_drops_that_is_put_back_is_its_senders_still() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let connection = Connection::open(data.path().join("offpath.db")).unwrap();
    let trigger =
        "CREATE TRIGGER refuse BEFORE INSERT ON sender_drops BEGIN SELECT RAISE(ABORT, 'poison'); END";
    connection.execute_batch(trigger).unwrap();
    let value = number_data_point::Value::AsInt(3);
    assert_eq!(refused(&collector, 1, vec![sum("offpath.records.dropped", T0 + 1, value)]), 0);
    assert_eq!(collector.settled_signal("metrics")["dead_lettered"], 1);
    let folder = data.path().to_str().unwrap();
    let replay = |letter| assert!(run(&["dead-letters", "replay", "--data", folder, letter]).0);
    // It is refused again, and then taken.
    replay("1");
    eventually("the second dead letter", || {
        run(&["dead-letters", "list", "--data", folder]).1.starts_with("2\t").then_some(())
    });
    connection.execute_batch("DROP TRIGGER refuse").unwrap();
    replay("2");
    let accounting = collector.settled_signal("metrics");
    assert_eq!((&accounting["stored"], &accounting["dead_lettered"]), (&1.into(), &0.into()), "{accounting}");
    let senders = collector.json("/api/senders");
    assert_eq!(senders[0]["dropped"], serde_json::json!({"offpath.records.dropped": {"rejected": 3}}));
    assert_eq!((&senders[0]["last_sequence"], &senders[0]["missing"]), (&1.into(), &0.into()));
}

/// Sends the metrics as the sender's next batch, and returns how many of their points were refused.
fn refused(collector: &Collector, sequence: u64, metrics: Vec<Metric>) -> i64 {
    let mut request = metrics_with(metrics);
    let resource = request.resource_metrics[0].resource.as_mut().unwrap();
    resource.attributes.push(attribute("service.instance.id", string(SENDER)));
    let answer = collector.metrics(&request, Some(&format!("{SENDER}-{sequence}")));
    assert_eq!(answer.status, 200);
    let response = ExportMetricsServiceResponse::decode(answer.body.as_slice()).unwrap();
    response.partial_success.map_or(0, |partial| partial.rejected_data_points)
}

#[test]
fn a_senders_drops_are_known_by_metric_and_reason() {
    use number_data_point::Value::{AsDouble, AsInt};
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let (records, points) = ("offpath.records.dropped", "offpath.metric_points.dropped");
    assert_eq!(refused(&collector, 1, vec![sum(records, T0 + 1, AsInt(3))]), 0);
    let later = vec![sum(records, T0 + 2, AsInt(7)), sum(points, T0 + 2, AsInt(1))];
    assert_eq!(refused(&collector, 2, later), 0);
    let wrong =
        vec![sum(records, T0 + 3, AsInt(-1)), sum(records, T0 + 3, AsDouble(1.0)), sum(records, 0, AsInt(1))];
    assert_eq!(refused(&collector, 3, wrong), 3);
    assert_eq!(
        refused(&collector, 4, vec![sum("http.requests", T0 + 3, AsInt(1))]),
        1,
        "other sums are not stored"
    );
    let expected =
        [(points.to_owned(), "rejected".to_owned(), 1), (records.to_owned(), "rejected".to_owned(), 7)];
    eventually("the drops", || {
        let connection = store::open_read_only(data.path()).unwrap();
        (store::drops::of_sender(&connection, SENDER).unwrap() == expected).then_some(())
    });
    let senders = collector.json("/api/senders");
    assert_eq!(senders[0]["dropped"], serde_json::json!({points: {"rejected": 1}, records: {"rejected": 7}}));
    let metrics = collector.get("/metrics").text();
    assert!(metrics.contains("offpath_collector_stored_records_total{signal=\"metrics\"} 3\n"), "{metrics}");
}
