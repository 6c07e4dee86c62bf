//! The whole `on_log` in the built module: the host's calls and the plugin's work, under wasmtime.
//!
//! The host's part is in it, and is not Envoy's: what is to be compared is one configuration with another. The module is
//! what `OFFPATH_WASM` names, `target/offpath.wasm` otherwise.

use std::time::Duration;

use criterion::Criterion;
use offpath_host_test::{PluginModule, Proxy, get};
use serde_json::{Value, json};

/// Virtual time between two requests.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn define(criterion: &mut Criterion) {
    let module = PluginModule::built("OFFPATH_WASM", "offpath.wasm", "cargo xtask build").unwrap();
    for (name, logs, metrics) in [
        ("all logs and metrics", json!({}), json!({})),
        ("metrics and 5 % of the logs", json!({"sample_ratio": 0.05, "sample_by": "request"}), json!({})),
        ("metrics", json!({"enabled": false}), json!({})),
        ("nothing", json!({"enabled": false}), json!({"enabled": false})),
    ] {
        on_log(criterion, &module, name, &logs, &metrics);
    }
}

fn on_log(criterion: &mut Criterion, module: &PluginModule, name: &str, logs: &Value, metrics: &Value) {
    let config = json!({"collector": {"cluster": "otlp"}, "logs": logs, "metrics": metrics});
    let mut proxy = Proxy::load(module).config(config).start().unwrap();
    proxy.cluster("otlp").serve(200, PAUSE);
    criterion.bench_function(&format!("on_log under wasmtime, {name}/offpath"), |bencher| {
        bencher.iter(|| {
            proxy.request(get("/orders/7?page=2&sort=price")).respond(200).unwrap();
            proxy.advance(PAUSE).unwrap();
        });
    });
}
