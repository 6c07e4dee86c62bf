//! Attributes that users name, in real Envoy: each type, what fails, who the client is by its certificate, and what Envoy says
//! of a wrong expression.

use std::{net::SocketAddr, path::Path, process::Stdio};

use serde_json::{Map, Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};
use xtask::{
    harness::{bootstrap::Bootstrap, load, receiver::Receiver, wait},
    need::{self, Need},
};

use crate::{
    otlp_decoder::{attributes, log_records},
    proxy::{ENVOY_1_40, Proxy, bootstrap, everywhere_in_wasm, folder},
};

/// Attributes, each with its expression and its value in protobuf's JSON mapping; none where it is left out.
fn named() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("header", "request.headers['X-Tenant']", json!({"stringValue": "shop"})),
        ("response.header", "response.headers['x-none']", Value::Null),
        ("url", "request.url_path", json!({"stringValue": "/orders/7"})),
        ("string", "request.headers['x-tenant'] + '/' + request.method", json!({"stringValue": "shop/GET"})),
        ("int", "response.code", json!({"intValue": "200"})),
        ("negative", "0 - response.code // a comment", json!({"intValue": "-200"})),
        ("uint", "7u", json!({"intValue": "7"})),
        ("double", "double(response.code) / 16.0", json!({"doubleValue": 12.5})),
        ("bool", "connection.mtls", json!({"boolValue": false})),
        ("computed", "response.code >= 400", json!({"boolValue": false})),
        (
            "list",
            "['a', request.method]",
            json!({"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "GET"}]}}),
        ),
        ("empty", "[]", Value::Null),
        ("null", "null", Value::Null),
        ("peer", "connection.uri_san_peer_certificate", Value::Null),
        ("metadata", "metadata.filter_metadata['none'].key", Value::Null),
        ("node", "xds.node.id", json!({"stringValue": "edge-1"})),
        ("text.of.duration", "string(request.duration).endsWith('s')", json!({"boolValue": true})),
    ]
}

/// Those that fail, by what they would be.
const FAILING: [(&str, &str); 3] =
    [("division", "1 / 0"), ("a.map", "request.headers"), ("a.duration", "request.duration")];

