//! Configurations: wrong ones are refused with the key's path and without secrets, right ones are taken.

use offpath_host_test::{LogLevel, Proxy, VmRole};
use serde_json::{Value, json};

use crate::support::{config, plugin_wasm};

/// What is never to be seen, wherever it stands.
const SECRET: &str = "s3cr3t-t0ken";

/// Refuses `configuration` and returns what the plugin said, which names `path`.
#[track_caller]
fn assert_refused(configuration: impl Into<Vec<u8>>, path: &str) {
    let configuration = configuration.into();
    let shown = String::from_utf8_lossy(&configuration).into_owned();
    let Err(error) =
        Proxy::load(plugin_wasm()).config_bytes(configuration).log_level(LogLevel::Trace).start()
    else {
        panic!("taken: {shown}");
    };
    let error = error.to_string();
    assert!(error.contains("refused its configuration"), "{error}");
    assert!(!error.contains(SECRET), "{shown}: the secret is in {error}");
    assert!(error.contains(path), "{shown}: `{path}` is not in {error}");
    let errors = error.lines().filter(|line| line.contains(" Error: ")).count();
    assert_eq!(errors, 1, "{shown}: not one error line: {error}");
}

#[test]
fn unknown_keys_are_refused_at_any_depth() {
    let cases = [
        (json!({"nonsense": 1}), "`nonsense`"),
        (json!({"collector": {"nonsense": 1}}), "`collector.nonsense`"),
        (json!({"logs": {"nonsense": SECRET}}), "`logs.nonsense`"),
        (json!({"metrics": {"nonsense": {"deeper": 1}}}), "`metrics.nonsense`"),
        (json!({"batch": {"nonsense": 1}}), "`batch.nonsense`"),
        (json!({"queue": {"nonsense": 1}}), "`queue.nonsense`"),
        (json!({"retry": {"nonsense": 1}}), "`retry.nonsense`"),
        (json!({"redact": {"nonsense": [SECRET]}}), "`redact.nonsense`"),
        // What later versions may know is unknown today.
    ];
    for (changes, path) in cases {
        assert_refused(config(changes).to_string(), path);
    }
}

