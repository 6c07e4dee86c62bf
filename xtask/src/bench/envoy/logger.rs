//! What logs in an Envoy that is measured: nothing, one of Envoy's own loggers, or a module. All that record anything record
//! the same of each request, what offpath's record holds; but the entries of the gRPC access log service are Envoy's own.

use anyhow::Context as _;
use offpath_filter::{capture::Plan, config::Config};
use serde_json::{Value, json};

use crate::{
    bench::traffic,
    harness::{
        bootstrap::{Bootstrap, COLLECTOR_PROTOCOL, HTTP_CONNECTION_MANAGER, Mode},
        upstream::Upstream,
    },
    project::Project,
};

/// Who logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logger {
    /// Nobody.
    Nobody,
    /// Envoy's file access logger, JSON, to `/dev/null`.
    File,
    /// Envoy's OTLP access logger, over gRPC, with a buffer of so many bytes instead of its default's.
    OtlpGrpc(Option<u32>),
    /// Envoy's OTLP access logger, over HTTP.
    OtlpHttp,
    /// Envoy's gRPC access log service.
    AccessLogService,
    /// A module that does nothing.
    Empty(Mode),
    /// A module that does what offpath does to capture each request, and drops it.
    Capture(Mode, Kept),
    /// offpath.
    Offpath(Mode, Kept),
    /// offpath with records of all requests, whose calls the shipped cluster compresses.
    Compressed(Mode),
}

impl Logger {
    /// How much is kept, where it is offpath that logs.
    pub(super) fn kept(self) -> Option<Kept> {
        match self {
            Self::Offpath(_, kept) => Some(kept),
            Self::Compressed(_) => Some(Kept::All),
            _ => None,
        }
    }
}

/// How much offpath keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Histograms of all requests, no records.
    Metrics,
    /// Histograms, and records of 5 % and of all failed or slow requests.
    FivePercent,
    /// Histograms, and records of all requests.
    All,
}

impl Kept {
    pub(super) const ALL: [Self; 3] = [Self::Metrics, Self::FivePercent, Self::All];

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Metrics => "no logs",
            Self::FivePercent => "5 % of logs",
            Self::All => "all logs",
        }
    }

    fn keys(self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Metrics => vec![("logs.enabled", json!(false))],
            Self::FivePercent => vec![
                ("logs.sample_ratio", json!(0.05)),
                // The load has one trace, of which either all would be kept or nothing.
                ("logs.sample_by", json!("request")),
                ("logs.keep_errors", json!(true)),
                ("logs.keep_slower_than", json!("1s")),
            ],
            Self::All => Vec::new(),
        }
    }
}

/// Headers that all loggers record when there is no upstream to record things of.
const RECORDED_HEADERS: [&str; 3] = ["referer", "accept-language", "content-type"];

/// Where requests are answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answers<'a> {
    /// By Envoy.
    Directly,
    /// By an application behind it.
    Upstream(&'a Upstream),
}

