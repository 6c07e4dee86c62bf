//! The linear memory of the built module over ten million requests, each of which is measured and recorded, while the
//! collector takes each batch as it comes: what `cargo xtask bench memory` runs.
//!
//! The size of a machine's linear memory is exact, the same under wasmtime as in Envoy, and never falls: what is told at the
//! end is the most that there ever was.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement that cannot be set up has nothing to say"
)]

use std::process::ExitCode;
use std::time::Duration;

use offpath_host_test::{PluginModule, Proxy, get};
use serde_json::json;

const REQUESTS: u32 = 10_000_000;

/// From here on the memory must not grow.
const WARM_AFTER: u32 = 100_000;

/// Most that a machine may have.
const MAX_BYTES: usize = 8 << 20;

/// Virtual time between two requests: 5,000 a second.
const PAUSE: Duration = Duration::from_micros(200);

fn main() -> ExitCode {
    let module = PluginModule::built("OFFPATH_WASM", "offpath.wasm", "cargo xtask build").unwrap();
    let mut proxy = Proxy::load(&module).config(json!({"collector": {"cluster": "otlp"}})).start().unwrap();
    proxy.cluster("otlp").serve(200, Duration::from_millis(5));
    let (mut warm_bytes, mut bytes) = (0, 0);
    for number in 1..=REQUESTS {
        proxy.request(get(format!("/orders/{number}?page=2"))).respond(200).unwrap();
        proxy.advance(PAUSE).unwrap();
        if number == WARM_AFTER || number % 1_000_000 == 0 {
            bytes = proxy.memory_bytes(0);
            println!("{number:>10} requests: {:>5} KiB", bytes / 1024);
        }
        if number == WARM_AFTER {
            warm_bytes = bytes;
        }
    }
    let delivered = proxy.counter("offpath_records_delivered_total");
    println!("{delivered} records delivered");
    if bytes > MAX_BYTES || bytes > warm_bytes {
        eprintln!(
            "error: the memory grew from {warm_bytes} to {bytes} bytes; at most {MAX_BYTES} are allowed, and no growth"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
