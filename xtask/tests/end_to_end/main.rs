//! offpath in real Envoy. Each test has an Envoy of its own, an application behind it, and the collector, or in its place
//! a receiver that keeps what it is sent. Both are built before, so that nothing stale is tested; Envoy is fetched once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

mod attributes;
mod both_shells;
mod configuration;
mod delivery;
mod dialects;
mod drops;
mod dynamic_module;
mod exactly_once;
mod exemplars;
mod faults;
mod grpc;
mod hostile;
mod loss;
mod otlp;
mod otlp_decoder;
mod proxy;
mod redaction;
mod sampling;
mod storage;
mod traces;
