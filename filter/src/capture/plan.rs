//! Compiles the configuration into what is asked of the host for each request.

use super::Captured;
use super::field::{FIELDS, Field, Use};
use crate::config::{ClientAddress, Config};

/// Which values are asked for, in which slot each arrives, and how to ask.
#[derive(Debug, Clone)]
pub struct Plan {
    expression: String,
    property_paths: Vec<Vec<u8>>,
    /// By [`Field`]: the slot, or `None` when the field is not asked for.
    field_slots: [Option<u8>; FIELDS.len()],
    first_request_header: usize,
    first_response_header: usize,
}

impl Plan {
    /// Asks for all that the configuration has a use for, and nothing else.
    pub fn new(config: &Config) -> Self {
        let mut plan = Self {
            expression: String::new(),
            property_paths: Vec::new(),
            field_slots: [None; FIELDS.len()],
            first_request_header: 0,
            first_response_header: 0,
        };
        let mut terms = Vec::new();
        for ((field, name, used_by), slot) in FIELDS.iter().zip(&mut plan.field_slots) {
            if !wanted(*field, *used_by, config) {
                continue;
            }
            *slot = u8::try_from(terms.len()).ok();
            match name.strip_prefix("request.headers.") {
                Some(header) => terms.push(header_term("request", header)),
                None => terms.push(format!("has({name})?{name}:\"\"")),
            }
            plan.property_paths.push(property_path(name));
        }
        if config.logs.enabled {
            plan.first_request_header = terms.len();
            for (side, headers) in
                [("request", &config.logs.request_headers), ("response", &config.logs.response_headers)]
            {
                if side == "response" {
                    plan.first_response_header = terms.len();
                }
                for header in headers {
                    terms.push(header_term(side, header));
                    plan.property_paths.push([side.as_bytes(), b"\0headers\0", header.as_bytes()].concat());
                }
            }
        }
        plan.expression = format!("[{}]", terms.join(","));
        plan
    }

    /// The CEL list that evaluates to all slots in order. A missing value evaluates to an empty string.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The same values one by one: a NUL-separated property path for each slot.
    pub fn property_paths(&self) -> &[Vec<u8>] {
        &self.property_paths
    }

    /// The bytes of a field; empty when the host has none or nobody asked.
    pub fn bytes<'c>(&self, captured: &'c Captured, field: Field) -> &'c [u8] {
        let slot = self.field_slots.get(field as usize).copied().flatten();
        slot.map(|slot| captured.slot(usize::from(slot))).unwrap_or_default()
    }

    /// A field that the host answers as an 8-byte little-endian integer.
    pub fn int(&self, captured: &Captured, field: Field) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(captured, field).try_into().ok()?))
    }

    /// The value of the `index`th configured request header.
    pub fn request_header<'c>(&self, captured: &'c Captured, index: usize) -> &'c [u8] {
        captured.slot(self.first_request_header + index)
    }

    /// The value of the `index`th configured response header.
    pub fn response_header<'c>(&self, captured: &'c Captured, index: usize) -> &'c [u8] {
        captured.slot(self.first_response_header + index)
    }
}

fn wanted(field: Field, used_by: Use, config: &Config) -> bool {
    let (logs, metrics) = (config.logs.enabled, &config.metrics);
    let needs_upstream_duration = metrics.histograms.upstream || metrics.histograms.proxy;
    match field {
        Field::ClientAddress => logs && config.logs.client_address != ClientAddress::None,
        Field::UpstreamDuration => logs || (metrics.enabled && needs_upstream_duration),
        Field::Cluster => logs || (metrics.enabled && metrics.attributes.upstream_cluster),
        Field::RouteName => logs || (metrics.enabled && metrics.attributes.route_name),
        Field::VirtualHostName => metrics.enabled && metrics.attributes.virtual_host_name,
        _ => logs || (metrics.enabled && used_by == Use::Both),
    }
}

/// Header names are tokens (the configuration saw to that), so they hold neither `"` nor `\`.
fn header_term(side: &str, header: &str) -> String {
    format!("\"{header}\" in {side}.headers?{side}.headers[\"{header}\"]:\"\"")
}

fn property_path(name: &str) -> Vec<u8> {
    name.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Plan {
        Plan::new(&Config::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn fields_are_listed_in_the_order_of_their_enum() {
        for (index, (field, ..)) in FIELDS.iter().enumerate() {
            assert_eq!(*field as usize, index);
        }
    }

    #[test]
    fn headers_follow_the_fields_in_both_forms() {
        let plan = plan(
            r#"{"collector":{"cluster":"c"},"logs":{"request_headers":["X-A"],"response_headers":["y'b"]}}"#,
        );
        assert!(plan.expression().ends_with(
            r#","x-a" in request.headers?request.headers["x-a"]:"","y'b" in response.headers?response.headers["y'b"]:""]"#
        ));
        assert_eq!(plan.property_paths().last().unwrap(), b"response\0headers\0y'b");
        assert_eq!(plan.expression().matches("?").count(), plan.property_paths().len());
    }

    #[test]
    fn histograms_alone_ask_for_what_they_need() {
        let plan =
            plan(r#"{"collector":{"cluster":"c"},"logs":{"enabled":false},"metrics":{"attributes":[]}}"#);
        let names: Vec<_> = plan
            .property_paths()
            .iter()
            .map(|path| String::from_utf8_lossy(path).replace('\0', "."))
            .collect();
        assert_eq!(
            names,
            [
                "request.time",
                "request.duration",
                "request.method",
                "request.scheme",
                "request.protocol",
                "request.headers.content-type",
                "response.code",
                "response.flags",
                "response.grpc_status",
                "xds.listener_direction",
            ]
        );
    }
}