fn keys(attributes: impl IntoIterator<Item = (&'static str, &'static str)>) -> [(&'static str, Value); 3] {
    let attributes: Map<String, Value> =
        attributes.into_iter().map(|(name, text)| (name.to_owned(), json!(text))).collect();
    [
        ("logs.attributes", attributes.into()),
        ("batch.max_delay", json!("100ms")),
        ("metrics.enabled", json!(false)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_is_kept_and_one_that_fails_costs_only_itself() {
    for (release, mode) in everywhere_in_wasm() {
        for failing in [&[][..], &FAILING] {
            let receiver = Receiver::start().await.unwrap();
            let named = named();
            let all = named.iter().map(|(name, text, _)| (*name, *text)).chain(failing.iter().copied());
            let bootstrap = bootstrap(release, mode, &keys(all)).await;
            let proxy = Proxy::start(release, bootstrap, receiver.address()).await;
            load::keep_alive(proxy.address(), 1, 5, |_| {
                let mut request = load::get("/orders/7")?;
                request.headers_mut().insert("x-tenant", "shop".parse()?);
                Ok(request)
            })
            .await
            .unwrap();
            for record in records(&proxy, &receiver, 5).await {
                for (name, _, expected) in &named {
                    let value = record.get(*name).cloned().unwrap_or_default();
                    assert_eq!(value, *expected, "{name} ({mode:?}, {})", release.version);
                }
                assert!(failing.iter().all(|(name, _)| !record.contains_key(*name)), "{record:?}");
            }
            let stats = proxy.stats("offpath_(attribute_failures|capture_fallbacks)_total").await.unwrap();
            let of =
                |name: &str| stats.get(&format!("wasmcustom.offpath_{name}_total")).copied().unwrap_or(0);
            assert_eq!(of("attribute_failures"), 5 * failing.len() as u64, "{stats:?}");
            assert_eq!(of("capture_fallbacks"), 0, "{stats:?}");
        }
    }
}

/// The attributes of all records, as soon as there are so many.
async fn records(proxy: &Proxy, receiver: &Receiver, count: u64) -> Vec<Map<String, Value>> {
    wait::until("all records are delivered", async || {
        Ok((proxy.accounting().await?.delivered == count).then_some(()))
    })
    .await
    .unwrap();
    let records = log_records(&receiver.calls(), proxy.folder()).await;
    assert_eq!(records.len() as u64, count);
    records.iter().map(|record| attributes(&record["record"])).collect()
}

/// As in the README.
const IDENTITY: [(&str, &str); 3] = [
    ("tls.protocol.version", "connection.tls_version"),
    ("tls.client.server_name", "connection.requested_server_name"),
    ("peer.uri_san", "connection.uri_san_peer_certificate"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_known_by_its_certificate_and_the_name_it_asked_for() {
    need::tools(&[Need::Openssl]).unwrap();
    let certificates = folder().await;
    make_certificate(certificates.path()).await;
    for (release, mode) in everywhere_in_wasm() {
        let receiver = Receiver::start().await.unwrap();
        let bootstrap = with_mutual_tls(bootstrap(release, mode, &keys(IDENTITY)).await, certificates.path());
        let proxy = Proxy::start(release, bootstrap, receiver.address()).await;
        let answer = get_by_tls(proxy.address(), certificates.path()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let record = records(&proxy, &receiver, 1).await.remove(0);
        let text = |name: &str| record.get(name).and_then(|value| value["stringValue"].as_str());
        assert_eq!(
            IDENTITY.map(|(name, _)| text(name)),
            [Some("TLSv1.3"), Some("shop.example"), Some("spiffe://shop/cart")],
            "{mode:?}: {record:?}"
        );
    }
}

/// One for both sides, each of which trusts it.
async fn make_certificate(folder: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=shop \
                     -addext subjectAltName=URI:spiffe://shop/cart,DNS:shop.example -keyout key.pem -out certificate.pem";
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn with_mutual_tls(mut bootstrap: Bootstrap, folder: &Path) -> Bootstrap {
    let file = |name: &str| json!({"filename": folder.join(name)});
    let chain = bootstrap.at("/static_resources/listeners/0/filter_chains/0").unwrap();
    chain["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": file("certificate.pem"), "private_key": file("key.pem")}],
                "validation_context": {"trusted_ca": file("certificate.pem")},
            },
        },
    });
    // Without it Envoy knows no server name.
    bootstrap.at("/static_resources/listeners/0").unwrap()["listener_filters"] = json!([{
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        },
    }]);
    bootstrap
}

/// One request over a connection of its own; its answer.
async fn get_by_tls(address: SocketAddr, folder: &Path) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-tls1_3", "-servername", "shop.example", "-verify_return_error"])
        .args(["-cert", "certificate.pem", "-key", "key.pem", "-CAfile", "certificate.pem", "-connect"])
        .arg(address.to_string())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let request = b"GET /orders/7 HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    client.stdin.as_mut().unwrap().write_all(request).await.unwrap();
    // The end of its input it ignores (`-quiet`); it ends when Envoy closes the connection.
    let output = tokio::time::timeout(wait::DEADLINE, client.wait_with_output()).await.unwrap().unwrap();
    let (answer, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{answer}{errors}");
    answer.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_expression_keeps_envoy_from_starting_and_is_named_with_its_place() {
    let receiver = Receiver::start().await.unwrap();
    for mode in xtask::harness::bootstrap::Mode::WASM {
        for (text, expected) in [
            ("request.headers['x", "at byte 17 allowed is a string that ends"),
            // Right as to its syntax; what is wrong with it only Envoy knows.
            ("request.path.reversed()", "expr_create compile error"),
            ("has(request)", "expr_create parse error: ERROR: <input>:1:5: "),
        ] {
            let bootstrap = bootstrap(ENVOY_1_40, mode, &keys([("tenant", text)])).await;
            let Err(refusal) = Proxy::try_start(ENVOY_1_40, bootstrap, receiver.address()).await else {
                panic!("Envoy starts with `{text}`");
            };
            let refusal = format!("{refusal:#}");
            assert!(refusal.contains("`logs.attributes.tenant`: is "), "{refusal}");
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
    }
}
