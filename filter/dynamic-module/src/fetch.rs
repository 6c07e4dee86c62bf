//! What a plan asks of the host, answered by Envoy's own functions.
//!
//! A [`Stage`] names what it wants as wasm properties are named. Everything is fetched one by one, which costs a function call here,
//! but for headers where many are wanted: those are looked for among all. What has no source here cannot be configured either, see
//! [`unavailable`], but for the listener's direction, which is never told: every request counts as an inbound one.

use std::io::Write as _;

use offpath_filter::capture::{Captured, Stage};
use offpath_filter::config::{Config, ConfigError};

use crate::abi::{Attribute, Header, HeaderMap, Stream, Timing};

/// Where a value comes from.
#[derive(Debug)]
enum Source {
    StartTime,
    Duration,
    UpstreamDuration,
    RequestSize,
    ResponseSize,
    Flags,
    GrpcStatus,
    ClientAddress,
    Cluster,
    Text(Attribute),
    Int(Attribute),
    Header(HeaderMap, Vec<u8>),
    /// Envoy does not tell loggers.
    Nowhere,
}

/// The sources of a stage's values.
#[derive(Debug)]
pub(crate) struct Sources {
    has_header_map: bool,
    /// Of those that are not in the header map.
    others: Vec<Source>,
}

/// Space that is used again for each request.
#[derive(Default)]
pub(crate) struct Space {
    headers: Vec<Header>,
    address: Vec<u8>,
}

impl Sources {
    /// Finds them.
    ///
    /// # Errors
    /// When the core has learnt to ask for something that is not known here.
    pub(crate) fn of(stage: &Stage) -> Result<Self, ConfigError> {
        let others = stage.property_paths().iter().skip(stage.headers().len()).map(|path| {
            source(path).ok_or_else(|| {
                let name = String::from_utf8_lossy(path).replace('\0', ".");
                ConfigError::new(format!(
                    "configuration: wants `{name}`, which a dynamic module does not know"
                ))
            })
        });
        Ok(Self { has_header_map: !stage.headers().is_empty(), others: others.collect::<Result<_, _>>()? })
    }

    /// Asks for the stream's values.
    pub(crate) fn fetch(
        &self,
        stage: &Stage,
        stream: &Stream<'_>,
        space: &mut Space,
        captured: &mut Captured,
    ) {
        if self.has_header_map {
            captured.push_headers(stream.headers(HeaderMap::Request, &mut space.headers), stage.headers());
        }
        let timing = stream.timing();
        for source in &self.others {
            source.push(stream, &timing, &mut space.address, captured);
        }
    }
}

