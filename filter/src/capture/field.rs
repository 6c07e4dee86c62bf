//! The attributes of Envoy's that the plugin knows: their names in CEL and what they are for.
//! Source: Envoy's documentation, "Attributes".

/// Something that Envoy knows about a finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// When the request began: unix time in nanoseconds.
    StartTime,
    /// From the request's first byte to the end of the response, in nanoseconds.
    Duration,
    /// The request's method.
    Method,
    /// Path and query.
    Path,
    /// `http` or `https`.
    Scheme,
    /// The request's host or authority.
    Host,
    /// `HTTP/1.1` and the like.
    Protocol,
    /// The `user-agent` header.
    UserAgent,
    /// The `x-request-id` header.
    RequestId,
    /// The `traceparent` header as it stands when the request ends.
    Traceparent,
    /// The `tracestate` header, which may state the trace's randomness.
    Tracestate,
    /// The request's `content-type`, which tells gRPC.
    ContentType,
    /// Bytes of the request, headers included.
    RequestSize,
    /// The response's status; 0 or nothing when there was none.
    Status,
    /// Why the response has this status, in Envoy's words.
    CodeDetails,
    /// What went wrong, as Envoy's bit mask.
    Flags,
    /// The gRPC status; Envoy derives one from the HTTP status for requests that are not gRPC.
    GrpcStatus,
    /// Bytes of the response, headers and trailers included.
    ResponseSize,
    /// From the first byte sent upstream to the last one received, in nanoseconds.
    UpstreamDuration,
    /// The client's address and port.
    ClientAddress,
    /// The upstream host's address and port.
    UpstreamAddress,
    /// The upstream cluster.
    Cluster,
    /// The matched route's name.
    RouteName,
    /// The matched virtual host's name.
    VirtualHostName,
    /// Whether the listener takes requests in or out, as `envoy.config.core.v3.TrafficDirection`. Read for each request:
    /// listeners of both directions share a root context when their configurations are equal.
    ListenerDirection,
}

/// Attributes of Envoy's that are text where they are there, besides headers.
const TEXTS: [&str; 36] = [
    "connection.dns_san_local_certificate",
    "connection.dns_san_peer_certificate",
    "connection.requested_server_name",
    "connection.sha256_peer_certificate_digest",
    "connection.subject_local_certificate",
    "connection.subject_peer_certificate",
    "connection.termination_details",
    "connection.tls_version",
    "connection.transport_failure_reason",
    "connection.uri_san_local_certificate",
    "connection.uri_san_peer_certificate",
    "destination.address",
    "request.host",
    "request.id",
    "request.method",
    "request.path",
    "request.protocol",
    "request.query",
    "request.referer",
    "request.scheme",
    "request.url_path",
    "request.useragent",
    "response.code_details",
    "source.address",
    "upstream.address",
    "upstream.dns_san_peer_certificate",
    "upstream.local_address",
    "upstream.subject_peer_certificate",
    "upstream.sha256_peer_certificate_digest",
    "upstream.tls_version",
    "upstream.transport_failure_reason",
    "upstream.uri_san_peer_certificate",
    "xds.cluster_name",
    "xds.filter_chain_name",
    "xds.route_name",
    "xds.virtual_host_name",
];

/// Whether an attribute is known to be text.
pub(super) fn is_text(name: &str) -> bool {
    TEXTS.contains(&name)
}

/// What a field is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Log records only.
    Logs,
    /// Log records and histograms.
    Both,
    /// Only to decide whether there is a log record.
    Decision,
}

/// Whether a request has the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Unless it failed before there was a route or a response.
    Usual,
    /// Many requests lack it: a header that clients may leave out.
    Optional,
    /// Requests have it that went to an upstream; those that Envoy answers itself lack it.
    OfUpstream,
}

/// Every field: its attribute's name, what it is for, and whether requests have it. In the order of [`Field`].
pub(super) const FIELDS: [(Field, &str, Use, Presence); 25] = [
    (Field::StartTime, "request.time", Use::Logs, Presence::Usual),
    (Field::Duration, "request.duration", Use::Both, Presence::Usual),
    (Field::Method, "request.method", Use::Both, Presence::Usual),
    (Field::Path, "request.path", Use::Logs, Presence::Usual),
    (Field::Scheme, "request.scheme", Use::Both, Presence::Usual),
    (Field::Host, "request.host", Use::Logs, Presence::Usual),
    (Field::Protocol, "request.protocol", Use::Both, Presence::Usual),
    (Field::UserAgent, "request.useragent", Use::Logs, Presence::Optional),
    (Field::RequestId, "request.id", Use::Logs, Presence::Optional),
    (Field::Traceparent, "request.headers.traceparent", Use::Logs, Presence::Optional),
    (Field::Tracestate, "request.headers.tracestate", Use::Decision, Presence::Optional),
    (Field::ContentType, "request.headers.content-type", Use::Both, Presence::Optional),
    (Field::RequestSize, "request.total_size", Use::Logs, Presence::Usual),
    (Field::Status, "response.code", Use::Both, Presence::Usual),
    (Field::CodeDetails, "response.code_details", Use::Logs, Presence::Usual),
    (Field::Flags, "response.flags", Use::Both, Presence::Usual),
    (Field::GrpcStatus, "response.grpc_status", Use::Both, Presence::Usual),
    (Field::ResponseSize, "response.total_size", Use::Logs, Presence::Usual),
    (Field::UpstreamDuration, "response.backend_latency", Use::Both, Presence::OfUpstream),
    (Field::ClientAddress, "source.address", Use::Logs, Presence::Usual),
    (Field::UpstreamAddress, "upstream.address", Use::Logs, Presence::OfUpstream),
    (Field::Cluster, "xds.cluster_name", Use::Both, Presence::OfUpstream),
    (Field::RouteName, "xds.route_name", Use::Both, Presence::Usual),
    (Field::VirtualHostName, "xds.virtual_host_name", Use::Both, Presence::Usual),
    (Field::ListenerDirection, "xds.listener_direction", Use::Both, Presence::Usual),
];
