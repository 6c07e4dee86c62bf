//! One record as a request of its own.
//!
//! In: a record that the store refused, encoded as it came, with its resource and scope. Out: the bytes of an OTLP
//! request that carries it alone, for the dead-letter store: replaying it is queueing it again.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

// OTLP's logs messages, but with the record left encoded.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "1")]
    resource_part: Option<ResourcePart>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourcePart {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    scope_part: Option<ScopePart>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopePart {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(bytes = "vec", tag = "2")]
    record: Vec<u8>,
}

/// The `ExportLogsServiceRequest` of one encoded `LogRecord`.
#[must_use]
pub fn log_request(resource: &Resource, scope: &InstrumentationScope, record: &[u8]) -> Vec<u8> {
    request(resource, scope, record.to_vec())
}

/// The `ExportMetricsServiceRequest` of one metric. Metrics lie in the same fields as records do.
#[must_use]
pub fn metric_request(resource: &Resource, scope: &InstrumentationScope, metric: &Metric) -> Vec<u8> {
    request(resource, scope, metric.encode_to_vec())
}

/// The `ExportTraceServiceRequest` of one encoded `Span`. Spans lie in the same fields as records do.
#[must_use]
pub fn span_request(resource: &Resource, scope: &InstrumentationScope, span: &[u8]) -> Vec<u8> {
    request(resource, scope, span.to_vec())
}

fn request(resource: &Resource, scope: &InstrumentationScope, record: Vec<u8>) -> Vec<u8> {
    let scope_part = ScopePart { scope: Some(scope.clone()), record };
    let resource_part = ResourcePart { resource: Some(resource.clone()), scope_part: Some(scope_part) };
    Request { resource_part: Some(resource_part) }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;

    use super::*;

    #[test]
    fn a_lone_record_decodes_as_an_otlp_request() {
        let record = LogRecord { time_unix_nano: 7, event_name: "e".into(), ..LogRecord::default() };
        let scope = InstrumentationScope { name: "s".into(), ..InstrumentationScope::default() };
        let bytes = log_request(&Resource::default(), &scope, &record.encode_to_vec());
        let decoded = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap();
        let scope_logs = &decoded.resource_logs[0].scope_logs[0];
        assert_eq!(scope_logs.scope.as_ref().unwrap().name, "s");
        assert_eq!(scope_logs.log_records, [record]);
    }
}
