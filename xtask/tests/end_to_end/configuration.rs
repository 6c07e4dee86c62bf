//! What a configuration does before there is any traffic.

use serde_json::{Value, json};
use xtask::harness::{bootstrap::Mode, load, receiver::Receiver, wait};

use crate::{
    otlp_decoder::{attributes, log_records},
    proxy::{ENVOY_1_40, EVERYWHERE, Proxy, bootstrap},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_configuration_keeps_envoy_from_starting_and_the_error_names_the_key() {
    let receiver = Receiver::start().await.unwrap();
    for (release, mode) in EVERYWHERE {
        let wrong = [
            ("batch.max_record", json!(512)),
            ("collector.headers", json!({"authorization": "Bearer hunter2"})),
        ];
        let bootstrap = bootstrap(release, mode, &wrong).await;
        let Err(refusal) = Proxy::try_start(release, bootstrap, receiver.address()).await else {
            panic!("Envoy {} starts with a key that does not exist ({mode:?})", release.version);
        };
        let refusal = format!("{refusal:#}");
        assert!(refusal.contains("batch.max_record"), "the key is not named: {refusal}");
        assert!(!refusal.contains("hunter2"), "a secret is printed: {refusal}");
        assert!(!refusal.contains("panicked"), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_envoy_makes_no_call_to_the_collector() {
    for mode in Mode::ALL {
        let receiver = Receiver::start().await.unwrap();
        let eager = [("metrics.interval", json!("1s")), ("batch.max_delay", json!("50ms"))];
        let proxy =
            Proxy::start(ENVOY_1_40, bootstrap(ENVOY_1_40, mode, &eager).await, receiver.address()).await;
        wait::until("three export intervals are over", async || {
            Ok((proxy.uptime_seconds().await? >= 4).then_some(()))
        })
        .await
        .unwrap();
        assert_eq!(receiver.connections(), 0, "{mode:?}: {:?}", receiver.calls());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_struct_configures_as_json_does() {
    for (release, mode) in EVERYWHERE {
        let receiver = Receiver::start().await.unwrap();
        let keys = [
            ("batch.max_records", json!(10)),
            ("batch.max_delay", json!("60s")),
            ("metrics.enabled", json!(false)),
            ("resource", json!({"service.name": "from a struct"})),
        ];
        let mut bootstrap = bootstrap(release, mode, &keys).await;
        let configuration = bootstrap.plugin_configuration("").unwrap();
        let tree: Value = serde_json::from_str(configuration["value"].as_str().unwrap()).unwrap();
        *configuration = json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": tree});
        let proxy = Proxy::start(release, bootstrap, receiver.address()).await;

        // One connection, so one worker: its batch is full, and sent, with the tenth request and not before.
        load::keep_alive(proxy.address(), 1, 10, |_| load::get("/orders/7")).await.unwrap();
        wait::until("a full batch is delivered", async || {
            Ok((proxy.accounting().await?.delivered == 10).then_some(()))
        })
        .await
        .unwrap();
        let records = log_records(&receiver.calls(), proxy.folder()).await;
        assert_eq!(records.len(), 10);
        assert_eq!(receiver.calls().len(), 1);
        let resource = attributes(&records[0]["resource"]);
        assert_eq!(resource["service.name"], json!({"stringValue": "from a struct"}));
    }
}
