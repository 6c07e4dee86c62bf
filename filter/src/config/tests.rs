//! What is read, what is rejected, and that no secret is told.

use super::*;

fn parse(json: &str) -> Result<Config, String> {
    Config::parse(json.as_bytes()).map_err(|error| error.to_string())
}

/// A configuration with a cluster, and `json` as further keys.
fn with(json: &str) -> String {
    format!(r#"{{"collector":{{"cluster":"otlp"}},{json}}}"#)
}

#[test]
fn everything_but_the_cluster_has_a_default() {
    let config = parse(r#"{"collector":{"cluster":"otlp"}}"#).unwrap();
    assert_eq!(
        config.collector,
        Collector {
            cluster: "otlp".into(),
            authority: "otlp".into(),
            path_prefix: String::new(),
            headers: Vec::new(),
            timeout: Duration::from_secs(5),
            max_in_flight: 2,
        }
    );
    assert!(config.resource.is_empty());
    assert_eq!(
        config.logs,
        Logs {
            enabled: true,
            sample_ratio: 1.0,
            sample_by: SampleBy::Trace,
            keep_errors: true,
            keep_slower_than: None,
            max_records_per_second: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            attributes: Vec::new(),
            client_address: ClientAddress::Full,
            max_record_bytes: 8192,
        }
    );
    assert_eq!(
        config.metrics,
        Metrics {
            enabled: true,
            interval: Duration::from_secs(10),
            temporality: Temporality::Cumulative,
            histograms: Histograms { duration: true, upstream: false, proxy: false },
            attributes: SeriesAttributes {
                upstream_cluster: true,
                route_name: false,
                virtual_host_name: false
            },
            max_series: 2000,
            max_buckets: 160,
            exemplars: true,
        }
    );
    assert!(config.routes.is_empty());
    assert_eq!(
        config.redact,
        Redact { query_params: Vec::new(), header_values: Vec::new(), path_params: Vec::new() }
    );
    assert_eq!(
        config.batch,
        Batch { max_records: 512, max_bytes: 262_144, max_delay: Duration::from_secs(1) }
    );
    assert_eq!(config.queue, Queue { max_bytes: 16_777_216, when_full: WhenFull::DropOldest });
    assert_eq!(
        config.retry,
        Retry {
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
            max_elapsed: Duration::from_secs(300),
        }
    );
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"{
            "collector": {"cluster": "c", "authority": "a:4318", "path_prefix": "/otlp/", "timeout": "250ms",
                          "max_in_flight": 64, "headers": {"Authorization": "Bearer t"}},
            "resource": {"service.name": "shop", "deployment.environment.name": "test"},
            "logs": {"enabled": false, "sample_ratio": 0.05, "sample_by": "request", "keep_errors": false,
                     "keep_slower_than": "750ms", "max_records_per_second": 1000000.0, "attributes": {"b": "1", "a": "'x'"}, "client_address": "truncated", "request_headers": ["X-B", "x-a", "x-b"],
                     "response_headers": ["Server"], "max_record_bytes": 512.0},
            "metrics": {"enabled": false, "interval": "1m", "temporality": "delta", "histograms": ["proxy", "upstream"],
                        "attributes": [], "max_series": 1, "max_buckets": 640, "exemplars": false},
            "routes": ["/orders/{id}", {"template": "/health", "sample_ratio": 0, "keep_slower_than": "1h"},
                       {"template": "/pay"}],
            "redact": {"query_params": ["PIN", "na\u00efve"], "header_values": ["X-Session"], "path_params": ["id"]},
            "batch": {"max_records": 1, "max_bytes": 512, "max_delay": "10ms"},
            "queue": {"max_bytes": 1024, "when_full": "spill"},
            "retry": {"initial_backoff": "1m", "max_backoff": "10ms", "max_elapsed": "0s"}
        }"#,
    )
    .unwrap();
    assert_eq!(config.collector.path_prefix, "/otlp");
    assert_eq!(config.collector.headers, [("authorization".to_owned(), "Bearer t".to_owned())]);
    assert_eq!(config.logs.request_headers, ["x-a", "x-b"], "in lower case, each once");
    assert_eq!(config.logs.max_record_bytes, 512, "Envoy's Struct has doubles only");
    assert_eq!((config.logs.sample_ratio, config.logs.sample_by), (0.05, SampleBy::Request));
    assert!(!config.logs.keep_errors);
    assert_eq!(config.logs.keep_slower_than, Some(Duration::from_millis(750)));
    assert_eq!(config.logs.max_records_per_second, Some(1_000_000));
    let attributes = config
        .logs
        .attributes
        .iter()
        .map(|attribute| (attribute.name.as_str(), attribute.expression.text.as_str()));
    assert_eq!(attributes.collect::<Vec<_>>(), [("a", "'x'"), ("b", "1")], "by name");
    let route = |template: &str, sample_ratio, keep_slower_than| Route {
        template: template.to_owned(),
        sample_ratio,
        keep_slower_than,
    };
    assert_eq!(
        config.routes,
        [
            route("/orders/{id}", None, None),
            route("/health", Some(0.0), Some(Duration::from_secs(3600))),
            route("/pay", None, None),
        ]
    );
    assert_eq!(config.metrics.histograms, Histograms { duration: false, upstream: true, proxy: true });
    assert_eq!(config.metrics.temporality, Temporality::Delta);
    assert!(!config.metrics.exemplars);
    assert_eq!(
        config.redact,
        Redact {
            query_params: vec!["pin".into(), "naïve".into()],
            header_values: vec!["x-session".into()],
            path_params: vec!["id".into()],
        }
    );
    assert_eq!(config.resource.len(), 2);
    assert_eq!(config.queue, Queue { max_bytes: 1024, when_full: WhenFull::Spill });
    assert_eq!(
        (config.retry.max_backoff, config.retry.max_elapsed),
        (Duration::from_millis(10), Duration::ZERO)
    );
}

