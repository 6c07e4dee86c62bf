//! Compiles the configuration into what is asked of the host for each request.

use super::field::{FIELDS, Field, Use};
use super::{Captured, Stage};
use crate::config::{ClientAddress, Config, Route, SampleBy};
use crate::policy;

/// Which values are asked for, in which slot each arrives, and how to ask.
#[derive(Debug, Clone)]
pub struct Plan {
    first: Stage,
    rest: Stage,
    /// By [`Field`]: the slot, or `None` when the field is not asked for.
    field_slots: [Option<u8>; FIELDS.len()],
    first_request_header: usize,
    first_response_header: usize,
}

impl Plan {
    /// Asks for all that the configuration has a use for, and nothing else. Where every request becomes a record, all is
    /// asked for at once: a second call would cost more than it spares.
    pub fn new(config: &Config) -> Self {
        let chooses = config.logs.enabled && policy::lets_any_go(&config.logs, &config.routes);
        let is_first = |field, used_by| match chooses {
            true => is_for_series(field, used_by, config) || is_for_decision(field, config),
            false => is_for_series(field, used_by, config) || is_for_record(field, used_by, config),
        };
        let mut plan = Self {
            first: Stage::default(),
            rest: Stage::default(),
            field_slots: [None; FIELDS.len()],
            first_request_header: 0,
            first_response_header: 0,
        };
        for (field, name, used_by, presence) in FIELDS {
            if is_first(field, used_by) {
                plan.set_slot(field);
                plan.first.add_attribute(name, presence);
            }
        }
        for (field, name, used_by, presence) in FIELDS {
            if chooses && is_for_record(field, used_by, config) && !is_first(field, used_by) {
                plan.set_slot(field);
                plan.rest.add_attribute(name, presence);
            }
        }
        if config.logs.enabled {
            plan.first_request_header = plan.slots();
            plan.first_response_header = plan.slots() + config.logs.request_headers.len();
            let stage = if chooses { &mut plan.rest } else { &mut plan.first };
            config.logs.request_headers.iter().for_each(|header| stage.add_header("request", header));
            config.logs.response_headers.iter().for_each(|header| stage.add_header("response", header));
        }
        plan
    }

    /// What is asked of every request.
    pub fn first(&self) -> &Stage {
        &self.first
    }

    /// What is asked besides of a request whose record is kept; empty where the first stage is everything.
    pub fn rest(&self) -> &Stage {
        &self.rest
    }

    /// The property paths of both stages, in the order of the slots.
    pub fn property_paths(&self) -> impl Iterator<Item = &[u8]> {
        self.first.property_paths().iter().chain(self.rest.property_paths()).map(Vec::as_slice)
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

    fn slots(&self) -> usize {
        self.first.slots() + self.rest.slots()
    }

    /// Gives the field the next slot.
    fn set_slot(&mut self, field: Field) {
        let next = u8::try_from(self.slots()).ok();
        if let Some(slot) = self.field_slots.get_mut(field as usize) {
            *slot = next;
        }
    }
}

/// Whether the histograms need the field.
fn is_for_series(field: Field, used_by: Use, config: &Config) -> bool {
    let metrics = &config.metrics;
    let histograms = metrics.histograms;
    metrics.enabled
        && (histograms.duration || histograms.upstream || histograms.proxy)
        && match field {
            Field::Path => !config.routes.is_empty(),
            Field::UpstreamDuration => histograms.upstream || histograms.proxy,
            Field::Cluster => metrics.attributes.upstream_cluster,
            Field::RouteName => metrics.attributes.route_name,
            Field::VirtualHostName => metrics.attributes.virtual_host_name,
            _ => used_by == Use::Both,
        }
}

/// Whether a record needs the field, where there are records.
fn is_for_record(field: Field, used_by: Use, config: &Config) -> bool {
    config.logs.enabled
        && match field {
            Field::ClientAddress => config.logs.client_address != ClientAddress::None,
            Field::VirtualHostName => false,
            _ => used_by != Use::Decision,
        }
}

/// Whether the field has a say in which records are kept.
fn is_for_decision(field: Field, config: &Config) -> bool {
    let logs = &config.logs;
    let has_own_rule = |route: &Route| route.sample_ratio.is_some() || route.keep_slower_than.is_some();
    match field {
        Field::Duration => {
            logs.keep_slower_than.is_some()
                || config.routes.iter().any(|route| route.keep_slower_than.is_some())
        }
        Field::Path => config.routes.iter().any(has_own_rule),
        Field::Status | Field::Flags | Field::GrpcStatus | Field::ContentType => logs.keep_errors,
        Field::Traceparent | Field::Tracestate => logs.sample_by == SampleBy::Trace,
        Field::RequestId => logs.sample_by != SampleBy::Random,
        _ => false,
    }
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
        assert!(plan.first().guarded_expression().ends_with(
            r#","x-a" in request.headers?request.headers["x-a"]:"","y'b" in response.headers?response.headers["y'b"]:""]"#
        ));
        assert_eq!(plan.property_paths().last().unwrap(), b"response\0headers\0y'b");
        assert_eq!(plan.first().guarded_expression().matches("?").count(), plan.first().slots());
    }

