//! What makes two requests belong to one series: attributes of bounded sets only, never anything that a client can
//! choose freely.

use std::hash::{Hash, Hasher};

use hashbrown::Equivalent;

use crate::capture::Field;
use crate::config::SeriesAttributes;
use crate::otlp::attribute::{put_bool, put_int, put_str};
use crate::request::{ErrorType, FinishedRequest, Method, ProtocolVersion, Scheme, StreamKind};

/// Names of clusters, routes and virtual hosts come from the proxy's configuration, templates from the plugin's own;
/// longer ones are cut, so that a series is bounded in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Field number of a data point's attributes.
const POINT_ATTRIBUTES: u32 = 1;

/// The attributes of a series. `Name` is borrowed for a look-up and owned in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeriesKey<Name> {
    method: Method,
    scheme: Option<Scheme>,
    status: Option<u16>,
    error_type: Option<ErrorType>,
    protocol_version: Option<ProtocolVersion>,
    is_grpc: bool,
    is_outbound: bool,
    /// Template, cluster, route, virtual host; empty when unknown or not asked for.
    names: [Name; 4],
}

/// The attributes that [`SeriesKey::names`] are told as.
const NAME_KEYS: [&str; 4] =
    ["http.route", "envoy.upstream.cluster", "envoy.route.name", "envoy.virtual_host.name"];

impl<'c> SeriesKey<&'c [u8]> {
    pub(super) fn of(request: &FinishedRequest<'c>, added: SeriesAttributes) -> Self {
        let name = |wanted: bool, field| {
            let bytes = if wanted { request.bytes(field) } else { &[] };
            bytes.get(..MAX_NAME_BYTES).unwrap_or(bytes)
        };
        Self {
            method: request.method,
            scheme: request.scheme,
            status: request.outcome.status,
            error_type: request.outcome.error_type,
            protocol_version: request.protocol_version,
            is_grpc: request.is_grpc,
            is_outbound: request.is_outbound,
            names: [
                request.route.map_or(&[], |route| route.template.as_bytes()),
                name(added.upstream_cluster, Field::Cluster),
                name(added.route_name, Field::RouteName),
                name(added.virtual_host_name, Field::VirtualHostName),
            ],
        }
    }

    pub(super) fn encode_attributes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_str(&mut out, POINT_ATTRIBUTES, "http.request.method", self.method.as_str());
        if let Some(scheme) = self.scheme {
            put_str(&mut out, POINT_ATTRIBUTES, "url.scheme", scheme.as_str());
        }
        if let Some(status) = self.status {
            put_int(&mut out, POINT_ATTRIBUTES, "http.response.status_code", u64::from(status));
        }
        if let Some(error_type) = self.error_type {
            error_type.with_str(|text| put_str(&mut out, POINT_ATTRIBUTES, "error.type", text));
        }
        if let Some(version) = self.protocol_version {
            put_str(&mut out, POINT_ATTRIBUTES, "network.protocol.version", version.as_str());
        }
        if self.is_grpc {
            put_str(&mut out, POINT_ATTRIBUTES, "rpc.system.name", "grpc");
        }
        if let Some(kind) = StreamKind::of(self.method, self.status) {
            put_str(&mut out, POINT_ATTRIBUTES, "offpath.stream.kind", kind.as_str());
        }
        if self.is_outbound {
            // The upstream's and the proxy's parts have one metric for both directions.
            put_str(&mut out, POINT_ATTRIBUTES, "envoy.listener.direction", "outbound");
        }
        for (key, name) in NAME_KEYS.iter().zip(self.names) {
            if !name.is_empty() {
                put_str(&mut out, POINT_ATTRIBUTES, key, &String::from_utf8_lossy(name));
            }
        }
        out
    }
}

/// Field by field would cost more than all the rest of finding a series: the small ones are hashed as one number.
impl<Name: AsRef<[u8]>> Hash for SeriesKey<Name> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let small = [
            self.method as u8,
            self.scheme.map_or(0, |scheme| scheme as u8 + 1),
            self.protocol_version.map_or(0, |version| version as u8 + 1),
            u8::from(self.is_grpc) << 1 | u8::from(self.is_outbound),
        ];
        let status = u32::from(self.status.unwrap_or(0));
        state.write_u64(u64::from(u32::from_le_bytes(small)) << 32 | u64::from(status));
        if let Some(error_type) = self.error_type {
            error_type.hash(state);
        }
        for name in self.names.iter().map(AsRef::as_ref).filter(|name| !name.is_empty()) {
            state.write(name);
        }
    }
}

impl SeriesKey<Box<[u8]>> {
    pub(super) fn borrowed(&self) -> SeriesKey<&[u8]> {
        SeriesKey {
            method: self.method,
            scheme: self.scheme,
            status: self.status,
            error_type: self.error_type,
            protocol_version: self.protocol_version,
            is_grpc: self.is_grpc,
            is_outbound: self.is_outbound,
            names: self.names.each_ref().map(|name| &**name),
        }
    }
}

impl Equivalent<SeriesKey<Box<[u8]>>> for SeriesKey<&[u8]> {
    fn equivalent(&self, owned: &SeriesKey<Box<[u8]>>) -> bool {
        self.method == owned.method
            && self.scheme == owned.scheme
            && self.status == owned.status
            && self.error_type == owned.error_type
            && self.protocol_version == owned.protocol_version
            && self.is_grpc == owned.is_grpc
            && self.is_outbound == owned.is_outbound
            && self.names.iter().zip(&owned.names).all(|(name, owned)| **name == **owned)
    }
}

impl From<&SeriesKey<&[u8]>> for SeriesKey<Box<[u8]>> {
    fn from(key: &SeriesKey<&[u8]>) -> Self {
        Self {
            method: key.method,
            scheme: key.scheme,
            status: key.status,
            error_type: key.error_type,
            protocol_version: key.protocol_version,
            is_grpc: key.is_grpc,
            is_outbound: key.is_outbound,
            names: key.names.map(Into::into),
        }
    }
}

/// The attributes of the series that takes what finds no room elsewhere.
/// Source: OpenTelemetry metrics SDK, "Overflow attribute".
pub(super) fn overflow_attributes() -> Vec<u8> {
    let mut out = Vec::new();
    put_bool(&mut out, POINT_ATTRIBUTES, "otel.metric.overflow", true);
    out
}
