//! What `envoy/` ships, as far as it can be checked without an Envoy: it is YAML, and the plugin takes its configuration.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

use std::{fs, path::PathBuf};

use offpath_filter::config::Config;
use serde_json::{Value, json};

fn documents(file: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../envoy").join(file);
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn assert_accepted(configuration: &str) {
    if let Err(error) = Config::parse(configuration.as_bytes()) {
        panic!("the plugin refuses {configuration}: {error}");
    }
}

#[test]
fn the_plugin_takes_the_configuration_of_both_envoy_files() {
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    for (file, plugin) in [("access-logger.yaml", "access_log"), ("http-filter.yaml", "http_filters")] {
        let bootstrap = &documents(file)[0];
        let pointer = format!("{manager}/{plugin}/0/typed_config/config/configuration/value");
        assert_accepted(bootstrap.pointer(&pointer).unwrap().as_str().unwrap());
    }
}

#[test]
fn both_envoy_files_differ_only_in_how_they_load_the_plugin() {
    let [mut logger, mut filter] =
        ["access-logger.yaml", "http-filter.yaml"].map(|file| documents(file).remove(0));
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let [logger, filter] = [&mut logger, &mut filter].map(|tree| {
        let plugin = {
            let manager = tree.pointer_mut(manager).unwrap().as_object_mut().unwrap();
            let logger = manager.remove("access_log");
            let filters = manager["http_filters"].as_array_mut().unwrap();
            let plugin = logger.map_or_else(|| filters.remove(0), |mut loggers| loggers[0].take());
            plugin["typed_config"]["config"].clone()
        };
        (tree.clone(), plugin)
    });
    assert_eq!(logger.0, filter.0);
    assert_eq!(logger.1["configuration"], filter.1["configuration"]);
    assert_eq!(logger.1["failure_policy"], "FAIL_RELOAD");
    assert_eq!(
        filter.1["failure_policy"], "FAIL_OPEN",
        "a filter that reloads answers 503 while it backs off"
    );
}

#[test]
fn the_dynamic_modules_file_differs_only_in_how_it_loads_the_module() {
    let [mut logger, mut module] =
        ["access-logger.yaml", "dynamic-module.yaml"].map(|file| documents(file).remove(0));
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let [plugin, native] = [&mut logger, &mut module].map(|tree| {
        let manager = tree.pointer_mut(manager).unwrap().as_object_mut().unwrap();
        manager.remove("access_log").unwrap()[0]["typed_config"].clone()
    });
    let extension = module.as_object_mut().unwrap().remove("bootstrap_extensions").unwrap();
    // Only virtual machines have a name to be told by.
    let tags = logger["stats_config"]["stats_tags"].as_array_mut().unwrap();
    tags.retain(|tag| tag["tag_name"] != "vm");
    // Of wasm plugins' statistics Envoy takes the prefix off by itself.
    let prefix = module["layered_runtime"]["layers"].as_array_mut().unwrap().remove(0);
    let strips_prefix = "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix";
    assert_eq!(prefix["static_layer"], json!({ strips_prefix: true }));
    assert_eq!(logger, module);

    assert_eq!(plugin["config"]["configuration"], native["logger_config"]);
    assert_accepted(native["logger_config"]["value"].as_str().unwrap());
    let [extension] = extension.as_array().unwrap().as_slice() else { panic!("{extension}") };
    let extension = &extension["typed_config"];
    for part in [extension, &native] {
        let loaded = &part["dynamic_module_config"];
        assert_eq!(loaded["module"]["local"]["filename"], "target/liboffpath.so");
        assert_eq!(loaded["do_not_close"], true, "Envoy would unload what it still calls");
    }
    assert_eq!(
        extension["dynamic_module_config"]["metrics_namespace"], "wasmcustom",
        "the dashboards' and the alerts' names"
    );
}

#[test]
fn the_collectors_cluster_has_a_connection_for_each_call() {
    for file in ["access-logger.yaml", "http-filter.yaml", "dynamic-module.yaml"] {
        let bootstrap = &documents(file)[0];
        let bounds = bootstrap.pointer("/static_resources/clusters/1/circuit_breakers/thresholds/0").unwrap();
        assert!(bounds["max_connections"].as_u64() >= bounds["max_requests"].as_u64(), "{file}: {bounds}");
        assert!(bounds["max_requests"].is_u64(), "{file}: {bounds}");
    }
}

#[test]
fn the_tracer_sends_spans_without_paths_to_the_plugins_collector() {
    // Both files have it: they differ only in how they load the plugin.
    let bootstrap = &documents("access-logger.yaml")[0];
    let manager =
        bootstrap.pointer("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config").unwrap();
    let plugin = manager.pointer("/access_log/0/typed_config/config/configuration/value").unwrap();
    let plugin: Value = serde_json::from_str(plugin.as_str().unwrap()).unwrap();
    let tracing = &manager["tracing"];
    let tracer = &tracing["provider"]["typed_config"];
    let uri = &tracer["http_service"]["http_uri"];
    assert_eq!(uri["cluster"], plugin["collector"]["cluster"]);
    assert!(uri["uri"].as_str().unwrap().ends_with("/v1/traces"), "{uri}");
    assert_eq!(tracer["service_name"], plugin["resource"]["service.name"]);
    assert_eq!(tracing["max_path_tag_length"], 0, "a span would hold the query as it came");
}

#[test]
fn the_plugin_takes_the_configuration_of_the_istio_manifest() {
    let manifest = &documents("istio-wasmplugin.yaml")[0];
    assert_eq!(manifest["kind"], "WasmPlugin");
    assert_eq!(manifest["spec"]["phase"], "STATS");
    assert_eq!(manifest["spec"]["failStrategy"], "FAIL_OPEN");
    assert_accepted(&manifest["spec"]["pluginConfig"].to_string());
}

#[test]
fn the_plugin_takes_the_configuration_of_the_envoy_gateway_manifest_and_its_cluster_is_patched_in() {
    let [policy, patch] = documents("envoy-gateway.yaml").try_into().unwrap();
    assert_eq!(policy["kind"], "EnvoyExtensionPolicy");
    let wasm = &policy["spec"]["wasm"][0];
    assert_eq!(wasm["rootID"], "offpath");
    assert_eq!(wasm["failOpen"], true);
    assert_accepted(&wasm["config"].to_string());

    assert_eq!(patch["kind"], "EnvoyPatchPolicy");
    let cluster = &patch["spec"]["jsonPatches"][0]["operation"]["value"];
    assert_eq!(cluster["name"], wasm["config"]["collector"]["cluster"]);
    let shipped = &documents("access-logger.yaml")[0]["static_resources"]["clusters"][1];
    for same in ["circuit_breakers", "typed_extension_protocol_options"] {
        assert_eq!(cluster[same], shipped[same], "{same} differs from access-logger.yaml");
    }
}