    /// The attributes of either stage.
    fn asked(sections: &str) -> [Vec<String>; 2] {
        let plan = plan(&format!(r#"{{"collector":{{"cluster":"c"}},{sections}}}"#));
        [plan.first(), plan.rest()].map(|stage| {
            let names =
                stage.property_paths().iter().map(|path| String::from_utf8_lossy(path).replace('\0', "."));
            names.collect()
        })
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn histograms_alone_ask_for_what_they_need() {
        let [first, rest] =
            asked(r#""logs":{"enabled":false,"sample_ratio":0.5},"metrics":{"attributes":[]}"#);
        assert_eq!(
            first,
            [
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
        assert_eq!(rest, NONE);
        let [first, _] = asked(r#""logs":{"enabled":false},"routes":["/a"]"#);
        assert!(first.contains(&"request.path".to_owned()));
        for nothing in [r#""metrics":{"enabled":false}"#, r#""metrics":{"histograms":[]}"#] {
            assert_eq!(asked(&format!(r#""logs":{{"enabled":false}},{nothing}"#)), [NONE, NONE]);
        }
    }

    #[test]
    fn where_every_request_becomes_a_record_all_is_asked_for_at_once() {
        for sections in [
            r#""logs":{}"#,
            r#""logs":{"keep_slower_than":"1s","sample_by":"random"},"routes":["/a",{"template":"/b","sample_ratio":1}]"#,
        ] {
            let [first, rest] = asked(sections);
            assert_eq!((first.len(), rest), (23, Vec::new()), "{first:?}");
        }
    }

    #[test]
    fn a_decision_asks_for_what_it_follows_and_a_record_for_the_rest() {
        let off = r#""metrics":{"enabled":false},"#;
        let trace = ["request.headers.traceparent", "request.headers.tracestate"];
        let errors =
            ["request.headers.content-type", "response.code", "response.flags", "response.grpc_status"];
        let cases: [(&str, Vec<&str>); 6] = [
            (r#""logs":{"sample_ratio":0.5,"sample_by":"random","keep_errors":false}"#, vec![]),
            (r#""logs":{"sample_ratio":0.5,"keep_errors":false}"#, [&["request.id"][..], &trace].concat()),
            (r#""logs":{"sample_ratio":0.5,"sample_by":"request","keep_errors":false}"#, vec!["request.id"]),
            (r#""logs":{"max_records_per_second":9,"sample_by":"random"}"#, errors.to_vec()),
            (
                r#""logs":{"sample_ratio":0.5,"sample_by":"random","keep_errors":false,"keep_slower_than":"1s"},"routes":["/a"]"#,
                vec!["request.duration"],
            ),
            (
                r#""logs":{"sample_by":"random","keep_errors":false},"routes":[{"template":"/a","sample_ratio":0.5}]"#,
                vec!["request.path"],
            ),
        ];
        for (sections, expected) in cases {
            let [first, rest] = asked(&format!("{off}{sections}"));
            assert_eq!(first, expected, "{sections}");
            let tracestate = usize::from(first.contains(&trace[1].to_owned()));
            assert_eq!(first.len() + rest.len(), 23 + tracestate, "{sections}");
            assert!(rest.iter().all(|name| !first.contains(name)), "{sections}");
        }
    }

    #[test]
    fn a_field_is_found_in_whichever_stage_it_was_asked_for() {
        let plan = plan(
            r#"{"collector":{"cluster":"c"},"logs":{"sample_ratio":0.5,"request_headers":["x-a"],"response_headers":["x-b"]}}"#,
        );
        let mut captured = Captured::default();
        for path in plan.property_paths() {
            captured.push(Some(path));
        }
        for (field, name, ..) in FIELDS.iter().filter(|(field, ..)| *field != Field::VirtualHostName) {
            let path = name.replace('.', "\0");
            assert_eq!(plan.bytes(&captured, *field), path.as_bytes());
        }
        assert_eq!(plan.request_header(&captured, 0), b"request\0headers\0x-a");
        assert_eq!(plan.response_header(&captured, 0), b"response\0headers\0x-b");
    }
}
