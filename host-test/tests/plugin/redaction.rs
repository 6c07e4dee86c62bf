//! Secrets planted wherever a client or an application can put bytes are in nothing that leaves the plugin: no export, no
//! spilled record, no other line of the proxy's log, no name in its stats.

use std::collections::BTreeSet;

use offpath_host_test::secrets::{self, Planted};
use offpath_host_test::{LogLevel, Proxy, Request, get};
use serde_json::{Value, json};

use crate::support::{assert_accounted_for, decode_logs, decode_metrics, dropped, proxy, records, secs};

/// What has a secret; told are its place and its encoding.
fn request(planted: &Planted) -> Request {
    let mut request = get(&planted.target).with(|info| info.source_address = b"203.0.113.177:4711".to_vec());
    for (name, value) in &planted.headers {
        let name = if *name == "host" { ":authority" } else { name };
        request = request.set_header(name, value);
    }
    planted
        .response_headers
        .iter()
        .fold(request, |request, (name, value)| request.response_header(name, value))
}

fn send_all(proxy: &mut Proxy, planted: &[Planted]) {
    for planted in planted {
        proxy.request(request(planted)).respond(200).unwrap();
    }
    proxy.advance(secs(20)).unwrap();
}

fn secret_config(queue: Value) -> Value {
    let mut config = secrets::config();
    config["queue"] = queue;
    config
}

/// Whether something of the place is told at all, without its secret.
fn is_told(place: &str) -> bool {
    !["x-unlisted", "traceparent", "tracestate", "baggage", "host,", "address"]
        .iter()
        .any(|never| place.contains(never))
}

#[test]
fn no_secret_that_is_planted_anywhere_leaves_the_plugin() {
    let planted = secrets::planted();
    let places: BTreeSet<&str> = planted.iter().map(|planted| planted.place.as_str()).collect();
    let encodings: BTreeSet<&str> = planted.iter().map(|planted| planted.encoding).collect();
    let forms = secrets::forms().len();
    println!(
        "{} secrets: {} places, {} encodings; looked for in {forms} forms",
        planted.len(),
        places.len(),
        encodings.len()
    );
    assert_eq!((planted.len(), places.len(), encodings.len(), forms), (2812, 210, 28, 14));

    let mut proxy = proxy(secret_config(json!({})));
    send_all(&mut proxy, &planted);
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    let records = records(&calls);
    assert_eq!(records.len(), planted.len());
    for (record, planted) in records.iter().zip(&planted) {
        let text = format!("{record:?}");
        assert_eq!(secrets::found(text.as_bytes()), None, "{planted:?}");
        assert!(text.contains("REDACTED") || !is_told(&planted.place), "{planted:?}: {text}");
    }
    for call in &calls {
        let decoded = match call.path() {
            "/v1/logs" => format!("{:?}", decode_logs(call)),
            _ => format!("{:?}", decode_metrics(call)),
        };
        assert_eq!(secrets::found(&call.body), None);
        assert_eq!(secrets::found(decoded.as_bytes()), None);
        assert_eq!(secrets::found(format!("{:?}", call.headers).as_bytes()), None);
    }
    check_the_proxy(&proxy);
}

#[test]
fn no_secret_leaves_the_plugin_however_it_is_configured() {
    for (name, config, has_path_params) in secrets::other_configs() {
        let mut planted = secrets::planted();
        planted.retain(|planted| has_path_params || !planted.needs_path_params);
        println!("{name}: {} secrets", planted.len());
        let mut proxy = proxy(config);
        send_all(&mut proxy, &planted);
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        let records = records(&calls);
        assert_eq!(records.len(), planted.len(), "{name}");
        for (record, planted) in records.iter().zip(&planted) {
            assert_eq!(secrets::found(format!("{record:?}").as_bytes()), None, "{name}: {planted:?}");
        }
        let redacted = records.iter().filter(|record| format!("{record:?}").contains("REDACTED")).count();
        assert!(redacted * 2 > records.len(), "{name}: {redacted} of {}", records.len());
        for call in &calls {
            assert_eq!(secrets::found(&call.body), None, "{name}");
        }
        check_the_proxy(&proxy);
    }
}

#[test]
fn no_secret_that_is_planted_anywhere_is_spilled() {
    let planted = secrets::planted();
    let mut proxy = proxy(secret_config(json!({"when_full": "spill", "max_bytes": 524_288})));
    proxy.cluster("otlp").remove();
    for planted in planted.chunks(500) {
        send_all(&mut proxy, planted);
    }
    let lines = proxy.log_lines().iter().filter(|line| line.level == LogLevel::Warn).count();
    assert!(lines > 0 && lines as u64 == dropped(&proxy, "spilled"), "{lines} lines");
    check_the_proxy(&proxy);
    assert_accounted_for(&proxy);
}

/// Its log and its stats.
#[track_caller]
fn check_the_proxy(proxy: &Proxy) {
    for line in proxy.log_lines() {
        assert_eq!(secrets::found(line.message.as_bytes()), None);
    }
    let stats = format!("{:?} {:?}", proxy.counters(""), proxy.gauges(""));
    assert_eq!(secrets::found(stats.as_bytes()), None);
}

/// Envoy has names of its own for some headers, and CEL more than one way to ask for any.
#[test]
fn a_secret_header_is_told_under_none_of_its_names() {
    let expressions = [
        "request.useragent",
        "request.id",
        "request.host",
        "request.referer",
        "request.headers[':authority']",
        "request.headers['user-agent']",
        "'id: ' + request.id",
        "request['useragent']",
        "request['headers']['user-' + 'agent']",
        "request['headers'][request.headers['x-pick']]",
    ];
    let mut proxy = proxy(json!({
        "logs": {"attributes": expressions.map(|text| (text.to_owned(), json!(text))).into_iter().collect::<serde_json::Map<_, _>>()},
        "redact": {"header_values": ["user-agent", "x-request-id", "host", "referer"]},
    }));
    let marker = secrets::MARKER;
    let request = ["user-agent", "x-request-id", ":authority", "referer"]
        .into_iter()
        .fold(get("/"), |request, name| request.set_header(name, marker))
        .set_header("x-pick", "referer");
    proxy.request(request).respond(200).unwrap();
    proxy.advance(secs(2)).unwrap();
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    let record = format!("{:?}", records(&calls));
    assert_eq!(secrets::found(record.as_bytes()), None);
    let told = expressions.iter().filter(|text| record.contains(**text)).count();
    assert_eq!(told, expressions.len(), "{record}");
}

/// The search finds what is not redacted, so what it does not find is.
#[test]
fn what_the_configuration_does_not_name_is_told() {
    let config =
        json!({"logs": {"request_headers": ["x-session", "x-forwarded-for"]}, "routes": ["/reset/{token}"]});
    let marker = secrets::MARKER;
    for request in [
        get(format!("/orders/7?pin={marker}")),
        get(format!("/reset/{marker}")),
        get("/").header("x-session", marker),
        get("/").header("x-forwarded-for", "203.0.113.177"),
        get("/").with(|info| info.source_address = b"203.0.113.177:4711".to_vec()),
    ] {
        let mut proxy = proxy(config.clone());
        proxy.request(request).respond(200).unwrap();
        proxy.advance(secs(2)).unwrap();
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        assert!(calls.iter().any(|call| secrets::found(&call.body).is_some()));
    }
}
