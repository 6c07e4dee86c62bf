//! A fleet that migrates: what Envoy's own OTLP logger records, in the formats that Envoy Gateway, Istio and Envoy itself
//! have by default, is found in `/api/logs` as the plugin's records are.

use std::net::SocketAddr;

use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode},
    collector::Collector,
    load, wait,
};

use crate::proxy::{ENVOY_1_40, Proxy, bootstrap, collector, folder, tracing_bootstrap};

/// Envoy Gateway's default fields (1.9, `EnvoyJSONLogFields`), which its OpenTelemetry sink sends as attributes.
const ENVOY_GATEWAY: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("x-envoy-origin-path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("x-envoy-upstream-service-time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x-forwarded-for", "%REQ(X-FORWARDED-FOR)%"),
    ("user-agent", "%REQ(USER-AGENT)%"),
    ("x-request-id", "%REQ(X-REQUEST-ID)%"),
    (":authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

/// Istio's fields where its format is JSON (1.30, `EnvoyJSONLogFormatIstio`); as labels of its OpenTelemetry provider they
/// are attributes.
const ISTIO_FIELDS: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// Envoy's default format.
const ENVOY: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                     %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
                     \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
                     \"%UPSTREAM_HOST%\"\n";

/// Istio's default format, which its OpenTelemetry provider sends as the body.
const ISTIO: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                     %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
                     \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
                     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
                     \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
                     %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
                     %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// How many loggers record each request: the plugin and four of Envoy's.
const LOGGERS: usize = 5;

fn quick() -> [(&'static str, Value); 1] {
    [("batch.max_delay", json!("100ms"))]
}

fn native_logger(collector: SocketAddr, more: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        "http_service": {"http_uri": {
            "uri": format!("http://{collector}/v1/logs"),
            "cluster": "offpath_collector",
            "timeout": "5s",
        }},
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "envoy.access_loggers.open_telemetry", "typed_config": config})
}

/// `bootstrap`, and beside the plugin in its access log Envoy's own logger as others configure it.
async fn start(mut bootstrap: Bootstrap, collector: SocketAddr) -> Proxy {
    let attributes = |fields: [(&str, &str); 24]| json!({"values": fields.map(|(key, value)| json!({"key": key, "value": {"string_value": value}}))});
    let loggers = [
        json!({"attributes": attributes(ENVOY_GATEWAY)}),
        json!({"body": {"string_value": ENVOY}}),
        json!({"body": {"string_value": ISTIO}, "disable_builtin_labels": true}),
        json!({"attributes": attributes(ISTIO_FIELDS), "disable_builtin_labels": true}),
    ];
    let access_log = bootstrap.at(&format!("{HTTP_CONNECTION_MANAGER}/access_log")).unwrap();
    access_log.as_array_mut().unwrap().extend(loggers.map(|more| native_logger(collector, more)));
    Proxy::start(ENVOY_1_40, bootstrap, collector).await
}

async fn found(collector: &Collector, filter: &str) -> usize {
    collector.logs(filter).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_found_once_for_each_logger_that_recorded_it() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let bootstrap = bootstrap(ENVOY_1_40, Mode::AccessLogger, &quick()).await;
    let proxy = start(bootstrap, collector.otlp()).await;
    let targets = [
        "/orders/7?n=1",
        "/orders/8?n=2&status=503",
        "/orders/8?n=3&delay_ms=300",
        "/reports/1?n=4&status=404",
    ];
    load::keep_alive(proxy.address(), 1, 4, move |n| {
        let mut request = load::get(targets[usize::try_from(n)?])?;
        // Would end a field of Envoy's lines, were it not behind all that is read of them.
        request.headers_mut().insert("user-agent", "a \"b\" 200 - 1 2 3".parse()?);
        Ok(request)
    })
    .await
    .unwrap();
    let all = targets.len() * LOGGERS;
    wait::until_equal("the records", &all, async || Ok(found(&collector, "").await)).await.unwrap();

    for (filter, requests) in [
        ("status=503", 1),
        ("status=2xx", 2),
        ("path=/orders/8", 2),
        ("status=503&path=/orders/8", 1),
        ("status=404&path=/orders/8", 0),
        ("min_duration_ms=300", 1),
    ] {
        assert_eq!(found(&collector, filter).await, requests * LOGGERS, "{filter}");
    }
    // Envoy's default line names no route.
    for (filter, requests) in [("route=orders", 3), ("route=reports&status=404", 1)] {
        assert_eq!(found(&collector, filter).await, requests * (LOGGERS - 1), "{filter}");
    }
    // Istio's records name no service, unless it is told to.
    assert_eq!(found(&collector, "service=edge").await, targets.len() * (LOGGERS - 2));

    let records = collector.logs("status=503").await.unwrap();
    let gateway =
        records.iter().find(|record| record.attributes.contains_key("x-envoy-origin-path")).unwrap();
    assert_eq!(gateway.attributes.len(), ENVOY_GATEWAY.len(), "as they came: {gateway:?}");
    assert_eq!(gateway.attributes["x-envoy-origin-path"], "/orders/8?n=2&status=503");
    assert_eq!(gateway.attributes["response_code"], "503");
    assert_eq!(gateway.attributes["requested_server_name"], "-");
    assert_eq!(gateway.body, Value::Null);
    assert_eq!(records.iter().filter(|record| record.body.to_string().starts_with("\"[")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_finds_the_records_of_all_loggers() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let bootstrap = tracing_bootstrap(ENVOY_1_40, Mode::AccessLogger, &quick()).await;
    let proxy = start(bootstrap, collector.otlp()).await;
    load::keep_alive(proxy.address(), 1, 2, |n| load::get(&format!("/orders/{n}"))).await.unwrap();
    wait::until_equal("the records", &(2 * LOGGERS), async || Ok(found(&collector, "").await)).await.unwrap();
    let records = collector.logs("").await.unwrap();
    let of_plugin =
        records.iter().find(|record| record.attributes.contains_key("offpath.sample.weight")).unwrap();
    let trace_id = of_plugin.trace_id.as_deref().unwrap();
    let of_trace = collector.logs(&format!("trace_id={trace_id}")).await.unwrap();
    assert_eq!(of_trace.len(), LOGGERS);
    assert!(of_trace.iter().all(|record| record.span_id == of_plugin.span_id), "{of_trace:?}");
}
