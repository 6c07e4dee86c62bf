//! Requests as nobody should send them. Envoy's own file logger, beside the plugin, says which of them it finished; each
//! of those is captured once, and nothing traps.

use std::path::Path;

use anyhow::Context as _;
use futures_util::future::join_all;
use hyper::Method;
use serde_json::json;
use xtask::harness::{
    bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode},
    load, wait,
};

use crate::proxy::{EVERYWHERE, Proxy, bootstrap, collector, folder};

/// Each request comes so often: a first one may find other paths than the next on the same worker.
const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_envoy_finishes_is_captured_once_and_nothing_traps() {
    for (release, mode) in EVERYWHERE {
        let folder = folder().await;
        let collector = collector(&folder).await;
        let native_log = folder.path().join("native.log");
        let keys = [("logs.request_headers", json!(["x-bytes", "x-many-7", "authorization"]))];
        let bootstrap = hostile(bootstrap(release, mode, &keys).await, &native_log).unwrap();
        let mut proxy = Proxy::start(release, bootstrap, collector.otlp()).await;

        let mut sent = 0;
        for _ in 0..ROUNDS {
            sent += send_all(&proxy).await;
        }
        proxy.until_idle().await;
        let agreed = wait::until("the plugin has captured what Envoy's own log has", async || {
            let finished = finished(&native_log, mode)?.len() as u64;
            let accounting = proxy.accounting().await?;
            let equal =
                finished >= sent && accounting.captured == finished && accounting.delivered == finished;
            Ok(equal.then_some(finished))
        })
        .await;
        let Ok(finished) = agreed else {
            let lines = finished(&native_log, mode).unwrap();
            let plugin = proxy.accounting().await.unwrap();
            panic!(
                "{mode:?} in {}: sent {sent}, finished {}, the plugin: {plugin:?}\n{}",
                release.version,
                lines.len(),
                lines.join("\n")
            );
        };
        wait::until_equal("the records stored", &finished, async || Ok(collector.accounting().await?.stored))
            .await
            .unwrap();

        assert!(proxy.is_running().unwrap());
        let log = proxy.log().unwrap();
        for sign in ["panicked", "unreachable", "failed: Uncaught", "[wasm]"] {
            assert!(!log.contains(sign), "`{sign}` in Envoy's log ({mode:?} in {}): {log}", release.version);
        }
        check_records(&collector.logs("").await.unwrap());
    }
}

/// Envoy's own log beside the plugin, routes that Envoy answers itself, and paths without a route.
pub(crate) fn hostile(mut bootstrap: Bootstrap, native_log: &Path) -> anyhow::Result<Bootstrap> {
    let manager = bootstrap.at(HTTP_CONNECTION_MANAGER)?.as_object_mut().context("not an object")?;
    let loggers =
        manager.entry("access_log").or_insert_with(|| json!([])).as_array_mut().context("not a list")?;
    let format =
        "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %PROTOCOL% %REQ(:METHOD)% %REQ(:PATH)%\n";
    loggers.push(json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": native_log,
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }));
    let routes = bootstrap.at(&format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes"))?;
    let routes = routes.as_array_mut().context("not a list")?;
    routes.retain(|route| route.get("name") != Some(&json!("other")));
    routes.push(json!({"match": {"path": "/teapot"}, "direct_response": {"status": 418}}));
    routes.push(json!({"match": {"path": "/moved"}, "redirect": {"path_redirect": "/orders"}}));
    Ok(bootstrap)
}

