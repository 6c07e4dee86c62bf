//! One Envoy with a listener for each variant, and the load generator. Envoy answers the requests itself: an upstream would
//! multiply what the worker does, and with it the noise.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::variant::{Build, Load, Variant};
use crate::{
    bench::{statistics::Summary, traffic},
    fetch::{self, ENVOY_1_40},
    harness::{
        bootstrap::{Bootstrap, Mode},
        cpu::Split,
        envoy::{Envoy, Launch},
        h2load::H2load,
    },
    project::Project,
};

/// In a listener, as in the shipped files.
const HTTP_CONNECTION_MANAGER: &str = "/filter_chains/0/filters/0/typed_config";

/// What a filter that looks at nothing but the end of a stream needs: the SDK wants to know of each context.
const EXPORTS_OF_A_RESTRICTED_FILTER: [&str; 9] = [
    "_initialize",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_tick",
    "proxy_on_log",
    "proxy_on_done",
    "proxy_on_delete",
];

/// What the probes call, and what the standard library does.
const IMPORTS: [&str; 15] = [
    "proxy_get_property",
    "proxy_get_buffer_bytes",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_call_foreign_function",
    "proxy_get_current_time_nanoseconds",
    "proxy_define_metric",
    "proxy_increment_metric",
    "proxy_log",
    "fd_write",
    "random_get",
    "environ_get",
    "environ_sizes_get",
    "proc_exit",
    "clock_time_get",
];

/// All of it.
#[derive(Debug)]
pub(super) struct Stand {
    envoy: Envoy,
    addresses: Vec<SocketAddr>,
    load: H2load,
    _folder: TempDir,
}

impl Stand {
    /// Starts everything.
    pub(super) async fn start(
        project: &Project,
        variants: &[Variant],
        split: &Split,
        clocked: bool,
    ) -> anyhow::Result<Self> {
        let folder = project.temporary_folder()?;
        let mut listeners = Vec::new();
        for (index, variant) in variants.iter().enumerate() {
            listeners.push(listener(project, index, variant, clocked)?);
        }
        let bootstrap = Bootstrap::shipped(project, Mode::AccessLogger)?.with_listeners(listeners)?;
        let binary = fetch::envoy(project, ENVOY_1_40)?;
        let launch = Launch { workers: 1, processor: Some(split.measured) };
        let envoy = Envoy::launch(&binary, &bootstrap, folder.path(), launch).await?;
        let listening = envoy.listeners().await?;
        let addresses = (0..variants.len())
            .map(|index| listening.get(&listener_name(index)).copied())
            .collect::<Option<_>>()
            .context("Envoy does not have all listeners")?;
        Ok(Self { envoy, addresses, load: traffic::generator(folder.path())?, _folder: folder })
    }

    /// Microseconds of the worker's time for each request of a turn.
    pub(super) async fn turn(&mut self, index: usize, rate: u32, duration: Duration) -> anyhow::Result<f64> {
        let address = *self.addresses.get(index).context("no such variant")?;
        let before = self.envoy.thread_times()?;
        let requests = self.load.turn(address, rate, duration).await?;
        let used = self.envoy.thread_times()? - before;
        Ok(used.workers as f64 / 1000.0 / requests as f64)
    }

    /// Whether all calls so far have ended as their probes say.
    ///
    /// # Errors
    /// When some have not.
    pub(super) async fn check(&self) -> anyhow::Result<()> {
        let unexpected = self.envoy.stats(r"^wasmcustom\.probe_unexpected$").await?;
        ensure!(
            unexpected.values().all(|&calls| calls == 0),
            "calls did not end as the probe says: {unexpected:?}; Envoy's log ends so:\n{}",
            self.envoy.last_lines()
        );
        Ok(())
    }

    /// Stops it. Each variant's time by its own clock, if it has told any.
    pub(super) async fn end(mut self) -> anyhow::Result<Vec<Option<Summary>>> {
        self.check().await?;
        self.envoy.stop().await?;
        let log = self.envoy.log()?;
        Ok((0..self.addresses.len()).map(|index| last_told(&log, &listener_name(index))).collect())
    }
}

/// From the last line in which a probe has told its quartiles; in microseconds.
fn last_told(log: &str, name: &str) -> Option<Summary> {
    let told = log.lines().rev().find_map(|line| {
        let mut words = line.split_once("stopwatch ")?.1.split_ascii_whitespace();
        (words.next()? == name).then(|| words.map_while(|word| word.parse::<f64>().ok()).collect::<Vec<_>>())
    })?;
    let [_count, first_quartile, median, third_quartile] = <[f64; 4]>::try_from(told).ok()?;
    Some(Summary {
        first_quartile: first_quartile / 1000.0,
        median: median / 1000.0,
        third_quartile: third_quartile / 1000.0,
    })
}

fn listener_name(index: usize) -> String {
    format!("probe-{index}")
}

/// The shipped listener with a probe in the plugin's place.
fn listener(project: &Project, index: usize, variant: &Variant, clocked: bool) -> anyhow::Result<Value> {
    let (mode, build) = match variant.load {
        Load::Nothing => (Mode::AccessLogger, None),
        Load::Logger(build) => (Mode::AccessLogger, Some(build)),
        Load::Filter(build) | Load::RestrictedFilter(build) => (Mode::HttpFilter, Some(build)),
    };
    let mut bootstrap = Bootstrap::shipped(project, mode)?.without_tracing()?;
    if let Some(build) = build {
        let module = match build {
            Build::Bare => project.probe(),
            Build::Sdk => project.sdk_probe(),
        };
        set_probe(bootstrap.plugin("")?, &module, index, variant, clocked);
    }
    let mut listener = bootstrap.at("/static_resources/listeners/0")?.take();
    let mut set = |pointer: &str, value: Value| -> anyhow::Result<()> {
        *listener.pointer_mut(pointer).with_context(|| format!("a listener has nothing at `{pointer}`"))? =
            value;
        Ok(())
    };
    set("/name", json!(listener_name(index)))?;
    set(
        &format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes"),
        traffic::direct_responses(),
    )?;
    if build.is_none() {
        set(&format!("{HTTP_CONNECTION_MANAGER}/access_log"), json!([]))?;
    }
    Ok(listener)
}

/// A virtual machine of its own, by a `vm_id` of its own.
fn set_probe(plugin: &mut Value, module: &Path, index: usize, variant: &Variant, clocked: bool) {
    let stopwatch = if clocked { format!("stopwatch {}\n", listener_name(index)) } else { String::new() };
    *plugin = json!({
        "name": listener_name(index),
        "failure_policy": plugin.get("failure_policy"),
        "vm_config": {
            "vm_id": listener_name(index),
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": module}},
        },
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": format!("{stopwatch}{}", variant.script),
        },
    });
    if let (Load::RestrictedFilter(_), Some(plugin)) = (variant.load, plugin.as_object_mut()) {
        let allowed: serde_json::Map<String, Value> = EXPORTS_OF_A_RESTRICTED_FILTER
            .iter()
            .chain(&IMPORTS)
            .map(|name| ((*name).to_owned(), json!({})))
            .collect();
        plugin.insert("capability_restriction_config".to_owned(), json!({"allowed_capabilities": allowed}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_probe_counts() {
        let log = "[x] wasm log: stopwatch probe-1 500 1000 2000 3000\n\
                   [x] wasm log: stopwatch probe-1 1000 1010 2010 3010\n\
                   [x] wasm log: stopwatch probe-11 500 1 1 1\n";
        assert_eq!(last_told(log, "probe-1").unwrap().median, 2.01);
        assert_eq!(last_told(log, "probe-2"), None);
    }
}
