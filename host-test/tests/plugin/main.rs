//! The plugin's behaviour: the built module in the host, driven by requests and answers, observed by what it exports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

mod accounting;
mod attributes;
mod batching;
mod capture;
mod clock;
mod configuration;
mod drops;
mod exemplars;
mod faults;
mod histograms;
mod model;
mod module;
mod queue;
mod reconfiguration;
mod records;
mod redaction;
mod retry;
mod routes;
mod sampling;
mod traps;