/// What a mode can see of what Envoy's own log has. A client that leaves within a request's head is logged, without
/// method and status; but Envoy makes no HTTP filters for it.
pub(crate) fn finished(native_log: &Path, mode: Mode) -> anyhow::Result<Vec<String>> {
    let bytes = std::fs::read(native_log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let seen = |line: &&str| mode != Mode::HttpFilter || !(line.starts_with("0 ") && line.ends_with(" - -"));
    Ok(whole.lines().filter(seen).map(|line| line.chars().take(100).collect()).collect())
}

/// Sends each once, all at the same time; how many of them Envoy answers, and so finishes, for certain.
pub(crate) async fn send_all(proxy: &Proxy) -> u64 {
    let answered = [well_formed_but_strange(), answered_with_an_error()].concat();
    let certain = answered.len() as u64;
    join_all(answered.iter().map(async |request| {
        let start = String::from_utf8_lossy(request.get(..60).unwrap_or(request));
        let answer =
            load::raw(proxy.address(), request).await.unwrap_or_else(|error| panic!("{error:#} to {start}"));
        assert!(answer.starts_with(b"HTTP/1."), "no answer to {start}");
    }))
    .await;
    join_all(left_by_the_client().iter().map(async |request| {
        load::send_and_leave(proxy.address(), request).await.unwrap();
    }))
    .await;
    // An answer or none: both are right.
    join_all(no_http_at_all().iter().map(async |garbage| drop(load::raw(proxy.address(), garbage).await)))
        .await;
    certain + over_http2(proxy).await
}

pub(crate) fn closing(request_line: &[u8], headers: &[u8]) -> Vec<u8> {
    [request_line, b"\r\nHost: shop.example\r\nConnection: close\r\n", headers, b"\r\n"].concat()
}

fn well_formed_but_strange() -> Vec<Vec<u8>> {
    let many: String = (0..90).map(|n| format!("X-Many-{n}: {n}\r\n")).collect();
    let long = "a".repeat(8192);
    vec![
        closing(
            b"GET /orders/1 HTTP/1.1",
            b"User-Agent: \xff\xfe\x80\r\nX-Bytes: \xc3\x28\r\nReferer: \xf0\x9f\r\n",
        ),
        closing(format!("GET /orders/{long} HTTP/1.1").as_bytes(), b""),
        closing(format!("GET /orders/1?q={long} HTTP/1.1").as_bytes(), b""),
        closing(b"GET /orders/%00%ff%c3%28?a=%00&&=&token=%ff&code HTTP/1.1", b""),
        closing(b"GET /orders/1 HTTP/1.1", many.as_bytes()),
        closing(b"GET /orders/1 HTTP/1.1", format!("User-Agent: {long}\r\nCookie: {long}\r\n").as_bytes()),
        closing(
            b"GET /orders/1 HTTP/1.1",
            b"traceparent: 00-zz-zz-zz\r\ntraceparent: \xff\r\nUser-Agent:\r\n",
        ),
        closing(b"GET /orders/1 HTTP/1.1", b"Authorization: Bearer hunter2\r\nX-Request-Id: \x80\r\n"),
        closing(b"OPTIONS * HTTP/1.1", b""),
        closing(b"GET /orders/\xff\xfe?\xc3\x28 HTTP/1.1", b""),
        closing(b"GET /orders/1?end=reset HTTP/1.1", b""),
        closing(b"GET /teapot HTTP/1.1", b""),
        closing(b"GET /moved HTTP/1.1", b""),
        closing(b"GET /nowhere HTTP/1.1", b""),
        closing(b"GET /orders/1?end=truncate HTTP/1.1", b""),
        closing(b"GET /orders/1 HTTP/1.1", b"Content-Type: application/grpc\r\n"),
    ]
}

fn answered_with_an_error() -> Vec<Vec<u8>> {
    let too_many: String = (0..150).map(|n| format!("X-Many-{n}: {n}\r\n")).collect();
    let too_long = "a".repeat(100 * 1024);
    vec![
        closing(b"BREW /orders/1 HTTP/1.1", b""),
        closing(b"GET /orders/1 HTTP/1.1", too_many.as_bytes()),
        closing(b"GET /orders/1 HTTP/1.1", format!("X-Long: {too_long}\r\n").as_bytes()),
        b"GET /orders/1 HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /orders/1 HTTP/1.0\r\n\r\n".to_vec(),
        closing(b"GET /orders/1 HTTP/1.1", b"no colon in this line\r\n"),
        closing(b"GET /orders/1 HTTP/1.1", b"X-Bytes: a\0b\r\n"),
        closing(b"POST /orders HTTP/1.1", b"Content-Length: -1\r\n"),
        closing(b"POST /orders HTTP/1.1", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        [closing(b"POST /orders HTTP/1.1", b"Transfer-Encoding: chunked\r\n"), b"ZZ\r\nnot a chunk".to_vec()]
            .concat(),
    ]
}

fn left_by_the_client() -> Vec<Vec<u8>> {
    vec![
        closing(b"GET /orders/1?delay_ms=2000 HTTP/1.1", b""),
        [closing(b"POST /orders HTTP/1.1", b"Content-Length: 1000\r\n"), b"part of it".to_vec()].concat(),
        b"GET /orders/1 HTTP/1.1\r\nHost: sh".to_vec(),
    ]
}

fn no_http_at_all() -> Vec<Vec<u8>> {
    vec![
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20),
        b"GET\r\n\r\n".to_vec(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 300]].concat(),
    ]
}

/// A method that no one knows, and a stream that is reset while its answer is awaited.
async fn over_http2(proxy: &Proxy) -> u64 {
    let mut client = load::http2(proxy.address()).await.unwrap();
    let request = |method: &[u8], path: &str| {
        let mut request = load::get(&format!("http://shop.example{path}")).unwrap();
        *request.method_mut() = Method::from_bytes(method).unwrap();
        request
    };
    let answer = client.send_request(request(b"BREW", "/orders/brewed")).await.unwrap();
    assert_eq!(answer.status(), 200);
    client.ready().await.unwrap();
    let slow = client.send_request(request(b"GET", "/orders/1?delay_ms=2000"));
    let quick = client.send_request(request(b"GET", "/orders/1"));
    tokio::select! {
        _ = slow => panic!("the slow request is answered first"),
        answer = quick => assert_eq!(answer.unwrap().status(), 200),
    }
    // The slow one was dropped, which resets its stream.
    3
}

fn check_records(records: &[xtask::harness::collector::LogRecord]) {
    let brewed: Vec<_> = records
        .iter()
        .filter(|record| record.attributes.get("url.path") == Some(&json!("/orders/brewed")))
        .collect();
    assert_eq!(brewed.len(), ROUNDS);
    for record in brewed {
        assert_eq!(record.attributes["http.request.method"], "_OTHER");
        assert_eq!(record.attributes["network.protocol.version"], "2");
    }
    assert!(records.iter().any(|record| record.attributes.contains_key("offpath.truncated")));
    let all =
        serde_json::to_string(&records.iter().map(|record| &record.attributes).collect::<Vec<_>>()).unwrap();
    assert!(!all.contains("hunter2"), "a secret is in the database");
}