#[test]
fn wrong_types_and_values_out_of_range_are_refused() {
    let many = |count: usize| -> Value { (0..count).map(|index| format!("x-{index}")).collect() };
    let entries =
        |count: usize| -> Value { (0..count).map(|index| (format!("k{index}"), json!("v"))).collect() };
    let cases = [
        (json!({"collector": 7}), "`collector`"),
        (json!({"collector": {"cluster": 7}}), "`collector.cluster`"),
        (json!({"collector": {"cluster": ""}}), "`collector.cluster`"),
        (json!({"redact": {"query_params": "pin"}}), "`redact.query_params`"),
        (json!({"redact": {"header_values": ["no way"]}}), "`redact.header_values[0]`"),
        (json!({"redact": {"path_params": ["of_no_route"]}}), "`redact.path_params[0]`"),
        (json!({"collector": {"cluster": "c".repeat(257)}}), "`collector.cluster`"),
        (json!({"collector": {"authority": ""}}), "`collector.authority`"),
        (json!({"collector": {"authority": "a\nb"}}), "`collector.authority`"),
        (json!({"collector": {"path_prefix": "otlp"}}), "`collector.path_prefix`"),
        (json!({"collector": {"timeout": "9ms"}}), "`collector.timeout`"),
        (json!({"collector": {"timeout": "301s"}}), "`collector.timeout`"),
        (json!({"collector": {"timeout": 5}}), "`collector.timeout`"),
        (json!({"collector": {"timeout": "5"}}), "`collector.timeout`"),
        (json!({"collector": {"max_in_flight": 0}}), "`collector.max_in_flight`"),
        (json!({"collector": {"max_in_flight": 65}}), "`collector.max_in_flight`"),
        (json!({"collector": {"max_in_flight": 1.5}}), "`collector.max_in_flight`"),
        (json!({"collector": {"max_in_flight": "2"}}), "`collector.max_in_flight`"),
        (json!({"collector": {"max_in_flight": -1}}), "`collector.max_in_flight`"),
        (json!({"collector": {"headers": entries(17)}}), "`collector.headers`"),
        (json!({"resource": {"k": 7}}), "`resource.k`"),
        (json!({"resource": []}), "`resource`"),
        (json!({"resource": entries(65)}), "`resource`"),
        (json!({"logs": {"enabled": "true"}}), "`logs.enabled`"),
        (json!({"logs": {"client_address": "half"}}), "`logs.client_address`"),
        (json!({"logs": {"request_headers": "x"}}), "`logs.request_headers`"),
        (json!({"logs": {"request_headers": many(33)}}), "`logs.request_headers`"),
        (json!({"logs": {"request_headers": ["ok", "not ok"]}}), "`logs.request_headers[1]`"),
        (json!({"logs": {"response_headers": [7]}}), "`logs.response_headers[0]`"),
        (json!({"logs": {"max_record_bytes": 511}}), "`logs.max_record_bytes`"),
        (json!({"logs": {"max_record_bytes": 65537}}), "`logs.max_record_bytes`"),
        (json!({"logs": {"sample_ratio": 1.1}}), "`logs.sample_ratio`"),
        (json!({"logs": {"sample_by": "span"}}), "`logs.sample_by`"),
        (json!({"logs": {"keep_errors": "yes"}}), "`logs.keep_errors`"),
        (json!({"logs": {"keep_slower_than": "61m"}}), "`logs.keep_slower_than`"),
        (json!({"logs": {"max_records_per_second": 0}}), "`logs.max_records_per_second`"),
        (json!({"routes": many(10_001)}), "`routes`"),
        (json!({"routes": ["/a", "b"]}), "`routes[1]`"),
        (json!({"routes": ["/a", {"template": "/a"}]}), "`routes[1]`"),
        (json!({"routes": ["/a/{b}", "/c", "/a/{d}"]}), "`routes[2]`"),
        (json!({"routes": [{"template": "/a", "sample_ratio": -1}]}), "`routes[0].sample_ratio`"),
        (json!({"routes": [{"template": "/a", "nonsense": 1}]}), "`routes[0].nonsense`"),
        (json!({"metrics": {"interval": "999ms"}}), "`metrics.interval`"),
        (json!({"metrics": {"interval": "601s"}}), "`metrics.interval`"),
        (json!({"metrics": {"temporality": "both"}}), "`metrics.temporality`"),
        (json!({"metrics": {"histograms": ["duration", "nothing"]}}), "`metrics.histograms[1]`"),
        (json!({"metrics": {"attributes": ["url.path"]}}), "`metrics.attributes[0]`"),
        (json!({"metrics": {"max_series": 0}}), "`metrics.max_series`"),
        (json!({"metrics": {"max_series": 100_001}}), "`metrics.max_series`"),
        (json!({"metrics": {"max_buckets": 15}}), "`metrics.max_buckets`"),
        (json!({"metrics": {"max_buckets": 641}}), "`metrics.max_buckets`"),
        (json!({"batch": {"max_records": 0}}), "`batch.max_records`"),
        (json!({"batch": {"max_records": 65537}}), "`batch.max_records`"),
        (json!({"batch": {"max_bytes": 8191}}), "`batch.max_bytes`"),
        (json!({"batch": {"max_bytes": 4_194_305}}), "`batch.max_bytes`"),
        (json!({"batch": {"max_delay": "9ms"}}), "`batch.max_delay`"),
        (json!({"batch": {"max_delay": "61s"}}), "`batch.max_delay`"),
        (json!({"queue": {"max_bytes": 524_287}}), "`queue.max_bytes`"),
        (json!({"queue": {"max_bytes": 536_870_913_u64}}), "`queue.max_bytes`"),
        (json!({"queue": {"when_full": "block"}}), "`queue.when_full`"),
        (json!({"retry": {"initial_backoff": "9ms"}}), "`retry.initial_backoff`"),
        (json!({"retry": {"initial_backoff": "61s"}}), "`retry.initial_backoff`"),
        (json!({"retry": {"max_backoff": "9ms"}}), "`retry.max_backoff`"),
        (json!({"retry": {"max_backoff": "601s"}}), "`retry.max_backoff`"),
        (json!({"retry": {"max_elapsed": "3601s"}}), "`retry.max_elapsed`"),
        (json!({"retry": {"max_elapsed": 5}}), "`retry.max_elapsed`"),
    ];
    for (changes, path) in cases {
        assert_refused(config(changes).to_string(), path);
    }
}

