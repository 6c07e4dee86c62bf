//! OTLP's wire format, as much of it as the plugin speaks: protobuf fields written straight into a buffer
//! ([`wire`]), what every request starts with ([`envelope`]), attributes ([`attribute`]), and the answers
//! ([`answer`]). Numbers of fields are those of opentelemetry-proto 1.11.0.
//!
//! Plain values come in, bytes go out to [`crate::batch`]; nothing is dropped here.

pub mod answer;
pub mod attribute;
pub mod envelope;
pub mod wire;
