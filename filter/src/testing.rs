//! A request as a host would tell it, for the tests of several modules.

use crate::capture::{Captured, Plan};
use crate::config::Config;

/// Values by the names of Envoy's attributes; integers are put in as eight bytes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told(Vec<(String, Vec<u8>)>);

impl Told {
    /// A plain `GET /orders/7` that was answered 200 within 12 ms, of which the upstream took 10.
    pub(crate) fn ordinary() -> Self {
        Self::default()
            .int("request.time", 1_700_000_000_000_000_000)
            .int("request.duration", 12_000_000)
            .text("request.method", "GET")
            .text("request.path", "/orders/7?token=abc&page=2")
            .text("request.scheme", "http")
            .text("request.host", "shop.example:8080")
            .text("request.protocol", "HTTP/1.1")
            .text("request.useragent", "curl/8")
            .text("request.id", "6e1b")
            .text("request.headers.traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .int("request.total_size", 120)
            .int("response.code", 200)
            .text("response.code_details", "via_upstream")
            .int("response.flags", 0)
            .int("response.grpc_status", 0)
            .int("response.total_size", 300)
            .int("response.backend_latency", 10_000_000)
            .text("source.address", "10.1.2.3:55555")
            .text("upstream.address", "10.9.9.9:80")
            .text("xds.cluster_name", "orders")
            .text("xds.route_name", "all")
    }

    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_vec()));
        self
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, value.as_bytes())
    }

    pub(crate) fn int(self, name: &str, value: i64) -> Self {
        self.bytes(name, &value.to_le_bytes())
    }

    /// What is captured of it, in the order of the plan; of what a user wants evaluated the answer, by the attribute's name.
    pub(crate) fn captured(&self, plan: &Plan) -> Captured {
        let mut captured = Captured::default();
        for stage in [plan.first(), plan.rest()] {
            let grpc_statuses = usize::from(stage.content_type_slot().is_some());
            let (paths, grpc_status) =
                stage.property_paths().split_at(stage.property_paths().len() - grpc_statuses);
            for path in paths {
                captured.push(self.property(path));
            }
            for named in stage.named() {
                captured.push(self.find(&named.name));
            }
            for path in grpc_status {
                captured.push(self.property(path));
            }
        }
        captured
    }

    fn property(&self, path: &[u8]) -> Option<&[u8]> {
        self.find(&String::from_utf8_lossy(path).replace('\0', "."))
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

/// What the host answers to a CEL list of strings: the first halves of pairs.
pub(crate) fn list(items: &[&[u8]]) -> Vec<u8> {
    let mut answer = (items.len() as u32).to_le_bytes().to_vec();
    items.iter().for_each(|item| answer.extend([(item.len() as u32).to_le_bytes(), [0; 4]].concat()));
    items.iter().for_each(|item| answer.extend([item, &b"\0\0"[..]].concat()));
    answer
}

/// A configuration with a collector, and `sections` as further keys.
pub(crate) fn config(sections: &str) -> Config {
    let comma = if sections.is_empty() { "" } else { "," };
    Config::parse(format!(r#"{{"collector":{{"cluster":"otlp"}}{comma}{sections}}}"#).as_bytes()).unwrap()
}