impl Source {
    fn push(&self, stream: &Stream<'_>, timing: &Timing, space: &mut Vec<u8>, captured: &mut Captured) {
        let number = |captured: &mut Captured, value: Option<u64>| {
            captured.push(value.map(u64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        };
        match self {
            Self::StartTime => number(captured, u64::try_from(timing.start_unix_nano).ok()),
            Self::Duration => number(captured, u64::try_from(timing.request_complete_nano).ok()),
            Self::UpstreamDuration => number(captured, upstream_duration_nano(timing)),
            Self::RequestSize => number(captured, Some(stream.total_sizes().0)),
            Self::ResponseSize => number(captured, Some(stream.total_sizes().1)),
            Self::Flags => number(captured, Some(stream.response_flags())),
            Self::GrpcStatus => number(captured, grpc_status(stream).map(i64::cast_unsigned)),
            Self::ClientAddress => captured.push(socket_address(stream.client_address(), space)),
            Self::Cluster => captured.push(stream.upstream_cluster()),
            Self::Text(attribute) => captured.push(stream.text(*attribute)),
            Self::Int(attribute) => number(captured, stream.int(*attribute)),
            Self::Header(map, name) => captured.push(header(stream, *map, name).as_deref()),
            Self::Nowhere => captured.push(None),
        }
    }
}

/// What a configuration wants and Envoy does not tell loggers: the key's path, and why.
pub(crate) fn unavailable(config: &Config) -> Option<(&'static str, &'static str)> {
    if config.metrics.attributes.virtual_host_name {
        return Some((
            "metrics.attributes",
            "`envoy.virtual_host.name` is not available to a dynamic module",
        ));
    }
    (!config.logs.attributes.is_empty())
        .then_some(("logs.attributes", "expressions are not available to a dynamic module"))
}

/// `None` for what this module does not know.
fn source(path: &[u8]) -> Option<Source> {
    let header = |map, name: &[u8]| Source::Header(map, name.to_vec());
    Some(match path {
        b"xds\0listener_direction" => Source::Nowhere,
        b"request\0time" => Source::StartTime,
        b"request\0duration" => Source::Duration,
        b"response\0backend_latency" => Source::UpstreamDuration,
        b"request\0total_size" => Source::RequestSize,
        b"response\0total_size" => Source::ResponseSize,
        b"response\0flags" => Source::Flags,
        b"response\0grpc_status" => Source::GrpcStatus,
        b"source\0address" => Source::ClientAddress,
        b"upstream\0address" => Source::Text(Attribute::UpstreamAddress),
        b"xds\0cluster_name" => Source::Cluster,
        b"xds\0route_name" => Source::Text(Attribute::XdsRouteName),
        b"request\0protocol" => Source::Text(Attribute::RequestProtocol),
        b"response\0code_details" => Source::Text(Attribute::ResponseCodeDetails),
        b"response\0code" => Source::Int(Attribute::ResponseCode),
        b"request\0method" => header(HeaderMap::Request, b":method"),
        b"request\0path" => header(HeaderMap::Request, b":path"),
        b"request\0scheme" => header(HeaderMap::Request, b":scheme"),
        b"request\0host" => header(HeaderMap::Request, b":authority"),
        b"request\0useragent" => header(HeaderMap::Request, b"user-agent"),
        b"request\0id" => header(HeaderMap::Request, b"x-request-id"),
        _ => match (path.strip_prefix(b"request\0headers\0"), path.strip_prefix(b"response\0headers\0")) {
            (Some(name), _) => header(HeaderMap::Request, name),
            (_, Some(name)) => header(HeaderMap::Response, name),
            _ => return None,
        },
    })
}

/// From the first byte that went to the upstream to the last one that came from it, as CEL's `response.backend_latency`.
fn upstream_duration_nano(timing: &Timing) -> Option<u64> {
    let (sent, received) = (timing.first_upstream_tx_nano, timing.last_upstream_rx_nano);
    (sent >= 0 && received >= 0).then(|| u64::try_from(received - sent).unwrap_or(0))
}

/// The trailers have it, or the headers of a response without a body; where neither has, the HTTP status says something. As CEL's
/// `response.grpc_status`, which Envoy derives so.
fn grpc_status(stream: &Stream<'_>) -> Option<i64> {
    let status = |map| stream.header(map, b"grpc-status", 0).filter(|digits| !digits.is_empty());
    match status(HeaderMap::ResponseTrailers).or_else(|| status(HeaderMap::Response)) {
        Some(digits) => {
            let code = str::from_utf8(digits).ok().and_then(|digits| digits.trim().parse().ok());
            Some(code.filter(|code| (0..=MAX_GRPC_STATUS).contains(code)).unwrap_or(INVALID_GRPC_STATUS))
        }
        None => stream.int(Attribute::ResponseCode).map(grpc_status_of_http),
    }
}

/// The last of the statuses, `UNAUTHENTICATED`.
const MAX_GRPC_STATUS: i64 = 16;

/// What Envoy says of a status that is none.
const INVALID_GRPC_STATUS: i64 = -1;

/// Source: gRPC, "HTTP to gRPC Status Code Mapping".
fn grpc_status_of_http(status: u64) -> i64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// All values of a header, with commas between them, as CEL joins them.
fn header(stream: &Stream<'_>, map: HeaderMap, name: &[u8]) -> Option<Vec<u8>> {
    let mut joined = stream.header(map, name, 0)?.to_vec();
    let is_pseudo = name.starts_with(b":");
    for index in (1..).take_while(|_| !is_pseudo) {
        let Some(value) = stream.header(map, name, index) else { break };
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    Some(joined)
}

/// As Envoy prints it: brackets around an IPv6 address.
fn socket_address<'s>(address: Option<(&[u8], u32)>, space: &'s mut Vec<u8>) -> Option<&'s [u8]> {
    let (ip, port) = address?;
    let (before, behind): (&[u8], &[u8]) = if ip.contains(&b':') { (b"[", b"]:") } else { (b"", b":") };
    space.clear();
    for part in [before, ip, behind] {
        space.extend_from_slice(part);
    }
    // Writing to memory does not fail.
    write!(space, "{port}").ok()?;
    Some(space)
}
