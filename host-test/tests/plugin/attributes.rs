//! Attributes that users name: what a record says of them, and what they cost when they fail.

use std::collections::BTreeMap;

use offpath_host_test::{Cel, Proxy, Request, get};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue};
use serde_json::{Value, json};

use crate::support::{
    assert_accounted_for, attributes, builder, config, double, int, plugin_wasm, records, secs, text,
};

const FAILURES: &str = "offpath_attribute_failures_total";
const FALLBACKS: &str = "offpath_capture_fallbacks_total";

/// Each type, where it comes from, and where it fails or is missing.
fn named() -> Value {
    json!({
        "tenant": "request.headers['X-Tenant']",
        "cache": "response.headers[\"x-cache\"]",
        "none": "request.headers['x-none']",
        "peer": "connection.uri_san_peer_certificate",
        "mtls": "connection.mtls",
        "size": "response.size",
        "half": "double(response.code) / 2.0",
        "negative": "0 - response.code // what follows is a comment",
        "unsigned": "7u",
        "list": "['a', request.method, 'é']",
        "empty": "[]",
        "nothing": "null",
        "failing": "request.headers['x-number'] == '' ? 1 : 1 / int(request.headers['x-number'])",
        "version": "request.protocol.endsWith('1.1') ? 'old' : 'new'",
    })
}

fn request() -> Request {
    get("/orders/7").header("x-tenant", "shop").header("x-number", "1").response_header("x-cache", "HIT")
}

fn flag(value: bool) -> AnyValue {
    AnyValue { value: Some(Any::BoolValue(value)) }
}

fn list(values: &[&str]) -> AnyValue {
    let values = values.iter().map(|value| text(value)).collect();
    AnyValue { value: Some(Any::ArrayValue(ArrayValue { values })) }
}

/// Of the only record, the attributes that are named.
fn told(proxy: &mut Proxy) -> BTreeMap<String, AnyValue> {
    proxy.advance(secs(2)).unwrap();
    let mut records = records(&proxy.cluster("otlp").answer_all(200).unwrap());
    assert_eq!(records.len(), 1);
    assert_accounted_for(proxy);
    let mut attributes = attributes(&records.remove(0).attributes);
    attributes.retain(|name, _| named().get(name).is_some());
    attributes
}

fn expected() -> BTreeMap<String, AnyValue> {
    let expected = [
        ("tenant", text("shop")),
        ("cache", text("HIT")),
        ("peer", text("spiffe://shop/cart")),
        ("mtls", flag(true)),
        ("size", int(10)),
        ("half", double(100.0)),
        ("negative", int(-200)),
        ("unsigned", int(7)),
        ("list", list(&["a", "GET", "é"])),
        ("failing", int(1)),
        ("version", text("old")),
    ];
    expected.map(|(name, value)| (name.to_owned(), value)).into()
}

fn with_peer(request: Request) -> Request {
    request.bytes(0, 10).with(|info| {
        info.mtls = true;
        info.tls = Some(BTreeMap::from([("uri_san_peer_certificate", b"spiffe://shop/cart".to_vec())]));
    })
}

#[test]
fn types_are_kept_and_what_a_request_lacks_is_left_out_uncounted() {
    // With everything at once, and where only those requests are asked for them whose records are kept.
    for logs in [json!({}), json!({"sample_ratio": 0.5, "keep_slower_than": "0s"})] {
        let mut changes = json!({"logs": logs});
        changes["logs"]["attributes"] = named();
        let mut proxy = builder(changes).start().unwrap();
        proxy.request(with_peer(request())).respond(200).unwrap();
        assert_eq!(told(&mut proxy), expected());
        assert_eq!((proxy.counter(FAILURES), proxy.counter(FALLBACKS)), (0, 0));
    }
}

#[test]
fn one_that_fails_is_counted_and_costs_only_itself() {
    let mut proxy = builder(json!({"logs": {"attributes": named()}})).start().unwrap();
    proxy
        .request(with_peer(
            get("/").header("x-tenant", "shop").header("x-number", "zero").response_header("x-cache", "HIT"),
        ))
        .respond(200)
        .unwrap();
    let mut expected = expected();
    expected.remove("failing");
    assert_eq!(told(&mut proxy), expected);
    assert_eq!((proxy.counter(FAILURES), proxy.counter(FALLBACKS)), (1, 0));
}

#[test]
fn a_value_that_no_attribute_can_have_is_counted() {
    let attributes = json!({"map": "request.headers", "duration": "request.duration", "numbers": "[1, 2]", "tenant": "'a'"});
    let mut proxy = builder(json!({"logs": {"attributes": attributes}})).start().unwrap();
    proxy.request(request()).respond(200).unwrap();
    assert_eq!(told(&mut proxy), BTreeMap::from([("tenant".to_owned(), text("a"))]));
    assert_eq!((proxy.counter(FAILURES), proxy.counter(FALLBACKS)), (3, 0));
}

