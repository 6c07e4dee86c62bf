//! Envoy's attributes of a request: the tree that `proxy_get_property` walks and that CEL expressions are evaluated on.
//!
//! In comes what is in scope of a context, out goes a value or a status. Which attributes exist, when they are absent
//! and how a value is encoded follow Envoy's `filters/common/expr/context.cc` and `wasm/context.cc`.

use std::collections::BTreeMap;
use std::time::Duration;

use wasmtime::{Error, format_err};

use crate::abi::{Status, encode_pairs};
use crate::stream_info::{Headers, StreamInfo, Upstream};
use crate::world::Node;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    Bytes(Vec<u8>),
    Int(i64),
    Uint(u64),
    Bool(bool),
    /// In ns.
    Duration(i64),
    /// In ns since 1970.
    Timestamp(i64),
    /// A header map: looked up by name, encoded as pairs.
    Headers(Headers),
    /// Attributes by name: can be entered, but not returned as a whole.
    Object(Object),
}

/// The attributes of one group that are present.
pub(crate) type Object = BTreeMap<&'static str, Attribute>;

/// What Envoy has below these groups and this host does not emulate.
const NOT_EMULATED: [(&str, &str); 9] = [
    ("xds", "cluster_metadata"),
    ("xds", "route_metadata"),
    ("xds", "virtual_host_metadata"),
    ("xds", "upstream_host_metadata"),
    ("xds", "upstream_host_locality_metadata"),
    ("xds", "listener_metadata"),
    ("upstream", "locality"),
    ("upstream", "num_endpoints"),
    ("connection", "dns_san_local_certificate"),
];

/// Groups that Envoy has and this host does not emulate at all.
const NOT_EMULATED_GROUPS: [&str; 3] = ["metadata", "filter_state", "upstream_filter_state"];

/// Whether a read of `group.name` (or of `group` alone) is one that this host must refuse rather than answer.
pub(crate) fn check_emulated(group: &str, name: Option<&str>) -> Result<(), Error> {
    let refused = NOT_EMULATED_GROUPS.contains(&group)
        || name.is_some_and(|name| NOT_EMULATED.contains(&(group, name)));
    if refused {
        return Err(format_err!(
            "the attribute `{}` is not emulated",
            [group, name.unwrap_or("…")].join(".")
        ));
    }
    Ok(())
}

/// What a context can read at the moment.
pub(crate) struct Scope<'a> {
    /// Absent outside of a stream.
    pub(crate) stream: Option<&'a StreamInfo>,
    pub(crate) request_headers: Option<&'a Headers>,
    pub(crate) response_headers: Option<&'a Headers>,
    pub(crate) response_trailers: Option<&'a Headers>,
    pub(crate) node: &'a Node,
    pub(crate) root_id: &'a str,
    pub(crate) vm_id: &'a str,
    /// Whether the context is a stream's own, which knows its connection; a logger's root context does not.
    pub(crate) is_stream: bool,
}

/// The groups of attributes that exist only within a stream.
pub(crate) const STREAM_GROUPS: [&str; 6] =
    ["request", "response", "connection", "upstream", "source", "destination"];

impl Scope<'_> {
    /// The attributes at the top level: groups, and what Envoy adds for plugins.
    pub(crate) fn find(&self, name: &str) -> Option<Attribute> {
        match name {
            "xds" => return Some(Attribute::Object(xds(self))),
            "plugin_root_id" => return Some(string(self.root_id)),
            "plugin_name" => return Some(string("offpath")),
            "plugin_vm_id" => return Some(string(self.vm_id)),
            _ => {}
        }
        let stream = self.stream?;
        let object = match name {
            "request" => request(self, stream),
            "response" => response(self, stream),
            "connection" => connection(stream),
            "upstream" => upstream(stream),
            "source" => peer(&stream.source_address, stream.source_port),
            "destination" => peer(&stream.destination_address, stream.destination_port),
            "connection_id" => return stream.connection_id.filter(|_| self.is_stream).map(Attribute::Uint),
            _ => return None,
        };
        Some(Attribute::Object(object))
    }
}

