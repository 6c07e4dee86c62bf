//! The host's own tests: encodings and statuses of each host call, shown with small guests that know no plugin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod probe;

mod calls;
mod expressions;
mod failure;
mod headers;
mod lifecycle;
mod loading;
mod properties;
mod shared;
mod stats;
