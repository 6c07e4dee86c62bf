//! Secrets that a client sends through real Envoy are in none of the plugin's exports, nor in Envoy's log.

use futures_util::{StreamExt as _, stream};
use offpath_host_test::secrets::{self, Planted};
use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::Mode,
    load,
    receiver::{Behaviour, Receiver},
    wait,
};

use crate::{
    otlp_decoder::{attributes, log_records, metrics},
    proxy::{ENVOY_1_40, Proxy, bootstrap},
};

/// The plugin's keys, flat; with the queue so that what is not taken is spilled at once.
fn keys(when_full: &str) -> Vec<(String, Value)> {
    let mut keys = vec![
        ("queue.when_full".to_owned(), json!(when_full)),
        ("batch.max_records".to_owned(), json!(64)),
        ("batch.max_bytes".to_owned(), json!(65_536)),
        ("queue.max_bytes".to_owned(), json!(131_072)),
        ("logs.max_record_bytes".to_owned(), json!(8192)),
        ("batch.max_delay".to_owned(), json!("100ms")),
    ];
    for (section, values) in secrets::config().as_object().unwrap() {
        match values.as_object() {
            Some(values) => {
                keys.extend(values.iter().map(|(key, value)| (format!("{section}.{key}"), value.clone())))
            }
            None => keys.push((section.clone(), values.clone())),
        }
    }
    keys
}

/// What a client can send of it; the application's headers are planted in the proxy that is not real.
fn from_the_client() -> Vec<Planted> {
    secrets::planted().into_iter().filter(|planted| planted.response_headers.is_empty()).collect()
}

/// Sends each once; how many were answered, whatever with.
async fn send_all(proxy: &Proxy, planted: &[Planted]) -> u64 {
    let answers = stream::iter(planted).map(async |planted| {
        let has_host = planted.headers.iter().any(|(name, _)| *name == "host");
        let host = if has_host { "" } else { "host: shop.example\r\n" };
        let headers: String =
            planted.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("GET {} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n", planted.target);
        let answer = load::raw(proxy.address(), head.as_bytes()).await.unwrap();
        u64::from(answer.starts_with(b"HTTP/1.1 200"))
    });
    answers.buffer_unordered(16).fold(0, async |sum, answered| sum + answered).await
}

async fn started(mode: Mode, when_full: &str, receiver: &Receiver) -> Proxy {
    let keys = keys(when_full);
    let keys: Vec<(&str, Value)> = keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    Proxy::start(ENVOY_1_40, bootstrap(ENVOY_1_40, mode, &keys).await, receiver.address()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_that_a_client_sends_is_exported_or_logged() {
    no_secret_is_exported_or_logged(Mode::AccessLogger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_that_a_client_sends_is_exported_or_logged_by_a_filter() {
    no_secret_is_exported_or_logged(Mode::HttpFilter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_that_a_client_sends_is_exported_or_logged_by_a_dynamic_module() {
    no_secret_is_exported_or_logged(Mode::DynamicModule).await;
}

async fn no_secret_is_exported_or_logged(mode: Mode) {
    let planted = from_the_client();
    let receiver = Receiver::start().await.unwrap();
    let proxy = started(mode, "drop_oldest", &receiver).await;
    let answered = send_all(&proxy, &planted).await;
    println!("{} secrets sent, {answered} of them in requests that were answered 200", planted.len());
    assert!(answered as usize > planted.len() * 9 / 10, "{answered} of {}", planted.len());
    // A filter never hears of requests that fail in the codec.
    let all = match mode {
        Mode::AccessLogger | Mode::DynamicModule => planted.len() as u64,
        Mode::HttpFilter => answered,
    };
    wait::until("all records are delivered", async || {
        let accounting = proxy.accounting().await?;
        Ok((accounting.delivered >= all && accounting.pending == 0).then_some(()))
    })
    .await
    .unwrap();

    let calls = receiver.calls();
    let records = log_records(&calls, proxy.folder()).await;
    assert!((all..=planted.len() as u64).contains(&(records.len() as u64)), "{} of {all}", records.len());
    for record in &records {
        assert_eq!(secrets::found(record.to_string().as_bytes()), None);
    }
    for call in &calls {
        assert_eq!(secrets::found(format!("{:?}", call.headers).as_bytes()), None);
    }
    for metric in metrics(&calls, proxy.folder()).await {
        assert_eq!(secrets::found(metric.to_string().as_bytes()), None);
    }
    let redacted = records.iter().filter(|record| record.to_string().contains("REDACTED")).count();
    assert!(redacted * 10 > records.len() * 8, "{redacted} of {}", records.len());
    assert!(
        records
            .iter()
            .any(|record| attributes(&record["record"])["url.path"]
                == json!({"stringValue": "/reset/REDACTED"}))
    );
    assert_eq!(secrets::found(proxy.log().unwrap().as_bytes()), None, "in Envoy's log");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_that_a_client_sends_is_spilled() {
    let planted = from_the_client();
    let receiver = Receiver::start().await.unwrap();
    receiver.behave(Behaviour::Hang);
    let proxy = started(Mode::AccessLogger, "spill", &receiver).await;
    send_all(&proxy, &planted).await;
    let spilled = wait::until("records are spilled", async || {
        let spilled = proxy.accounting().await?.dropped.get("spilled").copied().unwrap_or(0);
        Ok((spilled > 100).then_some(spilled))
    })
    .await
    .unwrap();
    let log = proxy.log().unwrap();
    assert!(
        log.matches("\"event_name\":\"http.server.request\"").count() as u64 >= spilled,
        "{spilled} lines"
    );
    assert!(log.contains("/reset/REDACTED"));
    assert_eq!(secrets::found(log.as_bytes()), None, "in a spilled line");
}
