//! A probe: a module that does, for each finished request, what its configuration says and nothing else, so that
//! `cargo xtask bench` can tell what a host call costs inside Envoy.
//!
//! A configuration is text, parsed by [`script`]; `host` makes the calls. Without the feature `sdk` the module has only
//! the exports in `bare`; with it, those of proxy-wasm's SDK (`sdk`). What a call returns is looked at and dropped.
//! [`stopwatch`] tells how long the calls took.

pub mod script;

pub mod stopwatch;

#[cfg(target_family = "wasm")]
mod host;

#[cfg(target_family = "wasm")]
mod probe;

#[cfg(all(target_family = "wasm", not(feature = "sdk")))]
mod bare;

#[cfg(all(target_family = "wasm", feature = "sdk"))]
mod sdk;
