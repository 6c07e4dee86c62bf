//! The parties around the plugin, each a small module: real Envoy with the plugin in it, the collector or a receiver that
//! keeps what it is sent, the application behind Envoy, and the clients in front. The demo and the end-to-end tests put
//! them together. Everything listens on loopback, on ports that the system chose.

pub mod api;
pub mod bootstrap;
pub mod collector;
pub mod envoy;
pub mod load;
pub mod process;
pub mod receiver;
mod server;
pub mod upstream;
pub mod wait;
