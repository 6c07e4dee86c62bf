//! The work behind `cargo xtask`, as a library, so that the end-to-end tests in `tests/` use the same parts as the demo.
//!
//! From top to bottom: what a machine must have, what is built and fetched, what is run, and the commands over them.

pub mod need;
pub mod project;

pub mod artefacts;
pub mod fetch;

pub mod harness;

pub mod bench;
pub mod check;
pub mod demo;
pub mod faults;
pub mod incident;
pub mod rules;
pub mod soak;
