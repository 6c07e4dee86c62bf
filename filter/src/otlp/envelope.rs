//! What an export request is wrapped in: `Export*ServiceRequest { Resource* 1 }`, `Resource* { Resource 1, Scope* 2 }`,
//! `Scope* { InstrumentationScope 1, items 2 }`. Logs and metrics share these numbers, so one type serves both.
//! Source: opentelemetry-proto, `logs/v1/logs.proto`, `metrics/v1/metrics.proto`.

use super::attribute::put_str;
use super::wire::{Open, put_bytes};

/// The field number of log records in `ScopeLogs` and of metrics in `ScopeMetrics`.
pub const ITEM: u32 = 2;

/// Lengths of the two outer messages take four bytes: up to 256 MiB, far above the largest batch.
type Outer = Open<4>;

/// The encoded resource and scope that every request of one root context starts with.
#[derive(Debug, Clone)]
pub struct Envelope {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

/// A request that items are being appended to.
#[derive(Debug)]
pub struct OpenRequest {
    resource: Outer,
    scope: Outer,
}

impl Envelope {
    /// Encodes the resource's attributes and names the instrumentation scope.
    pub fn new<'a>(
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
        scope_name: &str,
        scope_version: &str,
    ) -> Self {
        let mut resource = Vec::new();
        for (key, value) in attributes {
            put_str(&mut resource, 1, key, value);
        }
        let mut scope = Vec::new();
        put_bytes(&mut scope, 1, scope_name.as_bytes());
        put_bytes(&mut scope, 2, scope_version.as_bytes());
        Self { resource, scope }
    }

    /// Appends the start of a request to `out`, which must be empty.
    pub fn begin(&self, out: &mut Vec<u8>) -> OpenRequest {
        let resource = Outer::begin(out, 1);
        put_bytes(out, 1, &self.resource);
        let scope = Outer::begin(out, 2);
        put_bytes(out, 1, &self.scope);
        OpenRequest { resource, scope }
    }

    /// How many bytes [`Envelope::begin`] takes, all that a request has besides its items.
    pub fn encoded_len(&self) -> usize {
        let mut out = Vec::new();
        let _ = self.begin(&mut out);
        out.len()
    }
}

impl OpenRequest {
    /// Ends the request where `out` ends now.
    pub fn end(self, out: &mut [u8]) {
        self.scope.end(out);
        self.resource.end(out);
    }
}