#[test]
fn wrong_configurations_are_rejected_with_the_keys_path_the_value_and_what_is_allowed() {
    let cases: &[(&str, &[&str])] = &[
        ("", &["is empty", "collector.cluster"]),
        ("  \n", &["is empty"]),
        ("{", &["not JSON", "line 1"]),
        ("null", &["is null", "an object"]),
        ("[]", &["is an array", "an object"]),
        ("{}", &["`collector.cluster`", "missing", "1 to 256 characters"]),
        (r#"{"collector":{"cluster":""}}"#, &["`collector.cluster`", r#"`""`"#, "1 to 256"]),
        (r#"{"collector":{"cluster":7}}"#, &["`collector.cluster`", "`7`", "a string"]),
        (r#"{"collector":"otlp"}"#, &["`collector`", "an object"]),
        (
            &with(r#""colector":{}"#),
            &[
                "`colector`",
                "unknown key",
                "collector, resource, logs, metrics, routes, redact, batch, queue, retry",
            ],
        ),
        (&with(r#""logs":{"enable":true}"#), &["`logs.enable`", "unknown key", "enabled"]),
        (r#"{"collector":{"cluster":"c","clusters":1}}"#, &["`collector.clusters`", "unknown key"]),
        // Keys of behaviour that does not exist yet are unknown.
        (
            &with(r#""redact":{"cookies":[]}"#),
            &["`redact.cookies`", "query_params, header_values, path_params"],
        ),
        (&with(r#""redact":{"query_params":"pin"}"#), &["`redact.query_params`", "an array of at most 256"]),
        (
            &with(r#""redact":{"query_params":["ok","a%20b"]}"#),
            &["`redact.query_params[1]`", "`\"a%20b\"`", "decoded"],
        ),
        (&with(r#""redact":{"query_params":["a b"]}"#), &["`redact.query_params[0]`", "no blanks"]),
        (&with(r#""redact":{"query_params":[""]}"#), &["`redact.query_params[0]`", "1 to 64 bytes"]),
        (&with(r#""redact":{"header_values":["x:y"]}"#), &["`redact.header_values[0]`", "a header name"]),
        (
            &with(r#""redact":{"header_values":["Traceparent"]}"#),
            &["`redact.header_values[0]`", "`traceparent` is none"],
        ),
        (
            &with(r#""redact":{"path_params":[7]}"#),
            &["`redact.path_params[0]`", "`7`", "a parameter in `routes`"],
        ),
        (&with(r#""redact":{"path_params":[""]}"#), &["`redact.path_params[0]`", "a parameter in `routes`"]),
        (r#"{"collector":{"cluster":"c","authority":"a\nb"}}"#, &["`collector.authority`", "header value"]),
        (
            r#"{"collector":{"cluster":"c","path_prefix":"otlp"}}"#,
            &["`collector.path_prefix`", "`\"otlp\"`", "starts with"],
        ),
        (
            r#"{"collector":{"cluster":"c","timeout":"9ms"}}"#,
            &["`collector.timeout`", "`\"9ms\"`", "10ms to 5m"],
        ),
        (r#"{"collector":{"cluster":"c","timeout":"301s"}}"#, &["`collector.timeout`", "10ms to 5m"]),
        (r#"{"collector":{"cluster":"c","timeout":5}}"#, &["`collector.timeout`", "`5`", "a duration"]),
        (
            r#"{"collector":{"cluster":"c","max_in_flight":0}}"#,
            &["`collector.max_in_flight`", "`0`", "1 to 64"],
        ),
        (r#"{"collector":{"cluster":"c","max_in_flight":65}}"#, &["`collector.max_in_flight`", "`65`"]),
        (
            r#"{"collector":{"cluster":"c","max_in_flight":1.5}}"#,
            &["`collector.max_in_flight`", "`1.5`", "whole number"],
        ),
        (
            r#"{"collector":{"cluster":"c","headers":{"content-type":"x"}}}"#,
            &["`collector.headers.content-type`"],
        ),
        (&with(r#""resource":{"a":1}"#), &["`resource.a`", "`1`", "a string"]),
        (&with(r#""resource":{"":"x"}"#), &["`resource.`", "not empty"]),
        (&with(r#""logs":{"enabled":"yes"}"#), &["`logs.enabled`", "`\"yes\"`", "true or false"]),
        (&with(r#""logs":{"request_headers":"x"}"#), &["`logs.request_headers`", "an array"]),
        (
            &with(r#""logs":{"request_headers":["ok","no way"]}"#),
            &["`logs.request_headers[1]`", "`\"no way\"`"],
        ),
        (&with(r#""logs":{"response_headers":[""]}"#), &["`logs.response_headers[0]`"]),
        (
            &with(r#""logs":{"client_address":"half"}"#),
            &["`logs.client_address`", "\"full\", \"truncated\", \"none\""],
        ),
        (
            &with(r#""logs":{"attributes":{"tenant":"request.headers['x"}}"#),
            &["`logs.attributes.tenant`", "`request.headers['x`", "at byte 17 allowed is a string that ends"],
        ),
        (&with(r#""logs":{"attributes":{"a\nb":"1"}}"#), &["`logs.attributes.ab…`", "1 to 128 bytes"]),
        (&with(r#""logs":{"attributes":{"url.path":"1"}}"#), &["`logs.attributes.url.path`", "other names"]),
        (&with(r#""logs":{"attributes":{"a":1}}"#), &["`logs.attributes.a`", "`1`", "a string"]),
        (&with(r#""logs":{"attributes":[]}"#), &["`logs.attributes`", "an object"]),
        (&with(r#""logs":{"max_record_bytes":511}"#), &["`logs.max_record_bytes`", "`511`", "512 to 65536"]),
        (&with(r#""logs":{"max_record_bytes":65537}"#), &["`logs.max_record_bytes`", "512 to 65536"]),
        (&with(r#""logs":{"max_record_bytes":null}"#), &["`logs.max_record_bytes`", "`null`"]),
        (
            &with(r#""logs":{"sample_ratio":1.01}"#),
            &["`logs.sample_ratio`", "`1.01`", "a number from 0 to 1"],
        ),
        (&with(r#""logs":{"sample_ratio":-0.1}"#), &["`logs.sample_ratio`", "a number from 0 to 1"]),
        (&with(r#""logs":{"sample_ratio":"5%"}"#), &["`logs.sample_ratio`", "`\"5%\"`", "a number"]),
        (
            &with(r#""logs":{"sample_by":"span"}"#),
            &["`logs.sample_by`", "\"trace\", \"request\", \"random\""],
        ),
        (&with(r#""logs":{"keep_errors":1}"#), &["`logs.keep_errors`", "true or false"]),
        (&with(r#""logs":{"keep_slower_than":"61m"}"#), &["`logs.keep_slower_than`", "0s to 1h"]),
        (&with(r#""logs":{"keep_slower_than":null}"#), &["`logs.keep_slower_than`", "`null`"]),
        (
            &with(r#""logs":{"max_records_per_second":0}"#),
            &["`logs.max_records_per_second`", "`0`", "1 to 1000000"],
        ),
        (&with(r#""logs":{"max_records_per_second":1000001}"#), &["`logs.max_records_per_second`"]),
        (&with(r#""routes":{}"#), &["`routes`", "an array of at most 10000"]),
        (&with(r#""routes":["orders"]"#), &["`routes[0]`", "`\"orders\"`", "starts with `/`"]),
        (&with(r#""routes":["/a","/b?c"]"#), &["`routes[1]`", "no `?`"]),
        (&with(r#""routes":["/ä"]"#), &["`routes[0]`", "visible ASCII"]),
        (&with(r#""routes":[7]"#), &["`routes[0]`", "`7`", "a template or an object"]),
        (&with(r#""routes":[{}]"#), &["`routes[0].template`", "missing"]),
        (&with(r#""routes":["/a",{"template":"b"}]"#), &["`routes[1].template`", "`\"b\"`"]),
        (
            &with(r#""routes":[{"template":"/a","sample_ratio":2}]"#),
            &["`routes[0].sample_ratio`", "`2`", "a number from 0 to 1"],
        ),
        (
            &with(r#""routes":[{"template":"/a","keep_slower_than":"2h"}]"#),
            &["`routes[0].keep_slower_than`", "0s to 1h"],
        ),
        (
            &with(r#""routes":[{"template":"/a","keep_errors":true}]"#),
            &["`routes[0].keep_errors`", "unknown key", "template, sample_ratio, keep_slower_than"],
        ),
        (&with(r#""metrics":{"interval":"999ms"}"#), &["`metrics.interval`", "1s to 10m"]),
        (
            &with(r#""metrics":{"temporality":"DELTA"}"#),
            &["`metrics.temporality`", "\"cumulative\", \"delta\""],
        ),
        (
            &with(r#""metrics":{"histograms":["size"]}"#),
            &["`metrics.histograms[0]`", "`\"size\"`", "\"upstream\""],
        ),
        (
            &with(r#""metrics":{"attributes":["url.path"]}"#),
            &["`metrics.attributes[0]`", "\"envoy.route.name\""],
        ),
        (&with(r#""metrics":{"max_series":0}"#), &["`metrics.max_series`", "1 to 100000"]),
        (&with(r#""metrics":{"max_buckets":15}"#), &["`metrics.max_buckets`", "16 to 640"]),
        (&with(r#""metrics":{"exemplars":8}"#), &["`metrics.exemplars`", "`8`", "true or false"]),
        (&with(r#""batch":{"max_records":65537}"#), &["`batch.max_records`", "1 to 65536"]),
        (&with(r#""batch":{"max_bytes":8191}"#), &["`batch.max_bytes`", "8192 to 4194304"]),
        (&with(r#""batch":{"max_bytes":4194305}"#), &["`batch.max_bytes`", "8192 to 4194304"]),
        (&with(r#""batch":{"max_delay":"61s"}"#), &["`batch.max_delay`", "10ms to 1m"]),
        (&with(r#""queue":{"max_bytes":524287}"#), &["`queue.max_bytes`", "524288 to 536870912"]),
        (&with(r#""queue":{"max_bytes":536870913}"#), &["`queue.max_bytes`", "536870912"]),
        (&with(r#""queue":{"when_full":"block"}"#), &["`queue.when_full`", "`\"block\"`", "\"drop_oldest\""]),
        (&with(r#""retry":{"initial_backoff":"9ms"}"#), &["`retry.initial_backoff`", "10ms to 1m"]),
        (&with(r#""retry":{"max_backoff":"601s"}"#), &["`retry.max_backoff`", "10ms to 10m"]),
        (&with(r#""retry":{"max_elapsed":"3601s"}"#), &["`retry.max_elapsed`", "0s to 1h"]),
        (&with(r#""batch":{"max_records":1},"batch":{"max_bytes":9999}"#), &["`batch`", "stands twice"]),
        (r#"{"collector":{"cluster":"c","cluster":"d"}}"#, &["`cluster`", "stands twice", "line 1"]),
        (
            r#"{"collector":{"cluster":"c","headers":{"a":"1","A":"2"}}}"#,
            &["`collector.headers.a`", "stands twice"],
        ),
        (&with(r#""retry":{"attempts":3}"#), &["`retry.attempts`", "unknown key"]),
    ];
    for (json, words) in cases {
        let error = parse(json).expect_err(json);
        for word in *words {
            assert!(error.contains(word), "{json}: {error:?} lacks {word:?}");
        }
        assert!(!error.contains('\n') && error.len() < 300, "{json}: {error:?}");
    }
}

#[test]
fn secrets_beside_or_inside_a_mistake_are_not_told() {
    for json in [
        r#"{"collector":{"cluster":"c","headers":{"authorization":"Bearer s3cret"},"timeout":"1h"}}"#,
        r#"{"collector":{"headers":{"authorization":"Bearer s3cret"}}}"#,
        r#"{"collector":{"cluster":"c","headers":"Bearer s3cret"}}"#,
        r#"{"collector":{"cluster":"c","headers":["Bearer s3cret"]}}"#,
        r#"{"collector":{"cluster":"c","headers":{"authorization":["Bearer s3cret"]}}}"#,
        r#"{"collector":{"cluster":"c","headers":{"authorization":"s3cret\n"}}}"#,
        r#"{"collector":{"cluster":"c","headers":{"authorization: Bearer s3cret":""}}}"#,
        r#"{"collector":{"cluster":"c","headers":{"host":"s3cret"}}}"#,
        r#"{"collector":{"cluster":"c","header":{"authorization":"Bearer s3cret"}}}"#,
        r#"{"collector":{"cluster":"c","Authorization: Bearer s3cret":1}}"#,
        r#"{"authorization: s3cret":1,"authorization: s3cret":2}"#,
        r#"{"collector":["Bearer s3cret"]}"#,
        r#"["Bearer s3cret"]"#,
        r#""Bearer s3cret""#,
        "authorization: Bearer s3cret",
        r#"{"collector":{"headers":{"authorization":"Bearer s3cret"}"#,
        r#"{"collector":{"cluster":"c","headers":{"authorization":"Bearer s3cret"}},"x":"#,
    ] {
        let error = parse(json).expect_err(json);
        assert!(!error.contains("s3cret"), "{json}: {error}");
    }
}

#[test]
fn limits_on_counts_are_exact() {
    let headers = |count: usize| {
        let entries: Vec<_> = (0..count).map(|n| format!(r#""h{n}":"v""#)).collect();
        parse(&format!(r#"{{"collector":{{"cluster":"c","headers":{{{}}}}}}}"#, entries.join(",")))
    };
    assert_eq!(headers(16).unwrap().collector.headers.len(), 16);
    assert!(headers(17).unwrap_err().contains("at most 16"));
    let listed = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!(r#""h{n}""#)).collect();
        parse(&with(&format!(r#""logs":{{"request_headers":[{}]}}"#, names.join(","))))
    };
    assert_eq!(listed(32).unwrap().logs.request_headers.len(), 32);
    assert!(listed(33).unwrap_err().contains("at most 32"));
    let routes = |count: usize| {
        let templates: Vec<_> = (0..count).map(|n| format!(r#""/{n}""#)).collect();
        parse(&with(&format!(r#""routes":[{}]"#, templates.join(","))))
    };
    assert_eq!(routes(10_000).unwrap().routes.len(), 10_000);
    assert!(routes(10_001).unwrap_err().contains("at most 10000"));
    let template = |len: usize| parse(&with(&format!(r#""routes":["/{}"]"#, "x".repeat(len - 1))));
    assert!(template(256).is_ok());
    assert!(template(257).unwrap_err().contains("at most 256"));
    for key in ["query_params", "header_values", "path_params"] {
        let names = |count: usize| {
            let names: Vec<_> = (0..count).map(|n| format!(r#""n{n}""#)).collect();
            parse(&with(&format!(r#""redact":{{"{key}":[{}]}}"#, names.join(","))))
        };
        assert!(names(256).is_ok());
        assert!(names(257).unwrap_err().contains("at most 256"));
    }
    let param = |len: usize| parse(&with(&format!(r#""redact":{{"query_params":["{}"]}}"#, "x".repeat(len))));
    assert!(param(64).is_ok());
    assert!(param(65).unwrap_err().contains("1 to 64"));
    let resource = |count: usize| {
        let entries: Vec<_> = (0..count).map(|n| format!(r#""k{n}":"v""#)).collect();
        parse(&with(&format!(r#""resource":{{{}}}"#, entries.join(","))))
    };
    assert_eq!(resource(64).unwrap().resource.len(), 64);
    assert!(resource(65).unwrap_err().contains("at most 64"));
}