/// The same for all loggers: names as in offpath's records, values in Envoy's command language.
fn attributes(answers: Answers<'_>) -> Vec<(String, &'static str)> {
    let mut attributes: Vec<(String, &'static str)> = [
        ("http.request.method", "%REQ(:METHOD)%"),
        ("http.response.status_code", "%RESPONSE_CODE%"),
        ("http.server.request.duration", "%DURATION%"),
        ("url.scheme", "%REQ(:SCHEME)%"),
        ("url.path", "%PATH(NQ)%"),
        ("url.query", "%QUERY_PARAMS(ORIG)%"),
        ("network.protocol.version", "%PROTOCOL%"),
        ("http.request.size", "%BYTES_RECEIVED%"),
        ("http.response.size", "%BYTES_SENT%"),
        ("envoy.response.flags", "%RESPONSE_FLAGS%"),
        ("envoy.response.code_details", "%RESPONSE_CODE_DETAILS%"),
        ("envoy.route.name", "%ROUTE_NAME%"),
        ("envoy.request.id", "%REQ(X-REQUEST-ID)%"),
        ("client.address", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ("server.address", "%REQ(:AUTHORITY)%"),
        ("user_agent.original", "%REQ(USER-AGENT)%"),
        ("traceparent", "%REQ(TRACEPARENT)%"),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    match answers {
        Answers::Directly => {
            let values = ["%REQ(REFERER)%", "%REQ(ACCEPT-LANGUAGE)%", "%REQ(CONTENT-TYPE)%"];
            let names = RECORDED_HEADERS.map(|name| format!("http.request.header.{name}"));
            attributes.extend(names.into_iter().zip(values));
        }
        Answers::Upstream(_) => attributes.extend(
            [
                ("envoy.upstream.cluster", "%UPSTREAM_CLUSTER%"),
                ("envoy.upstream.address", "%UPSTREAM_HOST%"),
                ("envoy.upstream.duration", "%RESPONSE_DURATION%"),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        ),
    }
    attributes
}

const BODY: &str = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %DURATION%ms";

/// The shipped configuration with `logger` in it, whose receiver is at `sink`; calls go uncompressed, but for [`Logger::Compressed`].
///
/// # Errors
/// When the shipped files are not as expected, or the plugin would not take its configuration.
pub(super) fn bootstrap(
    project: &Project,
    logger: Logger,
    answers: Answers<'_>,
    sink: std::net::SocketAddr,
) -> anyhow::Result<Bootstrap> {
    let mode = match logger {
        Logger::Empty(mode)
        | Logger::Capture(mode, _)
        | Logger::Offpath(mode, _)
        | Logger::Compressed(mode) => mode,
        _ => Mode::AccessLogger,
    };
    let mut shipped = Bootstrap::shipped(project, mode)?.without_tracing()?;
    if !matches!(logger, Logger::Compressed(_)) {
        shipped = shipped.without_compression()?;
    }
    match answers {
        Answers::Upstream(upstream) => shipped = shipped.with_servers(upstream.address(), sink)?,
        Answers::Directly => {
            shipped = shipped.with_servers(sink, sink)?;
            let routes = format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes");
            *shipped.at(&routes)? = traffic::direct_responses();
        }
    }
    match logger {
        Logger::Nobody => with_access_log(shipped, json!([])),
        Logger::File => with_access_log(shipped, json!([file(answers)])),
        Logger::OtlpGrpc(buffer_bytes) => {
            let service = buffer_bytes.map_or_else(grpc_service, buffered_grpc_service);
            with_access_log(over_http2(shipped)?, json!([otlp(answers, service)]))
        }
        Logger::OtlpHttp => with_access_log(shipped, json!([otlp(answers, http_service(sink))])),
        Logger::AccessLogService => {
            with_access_log(over_http2(shipped)?, json!([access_log_service(answers)]))
        }
        Logger::Empty(_) => with_probe(shipped, project, ""),
        Logger::Capture(Mode::DynamicModule, kept) => {
            configured(shipped, kept, answers)?.with_module(&project.capturing_dynamic_module())
        }
        Logger::Capture(_, kept) => {
            let mut configured = configured(shipped.clone(), kept, answers)?;
            let script = capture(&read_configuration(&mut configured)?, kept);
            with_probe(shipped, project, &script)
        }
        Logger::Offpath(_, kept) => offpath(shipped, kept, answers),
        Logger::Compressed(_) => offpath(shipped, Kept::All, answers),
    }
}

fn offpath(shipped: Bootstrap, kept: Kept, answers: Answers<'_>) -> anyhow::Result<Bootstrap> {
    let mut configured = configured(shipped, kept, answers)?;
    read_configuration(&mut configured)?;
    Ok(configured)
}

fn configured(shipped: Bootstrap, kept: Kept, answers: Answers<'_>) -> anyhow::Result<Bootstrap> {
    let mut keys = kept.keys();
    if matches!(answers, Answers::Directly) && kept != Kept::Metrics {
        keys.push(("logs.request_headers", json!(RECORDED_HEADERS)));
    }
    shipped.with_plugin_keys(&keys)
}

fn read_configuration(bootstrap: &mut Bootstrap) -> anyhow::Result<Config> {
    let text = bootstrap.plugin_configuration("/value")?;
    let text = text.as_str().context("the plugin's configuration is not a string")?;
    Config::parse(text.as_bytes()).map_err(|error| anyhow::anyhow!("offpath does not take it: {error}"))
}

/// What the plugin calls the host for with each request that is no gRPC call, as a probe's script. Of the few that are kept
/// where most are not, it asks for more.
fn capture(config: &Config, kept: Kept) -> String {
    let plan = Plan::new(config);
    let stage = plan.first();
    let headers = if stage.headers().is_empty() { "" } else { "headers\n" };
    let others = if stage.expression().is_empty() {
        let paths = stage.property_paths().iter().skip(stage.headers().len()).take(stage.list_slots());
        paths.map(|path| format!("ask {}\n", String::from_utf8_lossy(path).replace('\0', "."))).collect()
    } else {
        format!("cel {}\n", stage.expression())
    };
    let counters = match kept {
        Kept::Metrics => 0,
        // Captured and sampled out.
        Kept::FivePercent => 2,
        // Captured, pending, and the machine's own share of that.
        Kept::All => 3,
    };
    format!("{headers}{others}time\n{}", "counter\n".repeat(counters))
}

fn with_probe(mut bootstrap: Bootstrap, project: &Project, script: &str) -> anyhow::Result<Bootstrap> {
    *bootstrap.plugin_configuration("/value")? = json!(script);
    bootstrap.with_module(&project.lean_sdk_probe())
}

fn with_access_log(mut bootstrap: Bootstrap, access_log: Value) -> anyhow::Result<Bootstrap> {
    *bootstrap.at(&format!("{HTTP_CONNECTION_MANAGER}/access_log"))? = access_log;
    Ok(bootstrap)
}

fn over_http2(mut bootstrap: Bootstrap) -> anyhow::Result<Bootstrap> {
    *bootstrap.at(&format!("{COLLECTOR_PROTOCOL}/explicit_http_config"))? =
        json!({"http2_protocol_options": {}});
    Ok(bootstrap)
}

fn grpc_service() -> (&'static str, Value) {
    ("grpc_service", json!({"envoy_grpc": {"cluster_name": "offpath_collector"}, "timeout": "5s"}))
}

/// By the older key: beside `grpc_service`, Envoy 1.40 takes no notice of `buffer_size_bytes`.
fn buffered_grpc_service(bytes: u32) -> (&'static str, Value) {
    let (service, to) = grpc_service();
    let config =
        json!({"log_name": "edge", "transport_api_version": "V3", service: to, "buffer_size_bytes": bytes});
    ("common_config", config)
}

fn http_service(sink: std::net::SocketAddr) -> (&'static str, Value) {
    let uri =
        json!({"uri": format!("http://{sink}/v1/logs"), "cluster": "offpath_collector", "timeout": "5s"});
    ("http_service", json!({"http_uri": uri}))
}

fn typed(name: &str, type_name: &str, mut config: Value) -> Value {
    if let Some(config) = config.as_object_mut() {
        let url = format!("type.googleapis.com/envoy.extensions.access_loggers.{type_name}");
        config.insert("@type".to_owned(), json!(url));
    }
    json!({"name": name, "typed_config": config})
}

fn file(answers: Answers<'_>) -> Value {
    let mut format: serde_json::Map<String, Value> =
        attributes(answers).into_iter().map(|(name, value)| (name, json!(value))).collect();
    format.insert("start_time".to_owned(), json!("%START_TIME%"));
    format.insert("body".to_owned(), json!(BODY));
    let config = json!({"path": "/dev/null", "log_format": {"json_format": format}});
    typed("envoy.access_loggers.file", "file.v3.FileAccessLog", config)
}

fn otlp(answers: Answers<'_>, (service, to): (&str, Value)) -> Value {
    let pair = |(name, value): (String, &str)| json!({"key": name, "value": {"string_value": value}});
    let mut config = json!({
        "body": {"string_value": BODY},
        "attributes": {"values": attributes(answers).into_iter().map(pair).collect::<Vec<_>>()},
        "resource_attributes": {"values": [pair(("service.name".to_owned(), "edge"))]},
    });
    if let Some(config) = config.as_object_mut() {
        config.insert(service.to_owned(), to);
    }
    typed("envoy.access_loggers.open_telemetry", "open_telemetry.v3.OpenTelemetryAccessLogConfig", config)
}

fn access_log_service(answers: Answers<'_>) -> Value {
    let mut headers = vec!["traceparent"];
    if matches!(answers, Answers::Directly) {
        headers.extend(RECORDED_HEADERS);
    }
    let (service, to) = grpc_service();
    let config = json!({
        "common_config": {"log_name": "edge", "transport_api_version": "V3", service: to},
        "additional_request_headers_to_log": headers,
    });
    typed("envoy.access_loggers.http_grpc", "grpc.v3.HttpGrpcAccessLogConfig", config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_attributes_are_recorded() {
        assert_eq!(attributes(Answers::Directly).len(), 20);
    }

    #[test]
    fn capture_asks_what_the_plugin_asks() {
        let config = Config::parse(br#"{"collector":{"cluster":"c"}}"#).unwrap();
        let script = capture(&config, Kept::All);
        assert!(script.starts_with("headers\ncel has(response.backend_latency)?["), "{script}");
        assert!(script.contains("request.duration"), "{script}");
        let config = Config::parse(br#"{"collector":{"cluster":"c"},"logs":{"enabled":false}}"#).unwrap();
        let script = capture(&config, Kept::Metrics);
        assert!(script.starts_with("headers\nask request.duration\n"), "{script}");
        assert!(!script.contains("cel"), "{script}");
    }
}