#[test]
fn the_bounds_themselves_are_taken() {
    let cases = [
        json!({"collector": {"cluster": "c".repeat(256), "timeout": "10ms", "max_in_flight": 1}}),
        json!({"collector": {"timeout": "5m", "max_in_flight": 64, "path_prefix": "", "authority": "a"}}),
        json!({"logs": {"max_record_bytes": 512}, "batch": {"max_bytes": 1024}, "queue": {"max_bytes": 2048}}),
        json!({"logs": {"max_record_bytes": 65536}, "batch": {"max_bytes": 4_194_304, "max_records": 65536}}),
        json!({"logs": {"sample_ratio": 0, "keep_slower_than": "0s", "max_records_per_second": 1}}),
        json!({"logs": {"sample_ratio": 1, "keep_slower_than": "1h", "max_records_per_second": 1_000_000.0}}),
        json!({"routes": (0..10_000).map(|index| format!("/{index}/{{id}}")).collect::<Vec<_>>()}),
        json!({"queue": {"max_bytes": 536_870_912, "when_full": "drop_newest"}}),
        json!({"queue": {"when_full": "spill"}}),
        json!({"retry": {"initial_backoff": "10ms", "max_backoff": "10ms", "max_elapsed": "0s"}}),
        json!({"retry": {"initial_backoff": "1m", "max_backoff": "10m", "max_elapsed": "1h"}}),
        json!({"metrics": {"interval": "10m", "max_series": 100_000, "max_buckets": 640, "histograms": []}}),
        json!({"metrics": {"interval": "1s", "max_series": 1, "max_buckets": 16, "attributes": []}}),
        json!({"batch": {"max_delay": "1m", "max_records": 1}}),
        // Envoy's `Struct` has no whole numbers.
        json!({"collector": {"max_in_flight": 2.0}}),
    ];
    for changes in cases {
        let shown = changes.to_string();
        Proxy::load(plugin_wasm())
            .config(config(changes))
            .start()
            .unwrap_or_else(|error| panic!("{shown}: {error:?}"));
    }
}

#[test]
fn what_is_no_configuration_at_all_is_refused_and_not_repeated() {
    let cases: [(&[u8], &str); 9] = [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"s3cr3t-t0ken", "not JSON"),
        (b"{\"collector\": {\"cluster\": \"otlp\"}, s3cr3t-t0ken", "not JSON"),
        (b"\"s3cr3t-t0ken\"", "object"),
        (b"[\"s3cr3t-t0ken\"]", "object"),
        (b"\xff\xfe", "not JSON"),
        (b"null", "object"),
        (b"{}", "`collector.cluster`"),
    ];
    for (configuration, expected) in cases {
        assert_refused(configuration, expected);
    }
}

#[test]
fn secrets_beside_a_mistake_are_never_told() {
    let headers = json!({"authorization": format!("Bearer {SECRET}"), "x-key": SECRET});
    let cases = [
        (json!({"collector": {"headers": headers, "timeout": "1h"}}), "`collector.timeout`"),
        (json!({"collector": {"headers": headers}, "nonsense": 1}), "`nonsense`"),
        (json!({"collector": {"headers": {"x-key": format!("{SECRET}\n")}}}), "`collector.headers.x-key`"),
        (json!({"collector": {"headers": {"x-key": [SECRET]}}}), "`collector.headers.x-key`"),
        (json!({"collector": {"headers": {"x-key": {"deeper": SECRET}}}}), "`collector.headers.x-key`"),
        (json!({"collector": {"headers": [SECRET]}}), "`collector.headers`"),
        (json!({"collector": {"headers": SECRET}}), "`collector.headers`"),
        (json!({"collector": {"headers": {format!("authorization: {SECRET}"): ""}}}), "`collector.headers`"),
        (json!({"collector": {"headers": {":path": SECRET}}}), "`collector.headers"),
        (json!({"collector": {"headers": {"content-length": SECRET}}}), "`collector.headers.content-length`"),
    ];
    for (changes, path) in cases {
        assert_refused(config(changes).to_string(), path);
    }
}

#[test]
fn a_refused_configuration_is_refused_in_the_canary_and_leaves_the_old_one_in_use() {
    let mut proxy = Proxy::load(plugin_wasm()).config(config(json!({}))).start().unwrap();
    assert!(proxy.reconfigure(json!({"collector": {}})).is_err());
    let refused: Vec<_> = proxy.log_lines().iter().filter(|line| line.level == LogLevel::Error).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].vm, VmRole::Canary);
    proxy.request(offpath_host_test::get("/")).respond(200).unwrap();
    assert_eq!(proxy.counter("offpath_records_captured_total"), 1);
}
