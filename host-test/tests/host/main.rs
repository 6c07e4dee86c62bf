//! The host's own tests: encodings and statuses of each host call, shown with small guests that know no plugin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod probe;
mod properties;
