//! What the proxy knows of one request when it has ended, as Envoy's stream info and header maps hold it.
//!
//! This one description is what both ways of reading a request (`crate::attributes` one by one, and
//! `crate::expressions`) are served from. Everything is bytes, and everything that can be absent in Envoy is optional.

use std::collections::BTreeMap;
use std::time::Duration;

/// A header map: names in lower case, values as bytes, in order, names possibly several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Vec<u8>, Vec<u8>)>);

impl Headers {
    /// Appends a header; its name is put into lower case, as Envoy does.
    pub fn append(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Replaces all headers of that name by one.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.remove(&name);
        self.append(name, value);
    }

    /// Removes all headers of that name.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name.as_ref()));
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name.as_ref()))
            .map(|(_, value)| value.as_slice())
    }

    /// All values of that name, joined by `,`: what CEL's `request.headers['…']` is.
    #[must_use]
    pub fn get_joined(&self, name: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let values: Vec<&[u8]> = self
            .0
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name.as_ref()))
            .map(|(_, value)| value.as_slice())
            .collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values.
    pub(crate) fn byte_size(&self) -> u32 {
        let bytes: usize = self.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }
}

/// See the module's documentation. The fields are named after the attributes that they feed.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Absent when the request failed before its headers were complete.
    pub request_headers: Option<Headers>,
    /// Absent when no response was started.
    pub response_headers: Option<Headers>,
    /// Absent when the response had none.
    pub response_trailers: Option<Headers>,

    /// When the request began, in ns since 1970.
    pub start_unix_nanos: u64,
    /// From the request's begin to its end; absent as long as it has not ended.
    pub duration: Option<Duration>,
    /// `request.protocol`, such as `HTTP/1.1`.
    pub protocol: Option<Vec<u8>>,
    /// Body bytes received from the client.
    pub bytes_received: u64,
    /// Body bytes sent to the client.
    pub bytes_sent: u64,

    /// The response's status; absent when none was sent.
    pub response_code: Option<u16>,
    /// `response.code_details`, such as `via_upstream`.
    pub response_code_details: Option<Vec<u8>>,
    /// `response.flags`, Envoy's bit mask.
    pub response_flags: u64,
    /// First byte sent to the upstream until its last byte came back.
    pub backend_latency: Option<Duration>,

    /// `source.address`, with its port.
    pub source_address: Vec<u8>,
    /// `source.port`; absent for an address that has none.
    pub source_port: Option<u16>,
    /// `destination.address`, with its port.
    pub destination_address: Vec<u8>,
    /// `destination.port`; absent for an address that has none.
    pub destination_port: Option<u16>,

    /// `connection.id`.
    pub connection_id: Option<u64>,
    /// `connection.mtls`.
    pub mtls: bool,
    /// `connection.requested_server_name`, empty without TLS.
    pub requested_server_name: Vec<u8>,
    /// `connection.termination_details`.
    pub connection_termination_details: Option<Vec<u8>>,
    /// `connection.transport_failure_reason`.
    pub downstream_transport_failure_reason: Option<Vec<u8>>,
    /// What TLS knows of the connection (`tls_version`, `subject_peer_certificate`, …); absent without TLS.
    pub tls: Option<BTreeMap<&'static str, Vec<u8>>>,

    /// What is known of the upstream; absent when none was chosen.
    pub upstream: Option<Upstream>,
    /// How often the request was sent upstream.
    pub attempt_count: u32,

    /// `xds.cluster_name`: the cluster that the route chose.
    pub cluster_name: Option<Vec<u8>>,
    /// `xds.route_name`; present and empty for a route without a name, absent without a route.
    pub route_name: Option<Vec<u8>>,
    /// `xds.virtual_host_name`.
    pub virtual_host_name: Option<Vec<u8>>,
    /// `xds.filter_chain_name`.
    pub filter_chain_name: Vec<u8>,
    /// `xds.listener_direction`: 0 unspecified, 1 inbound, 2 outbound.
    pub listener_direction: i64,
}

/// The upstream side of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// `upstream.address`, with its port; absent when no host was chosen.
    pub address: Option<Vec<u8>>,
    /// `upstream.port`.
    pub port: Option<u16>,
    /// `upstream.local_address`.
    pub local_address: Option<Vec<u8>>,
    /// `upstream.transport_failure_reason`, empty when there was none.
    pub transport_failure_reason: Vec<u8>,
    /// `upstream.cx_pool_ready_duration`.
    pub connection_pool_ready: Option<Duration>,
}

impl StreamInfo {
    /// `response.grpc_status`: from the trailers, else from the headers, else guessed from the status, whether or not
    /// the request was gRPC at all.
    #[must_use]
    pub fn grpc_status(&self) -> Option<i64> {
        /// What Envoy makes of a status that is no number.
        const INVALID: i64 = -1;
        let stated = [&self.response_trailers, &self.response_headers]
            .into_iter()
            .flatten()
            .find_map(|headers| headers.get("grpc-status"))
            .map(|value| {
                std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(INVALID)
            });
        stated.or_else(|| self.response_code.map(guessed_grpc_status))
    }
}

/// The gRPC project's mapping of HTTP statuses, as Envoy applies it.
fn guessed_grpc_status(http_status: u16) -> i64 {
    match http_status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
