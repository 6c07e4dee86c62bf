//! The collector's real program, driven from outside: over HTTP, by signals, and by what is done to its files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "in a test, a panic is the way to fail"
)]

mod answers;
mod connections;
mod crash;
mod delivery;
mod drops;
mod files;
mod latency;
mod logs;
mod senders;
mod support;
mod sync;
mod traces;
