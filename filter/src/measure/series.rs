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
    small: Small,
    /// `small` as one number: to hash and to compare it field by field would cost more than all the rest of a look-up.
    packed: u64,
    error_type: Option<ErrorType>,
    /// Template, cluster, route, virtual host; empty when unknown or not asked for.
    names: [Name; 4],
}

/// The attributes that are small numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Small {
    method: Method,
    scheme: Option<Scheme>,
    status: Option<u16>,
    protocol_version: Option<ProtocolVersion>,
    is_grpc: bool,
    is_outbound: bool,
}

impl Small {
    /// Another number for each value.
    fn packed(self) -> u64 {
        let [low, high] = self.status.unwrap_or(0).to_le_bytes();
        u64::from_le_bytes([
            low,
            high,
            self.method as u8,
            self.scheme.map_or(0, |scheme| scheme as u8 + 1),
            self.protocol_version.map_or(0, |version| version as u8 + 1),
            self.is_grpc.into(),
            self.is_outbound.into(),
            0,
        ])
    }
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
        let names = [
            request.route.map_or(&[][..], |route| route.template.as_bytes()),
            name(added.upstream_cluster, Field::Cluster),
            name(added.route_name, Field::RouteName),
            name(added.virtual_host_name, Field::VirtualHostName),
        ];
        let small = Small {
            method: request.method,
            scheme: request.scheme,
            status: request.outcome.status,
            protocol_version: request.protocol_version,
            is_grpc: request.is_grpc,
            is_outbound: request.is_outbound,
        };
        Self { small, packed: small.packed(), error_type: request.outcome.error_type, names }
    }

    pub(super) fn encode_attributes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let small = self.small;
        put_str(&mut out, POINT_ATTRIBUTES, "http.request.method", small.method.as_str());
        if let Some(scheme) = small.scheme {
            put_str(&mut out, POINT_ATTRIBUTES, "url.scheme", scheme.as_str());
        }
        if let Some(status) = small.status {
            put_int(&mut out, POINT_ATTRIBUTES, "http.response.status_code", u64::from(status));
        }
        if let Some(error_type) = self.error_type {
            error_type.with_str(|text| put_str(&mut out, POINT_ATTRIBUTES, "error.type", text));
        }
        if let Some(version) = small.protocol_version {
            put_str(&mut out, POINT_ATTRIBUTES, "network.protocol.version", version.as_str());
        }
        if small.is_grpc {
            put_str(&mut out, POINT_ATTRIBUTES, "rpc.system.name", "grpc");
        }
        if let Some(kind) = StreamKind::of(small.method, small.status) {
            put_str(&mut out, POINT_ATTRIBUTES, "offpath.stream.kind", kind.as_str());
        }
        if small.is_outbound {
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

impl<Name: AsRef<[u8]>> Hash for SeriesKey<Name> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.packed);
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
        let Self { small, packed, error_type, .. } = *self;
        SeriesKey { small, packed, error_type, names: self.names.each_ref().map(|name| &**name) }
    }
}

impl Equivalent<SeriesKey<Box<[u8]>>> for SeriesKey<&[u8]> {
    fn equivalent(&self, owned: &SeriesKey<Box<[u8]>>) -> bool {
        self.packed == owned.packed
            && self.error_type == owned.error_type
            && self.names.iter().zip(&owned.names).all(|(name, owned)| is_same_name(name, owned))
    }
}

/// Most names of most keys are empty: a call to compare nothing would cost as much as one that compares something.
fn is_same_name(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && (name.is_empty() || name == other)
}

impl From<&SeriesKey<&[u8]>> for SeriesKey<Box<[u8]>> {
    fn from(key: &SeriesKey<&[u8]>) -> Self {
        let SeriesKey { small, packed, error_type, names } = *key;
        Self { small, packed, error_type, names: names.map(Into::into) }
    }
}

/// The attributes of the series that takes what finds no room elsewhere.
/// Source: OpenTelemetry metrics SDK, "Overflow attribute".
pub(super) fn overflow_attributes() -> Vec<u8> {
    let mut out = Vec::new();
    put_bool(&mut out, POINT_ATTRIBUTES, "otel.metric.overflow", true);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const METHODS: [&[u8]; 11] = [
        b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY",
        b"other",
    ];

    /// Every series there can be, but for its names: with each status at the ends of a class.
    fn every_small() -> impl Iterator<Item = Small> {
        let statuses = || [None, Some(100), Some(199), Some(200), Some(255), Some(256), Some(511), Some(999)];
        let flags = || [(false, false), (false, true), (true, false), (true, true)];
        METHODS.into_iter().flat_map(move |method| {
            [&b"http"[..], b"https", b""].into_iter().flat_map(move |scheme| {
                statuses().into_iter().flat_map(move |status| {
                    [&b"HTTP/1.0"[..], b"HTTP/1.1", b"HTTP/2", b"HTTP/3", b""].into_iter().flat_map(
                        move |version| {
                            flags().into_iter().map(move |(is_grpc, is_outbound)| Small {
                                method: Method::read(method),
                                scheme: Scheme::read(scheme),
                                status,
                                protocol_version: ProtocolVersion::read(version),
                                is_grpc,
                                is_outbound,
                            })
                        },
                    )
                })
            })
        })
    }

    #[test]
    fn no_two_series_are_packed_into_the_same_number() {
        let (count, packed): (Vec<_>, BTreeSet<u64>) =
            every_small().map(|small| (small, small.packed())).unzip();
        assert_eq!((count.len(), packed.len()), (5_280, 5_280));
    }
}
