//! OTLP as a receiver reads it, with the OpenTelemetry project's messages: nothing of the plugin's own encoding is used to
//! check it.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::ExportMetricsServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::LogRecord,
    metrics::v1::{ExponentialHistogramDataPoint, metric},
};
use prost::Message as _;

use crate::harness::receiver::Call;

/// A call's body as it was sent, decompressed.
///
/// # Errors
/// When it is not what its `content-encoding` says.
pub fn body(call: &Call) -> anyhow::Result<Bytes> {
    match call.header("content-encoding") {
        None | Some("identity") => Ok(call.body.clone()),
        Some("gzip") => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&call.body[..]).read_to_end(&mut plain).context("not gzip")?;
            Ok(plain.into())
        }
        Some(other) => bail!("the content encoding `{other}` is not one that OTLP knows"),
    }
}

/// The log records of a call to `/v1/logs`, in their order.
///
/// # Errors
/// When its body is not an `ExportLogsServiceRequest`.
pub fn log_records(call: &Call) -> anyhow::Result<Vec<LogRecord>> {
    records_in(body(call)?)
}

/// The log records of an encoded request, in their order.
///
/// # Errors
/// When it is not an `ExportLogsServiceRequest`.
pub fn records_in(request: Bytes) -> anyhow::Result<Vec<LogRecord>> {
    let request = ExportLogsServiceRequest::decode(request).context("not an ExportLogsServiceRequest")?;
    let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    Ok(scopes.flat_map(|scope| scope.log_records).collect())
}

/// The exponential histograms' points named `name` in a call to `/v1/metrics`, each with its sender's
/// `service.instance.id`.
///
/// # Errors
/// When its body is not an `ExportMetricsServiceRequest`.
pub fn histogram_points(
    call: &Call,
    name: &str,
) -> anyhow::Result<Vec<(String, ExponentialHistogramDataPoint)>> {
    let request =
        ExportMetricsServiceRequest::decode(body(call)?).context("not an ExportMetricsServiceRequest")?;
    let mut points = Vec::new();
    for resource in request.resource_metrics {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let sender = text(&attributes, "service.instance.id").unwrap_or_default().to_owned();
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            if let Some(metric::Data::ExponentialHistogram(histogram)) = metric.data
                && metric.name == name
            {
                points.extend(histogram.data_points.into_iter().map(|point| (sender.clone(), point)));
            }
        }
    }
    Ok(points)
}

/// An attribute that is a string.
#[must_use]
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match &attributes.iter().find(|attribute| attribute.key == key)?.value {
        Some(AnyValue { value: Some(any_value::Value::StringValue(text)) }) => Some(text),
        _ => None,
    }
}

/// An answer's body, by which `refused` log records are refused for good.
pub(super) fn response(refused: usize) -> Vec<u8> {
    let partial_success = (refused > 0).then(|| ExportLogsPartialSuccess {
        rejected_log_records: i64::try_from(refused).unwrap_or(i64::MAX),
        error_message: "refused, as told".to_owned(),
    });
    ExportLogsServiceResponse { partial_success }.encode_to_vec()
}