/// A failure to read a property: a status for the guest, or what is not emulated.
#[derive(Debug)]
pub(crate) enum PropertyError {
    Status(Status),
    NotEmulated(Error),
}

/// `proxy_get_property`: walks the NUL-separated `path` and encodes what is there.
pub(crate) fn property(scope: &Scope<'_>, path: &[u8]) -> Result<Vec<u8>, PropertyError> {
    const NOT_FOUND: PropertyError = PropertyError::Status(Status::NotFound);
    if path.is_empty() {
        return Err(PropertyError::Status(Status::SerializationFailure));
    }
    let mut parts =
        path.split(|byte| *byte == 0).map(|part| std::str::from_utf8(part).map_err(|_| NOT_FOUND));
    let top = parts.next().ok_or(NOT_FOUND)??;
    let rest = parts.collect::<Result<Vec<_>, _>>()?;
    check_emulated(top, rest.first().copied()).map_err(PropertyError::NotEmulated)?;
    let mut value = scope.find(top).ok_or(NOT_FOUND)?;
    for part in rest {
        value = match value {
            Attribute::Object(mut object) => object.remove(part).ok_or(NOT_FOUND)?,
            Attribute::Headers(headers) => Attribute::Bytes(headers.get_joined(part).ok_or(NOT_FOUND)?),
            _ => return Err(NOT_FOUND),
        };
    }
    encode(&value).map_err(PropertyError::Status)
}

/// The bytes that the guest gets for `value`.
pub(crate) fn encode(value: &Attribute) -> Result<Vec<u8>, Status> {
    Ok(match value {
        Attribute::Bytes(bytes) => bytes.clone(),
        Attribute::Int(number) | Attribute::Duration(number) | Attribute::Timestamp(number) => {
            number.to_le_bytes().to_vec()
        }
        Attribute::Uint(number) => number.to_le_bytes().to_vec(),
        Attribute::Bool(flag) => vec![u8::from(*flag)],
        Attribute::Headers(headers) => encode_headers(headers),
        Attribute::Object(_) => return Err(Status::SerializationFailure),
    })
}

/// A header map as a property: each name once, its values joined.
fn encode_headers(headers: &Headers) -> Vec<u8> {
    let joined: BTreeMap<&[u8], Vec<u8>> =
        headers.iter().map(|(name, _)| (name, headers.get_joined(name).unwrap_or_default())).collect();
    encode_pairs(joined.iter().map(|(name, value)| (*name, value.as_slice())))
}

fn string(text: &str) -> Attribute {
    Attribute::Bytes(text.as_bytes().to_vec())
}

fn bytes(value: &[u8]) -> Attribute {
    Attribute::Bytes(value.to_vec())
}

