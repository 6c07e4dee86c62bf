//! The attributes that the plugin records, in the order in which the probes take more and more of them: first what
//! histograms need of each request, then what only a log record needs.
//!
//! The probes' requests are answered by Envoy itself, so that three of them are missing, and others that are as long stand
//! in for them: `request.url_path` for `xds.cluster_name`, `response.size` for `response.backend_latency`, and
//! `destination.address` for `upstream.address`.

/// As Envoy's documentation names them.
pub(super) const FIELDS: &[&str] = &[
    "request.time",
    "request.duration",
    "request.method",
    "request.scheme",
    "request.protocol",
    "request.headers.content-type",
    "response.code",
    "response.flags",
    "response.grpc_status",
    "request.url_path",
    "xds.listener_direction",
    "request.path",
    "request.host",
    "request.useragent",
    "request.id",
    "request.headers.traceparent",
    "request.total_size",
    "response.code_details",
    "response.total_size",
    "response.size",
    "source.address",
    "destination.address",
    "xds.route_name",
    "xds.virtual_host_name",
];

/// What histograms need and headers do not tell, without what can be had otherwise: the start is the end less the duration,
/// only gRPC has a gRPC status, a listener keeps its direction.
pub(super) const LEAN_METRICS: &[&str] =
    &["request.duration", "request.protocol", "response.code", "response.flags", "request.url_path"];

/// What records need, likewise.
pub(super) const LEAN_RECORD: &[&str] = &[
    "request.duration",
    "request.protocol",
    "response.code",
    "response.flags",
    "request.url_path",
    "request.total_size",
    "response.code_details",
    "response.total_size",
    "response.size",
    "source.address",
    "destination.address",
    "xds.route_name",
];

/// Whether the request's headers tell it as well.
#[must_use]
pub(super) fn is_in_headers(name: &str) -> bool {
    name.starts_with("request.headers.")
        || [
            "request.method",
            "request.scheme",
            "request.path",
            "request.host",
            "request.useragent",
            "request.id",
        ]
        .contains(&name)
}

/// A CEL list of terms.
#[must_use]
pub(super) fn list(names: &[&str], term: fn(&str) -> String) -> String {
    format!("[{}]", names.iter().map(|name| term(name)).collect::<Vec<_>>().join(","))
}

/// The attribute; if it is missing, the whole expression fails.
#[must_use]
pub(super) fn plain(name: &str) -> String {
    match name.strip_prefix("request.headers.") {
        Some(header) => format!("request.headers[\"{header}\"]"),
        None => name.to_owned(),
    }
}

/// The attribute, or an empty string.
#[must_use]
pub(super) fn guarded(name: &str) -> String {
    match name.strip_prefix("request.headers.") {
        Some(header) => format!("\"{header}\" in request.headers?request.headers[\"{header}\"]:\"\""),
        None => format!("has({name})?{name}:\"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_each_term_once() {
        assert_eq!(
            list(&["request.method", "request.headers.traceparent"], plain),
            r#"[request.method,request.headers["traceparent"]]"#
        );
        assert_eq!(list(&["response.code"], guarded), r#"[has(response.code)?response.code:""]"#);
    }

    #[test]
    fn there_are_as_many_fields_as_the_plugin_captures() {
        assert_eq!(FIELDS.len(), 24);
        assert_eq!(FIELDS.iter().filter(|name| is_in_headers(name)).count(), 8);
    }
}
