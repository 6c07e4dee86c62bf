//! The parties around the plugin, each a small module: real Envoy with the plugin in it, the collector or a receiver that
//! keeps what it is sent, the application behind Envoy, and the clients in front. The demo and the end-to-end tests put
//! them together. Everything listens on loopback, in the tests on ports that the system chose.

pub mod api;
pub mod bootstrap;
pub mod collector;
pub mod cpu;
pub mod envoy;
pub mod h2load;
pub mod interrupt;
pub mod inventory;
pub mod load;
pub mod otlp;
pub mod paced;
pub mod port;
pub mod process;
pub mod receiver;
mod server;
pub mod sink;
pub mod steady;
pub mod upstream;
pub mod wait;