#[test]
fn a_list_that_fails_for_other_reasons_takes_no_attribute_along() {
    let mut proxy = builder(json!({"logs": {"attributes": named()}})).start().unwrap();
    // A request without a route fails the list that expects one.
    let request = with_peer(request()).with(|info| info.route_name = None);
    proxy.request(request).respond(200).unwrap();
    assert_eq!(told(&mut proxy), expected());
    assert_eq!((proxy.counter(FAILURES), proxy.counter(FALLBACKS)), (0, 0));
}

#[test]
fn where_nothing_can_be_evaluated_any_more_texts_come_one_by_one_and_the_rest_is_counted() {
    let mut proxy = builder(json!({"logs": {"attributes": named()}})).start().unwrap();
    proxy.set_cel(Cel::FailsToEvaluate);
    proxy.request(with_peer(request())).respond(200).unwrap();
    let mut expected = expected();
    expected.retain(|name, _| ["tenant", "cache", "peer"].contains(&name.as_str()));
    assert_eq!(told(&mut proxy), expected);
    assert_eq!((proxy.counter(FAILURES), proxy.counter(FALLBACKS)), (10, 1));
}

#[test]
fn of_what_may_come_from_a_credential_only_a_bool_is_told() {
    let attributes = json!({
        "tenant": "request.headers['authorization']",
        "cache": "'Bearer ' + request.headers.cookie",
        "mtls": "request.headers['authorization'].startsWith('Bearer')",
        "list": "[request.headers['Authorization']]",
        "peer": "request.query",
        "size": "int(request.headers['x-api-key'])",
        "negative": "double(request.headers['x-api-key'])",
        "empty": "request.headers.map(name, request.headers[name])",
    });
    let mut proxy = builder(json!({"logs": {"attributes": attributes}})).start().unwrap();
    let request =
        get("/?a=1&token=s3cr3t").header("authorization", "Bearer s3cr3t").header("cookie", "s3cr3t");
    let request = request.header("x-api-key", "4711");
    proxy.request(request).respond(200).unwrap();
    let expected = [
        ("tenant", text("REDACTED")),
        ("cache", text("REDACTED")),
        ("mtls", flag(true)),
        ("peer", text("a=1&token=REDACTED")),
        ("size", text("REDACTED")),
        ("negative", text("REDACTED")),
    ];
    let mut told = told(&mut proxy);
    // The host looks headers up as they are written, so there is none of that name in it.
    told.remove("list");
    let AnyValue { value: Some(Any::ArrayValue(all)) } = told.remove("empty").unwrap() else { panic!() };
    assert!(all.values.iter().all(|value| *value == text("REDACTED")), "headers whose names nobody has said");
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value)).into());
}

#[test]
fn a_wrong_one_is_refused_by_its_name_and_its_place() {
    let many: Value = (0..33).map(|index| (format!("a{index}"), json!("request.path"))).collect();
    let cases = [
        (
            json!({"tenant": "request.headers['x"}),
            "`logs.attributes.tenant`: is `request.headers['x`, at byte 17 allowed is a string that ends",
        ),
        (json!({"tenant": "request.path)"}), "at byte 13 allowed is an operator, or the end"),
        (json!({"tenant": ""}), "`logs.attributes.tenant`: is ``, at byte 1 allowed is a value"),
        // The syntax is right.
        (json!({"a": "1", "tenant": "has(request)"}), "`logs.attributes.tenant`: is refused by the proxy"),
        (json!({"tenant": 7}), "`logs.attributes.tenant`: is `7`"),
        (json!({"": "request.path"}), "not empty"),
        (
            json!({"url.path": "request.path"}),
            "`logs.attributes.url.path`: is an attribute that records have",
        ),
        (json!({"offpath.x": "request.path"}), "`logs.attributes.offpath.x`"),
        (json!({"a".repeat(129): "request.path"}), "1 to 128 bytes"),
        (json!({"tenant": "1".repeat(513)}), "at most 512 bytes"),
        (many, "`logs.attributes`: has 33 entries, allowed are at most 32"),
        (json!(["request.path"]), "`logs.attributes`"),
    ];
    for (attributes, expected) in cases {
        let changes = config(json!({"logs": {"attributes": attributes}}));
        let Err(error) = Proxy::load(plugin_wasm()).config(changes).start() else {
            panic!("taken: {attributes}");
        };
        assert!(error.to_string().contains(expected), "{attributes}: {error}");
    }
    let most: Value = (0..32).map(|index| (format!("a{index}"), json!("request.path + ''"))).collect();
    builder(json!({"logs": {"attributes": most}})).start().unwrap();
}

/// The host calls of one request.
fn calls_of_a_request(attributes: Value) -> BTreeMap<&'static str, u64> {
    let mut proxy = builder(json!({"logs": {"attributes": attributes}})).start().unwrap();
    let before = proxy.host_calls().clone();
    proxy.request(request()).respond(200).unwrap();
    let after = proxy.host_calls();
    after.iter().map(|(name, count)| (*name, count - before.get(name).copied().unwrap_or(0))).collect()
}

#[test]
fn named_attributes_come_with_the_records_own_fields() {
    let without = calls_of_a_request(json!({}));
    assert_eq!(calls_of_a_request(json!({"tenant": "request.headers['x-tenant']"})), without);
    assert_eq!(calls_of_a_request(named()), without);
}