fn count(value: u64) -> Attribute {
    Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn duration(value: Duration) -> Attribute {
    Attribute::Duration(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
}

/// The entries that have a value.
fn present<const N: usize>(entries: [(&'static str, Option<Attribute>); N]) -> Object {
    entries.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn request(scope: &Scope<'_>, stream: &StreamInfo) -> Object {
    let headers = scope.request_headers;
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(bytes);
    let header_bytes = headers.map_or(0, |headers| u64::from(headers.byte_size()));
    // A request whose headers arrived without `:path` has an empty path here, though `request.path` is absent.
    let target = headers.map(|headers| headers.get(":path").unwrap_or_default());
    let (url_path, query) = target.map(split_target).unzip();
    let start = i64::try_from(stream.start_unix_nanos).unwrap_or(i64::MAX);
    present([
        ("headers", Some(Attribute::Headers(headers.cloned().unwrap_or_default()))),
        ("headers_bytes", Some(count(header_bytes))),
        ("time", Some(Attribute::Timestamp(start))),
        ("size", request_size(headers, stream)),
        ("total_size", Some(count(stream.bytes_received.saturating_add(header_bytes)))),
        ("duration", stream.duration.map(duration)),
        ("protocol", stream.protocol.as_deref().map(bytes)),
        ("path", header(":path")),
        ("url_path", url_path.map(bytes)),
        ("query", query.map(bytes)),
        ("host", header(":authority")),
        ("scheme", header(":scheme")),
        ("method", header(":method")),
        ("referer", header("referer")),
        ("id", header("x-request-id")),
        ("useragent", header("user-agent")),
    ])
}

/// The path before `?`, and what is between that and `#`.
fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    let mut halves = target.splitn(2, |byte| *byte == b'?');
    let path = halves.next().unwrap_or_default();
    let query = halves.next().unwrap_or_default();
    (path, query.split(|byte| *byte == b'#').next().unwrap_or_default())
}

/// The stated length where there is one (absent where that is no number), else what was received.
fn request_size(headers: Option<&Headers>, stream: &StreamInfo) -> Option<Attribute> {
    match headers.and_then(|headers| headers.get("content-length")) {
        Some(stated) => std::str::from_utf8(stated).ok()?.parse().ok().map(Attribute::Int),
        None => Some(count(stream.bytes_received)),
    }
}

fn response(scope: &Scope<'_>, stream: &StreamInfo) -> Object {
    let size_of = |headers: Option<&Headers>| headers.map_or(0, |headers| u64::from(headers.byte_size()));
    let header_bytes = size_of(scope.response_headers);
    let total =
        stream.bytes_sent.saturating_add(header_bytes).saturating_add(size_of(scope.response_trailers));
    present([
        ("code", stream.response_code.map(|code| Attribute::Int(code.into()))),
        ("size", Some(count(stream.bytes_sent))),
        ("headers", Some(Attribute::Headers(scope.response_headers.cloned().unwrap_or_default()))),
        ("headers_bytes", Some(count(header_bytes))),
        ("trailers", Some(Attribute::Headers(scope.response_trailers.cloned().unwrap_or_default()))),
        ("flags", Some(count(stream.response_flags))),
        ("grpc_status", stream.grpc_status().map(Attribute::Int)),
        ("total_size", Some(count(total))),
        ("code_details", stream.response_code_details.as_deref().map(bytes)),
        ("backend_latency", stream.backend_latency.map(duration)),
    ])
}

fn connection(stream: &StreamInfo) -> Object {
    let mut object = present([
        ("mtls", Some(Attribute::Bool(stream.mtls))),
        ("requested_server_name", Some(bytes(&stream.requested_server_name))),
        ("id", stream.connection_id.map(Attribute::Uint)),
        ("termination_details", stream.connection_termination_details.as_deref().map(bytes)),
        ("transport_failure_reason", stream.downstream_transport_failure_reason.as_deref().map(bytes)),
    ]);
    object.extend(stream.tls.iter().flatten().map(|(name, value)| (*name, bytes(value))));
    object
}

fn upstream(stream: &StreamInfo) -> Object {
    let attempts = ("request_attempt_count", Some(Attribute::Uint(stream.attempt_count.into())));
    let Some(Upstream { address, port, local_address, transport_failure_reason, connection_pool_ready }) =
        &stream.upstream
    else {
        return present([attempts]);
    };
    present([
        attempts,
        ("address", address.as_deref().map(bytes)),
        ("port", port.map(|port| Attribute::Int(port.into()))),
        ("local_address", local_address.as_deref().map(bytes)),
        ("transport_failure_reason", Some(bytes(transport_failure_reason))),
        ("cx_pool_ready_duration", connection_pool_ready.map(duration)),
    ])
}

fn peer(address: &[u8], port: Option<u16>) -> Object {
    present([("address", Some(bytes(address))), ("port", port.map(|port| Attribute::Int(port.into())))])
}

fn xds(scope: &Scope<'_>) -> Object {
    let node =
        present([("id", Some(string(&scope.node.id))), ("cluster", Some(string(&scope.node.cluster)))]);
    let mut object = present([("node", Some(Attribute::Object(node)))]);
    if let Some(stream) = scope.stream {
        object.extend(present([
            ("cluster_name", stream.cluster_name.as_deref().map(bytes)),
            ("route_name", stream.route_name.as_deref().map(bytes)),
            ("virtual_host_name", stream.virtual_host_name.as_deref().map(bytes)),
            ("filter_chain_name", Some(bytes(&stream.filter_chain_name))),
            ("listener_direction", Some(Attribute::Int(stream.listener_direction))),
        ]));
    }
    object
}
