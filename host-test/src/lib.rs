//! A proxy-wasm host on wasmtime that behaves towards a plugin as Envoy does, with virtual time.
//!
//! A test describes finished [`Request`]s and answers the plugin's HTTP calls; the plugin's answer to both comes back
//! as calls to clusters, stats and log lines. Verbs drive a [`Proxy`], queries observe it, nothing is global:
//!
//! ```no_run
//! use offpath_host_test::{PluginModule, Proxy, get};
//!
//! # fn main() -> offpath_host_test::Result<()> {
//! let module = PluginModule::compile(&std::fs::read("target/offpath.wasm")?)?;
//! let mut proxy = Proxy::load(&module).config(serde_json::json!({"collector": {"cluster": "otlp"}})).start()?;
//! proxy.request(get("/cart/1")).respond(200)?;
//! proxy.advance(std::time::Duration::from_secs(1))?;
//! let call = proxy.cluster("otlp").answer(200)?;
//! assert_eq!(call.path(), "/v1/logs");
//! # Ok(())
//! # }
//! ```
//!
//! The modules, from the outside in: [`proxy`] owns the machines and time, [`request`] and [`stream_info`] say what a
//! request was, [`cluster`] holds the calls out, `vm` is one wasm machine with its contexts, `attributes` and
//! `expressions` read a request the two ways in which Envoy lets a plugin read it, and [`abi`] is the only part that
//! touches guest memory. [`secrets`] is what the plugin must not tell. What the plugin does not use is not emulated: using it is an error that names it.

pub mod proxy;
pub mod request;
pub mod stream_info;

pub mod cluster;
pub mod stats;
pub(crate) mod world;

pub(crate) mod vm;

pub(crate) mod attributes;
pub(crate) mod expressions;

pub mod abi;

pub mod secrets;

pub use abi::{PluginModule, Status};
pub use cluster::{Answer, Call, Cluster};
pub use proxy::{FailurePolicy, Mode, Proxy, ProxyBuilder, VmReloads};
pub use request::{Exchange, Request, get, post};
pub use stream_info::{Headers, StreamInfo};
pub use wasmtime::{Error, Result};
pub use world::{Cel, LogLevel, LogLine, VmRole};
