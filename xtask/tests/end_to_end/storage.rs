//! What is in the database afterwards: without secrets, twice when the plugin is loaded twice, and also what Envoy's own
//! OTLP logger sends.

use hyper::header;
use serde_json::json;
use xtask::harness::{
    bootstrap::{HTTP_CONNECTION_MANAGER, Mode},
    collector::Collector,
    load, wait,
};

use crate::proxy::{ENVOY_1_40, EVERYWHERE, Proxy, bootstrap, collector, folder, stored_numbers};

async fn stored(collector: &Collector, records: u64) {
    wait::until_equal("the records stored", &records, async || Ok(collector.accounting().await?.stored))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_never_reach_the_database() {
    for (release, mode) in EVERYWHERE {
        let folder = folder().await;
        let collector = collector(&folder).await;
        let listed = json!(["authorization", "cookie", "x-tenant"]);
        let keys =
            [("logs.request_headers", listed), ("logs.response_headers", json!(["set-cookie", "server"]))];
        let proxy = Proxy::start(release, bootstrap(release, mode, &keys).await, collector.otlp()).await;
        load::keep_alive(proxy.address(), 1, 5, |_| {
            let mut request =
                load::get("/orders/7?Access_Token=hunter2&password=hunter2&X-Amz-Signature=hunter2&size=3")?;
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, "Bearer hunter2".parse()?);
            headers.insert(header::COOKIE, "session=hunter2".parse()?);
            headers.insert("x-tenant", "acme".parse()?);
            headers.insert("x-api-key", "hunter2".parse()?);
            Ok(request)
        })
        .await
        .unwrap();
        stored(&collector, 5).await;

        for record in collector.logs("").await.unwrap() {
            let attributes = &record.attributes;
            assert_eq!(
                attributes["url.query"],
                "Access_Token=REDACTED&password=REDACTED&X-Amz-Signature=REDACTED&size=3"
            );
            assert_eq!(attributes["http.request.header.authorization"], json!(["REDACTED"]));
            assert_eq!(attributes["http.request.header.cookie"], json!(["REDACTED"]));
            assert_eq!(attributes["http.request.header.x-tenant"], json!(["acme"]));
            assert_eq!(attributes["http.response.header.server"], json!(["envoy"]));
        }
        let holds = |text: &[u8]| {
            let mut files = std::fs::read_dir(folder.path().join("data")).unwrap();
            files.any(|file| {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                bytes.windows(text.len()).any(|window| window == text)
            })
        };
        assert!(holds(b"acme"), "what is recorded can be found in the files");
        assert!(!holds(b"hunter2"), "a secret is in the database ({mode:?})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_both_modes_records_each_request_twice() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let mut both = bootstrap(ENVOY_1_40, Mode::AccessLogger, &[]).await;
    let mut filter = bootstrap(ENVOY_1_40, Mode::HttpFilter, &[]).await;
    let filters = filter.at(&format!("{HTTP_CONNECTION_MANAGER}/http_filters")).unwrap().clone();
    *both.at(&format!("{HTTP_CONNECTION_MANAGER}/http_filters")).unwrap() = filters;
    let proxy = Proxy::start(ENVOY_1_40, both, collector.otlp()).await;
    load::keep_alive(proxy.address(), 4, 50, |n| load::get(&format!("/orders/{n}?n={n}"))).await.unwrap();
    stored(&collector, 100).await;

    let numbers = stored_numbers(&collector).await;
    assert!(numbers.iter().copied().eq((0..50).flat_map(|n| [n, n])), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_envoys_own_otlp_logger_are_stored_too() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let bootstrap = bootstrap(ENVOY_1_40, Mode::AccessLogger, &[]).await;
    let bootstrap = bootstrap.with_native_logger(collector.otlp()).unwrap();
    let proxy = Proxy::start(ENVOY_1_40, bootstrap, collector.otlp()).await;
    load::keep_alive(proxy.address(), 4, 40, |n| load::get(&format!("/orders/{n}?n={n}"))).await.unwrap();
    stored(&collector, 40).await;

    let records = collector.logs("").await.unwrap();
    let mut paths: Vec<&str> =
        records.iter().map(|record| record.attributes["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), 40);
    for record in &records {
        assert_eq!(record.attributes["response_code"], "200");
        assert_eq!(record.body, json!("HTTP/1.1 200"));
        assert_eq!(record.resource["service.name"], "native");
    }
}
