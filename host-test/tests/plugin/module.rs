//! The built module itself: what it imports and exports, and that its memory stays small.

use std::collections::BTreeSet;

use offpath_host_test::abi::{imports_unknown_to_envoy, missing_exports};
use offpath_host_test::{Proxy, get};
use serde_json::json;

use crate::support::{assert_accounted_for, dropped, millis, plugin_wasm, proxy, secs};

#[test]
fn the_module_imports_nothing_that_envoy_1_33_lacks() {
    let module = plugin_wasm().module();
    assert_eq!(imports_unknown_to_envoy(module), Vec::<String>::new());
    assert_eq!(missing_exports(module), Vec::<&str>::new());
    assert!(module.imports().count() > 0);
}

/// Envoy enters the virtual machine for each callback that is exported, even one that does nothing.
#[test]
fn the_module_exports_the_callbacks_that_it_uses_and_no_others() {
    let exports: BTreeSet<&str> = plugin_wasm().module().exports().map(|export| export.name()).collect();
    let needed = [
        "_initialize",
        "memory",
        "proxy_abi_version_0_2_1",
        "proxy_on_configure",
        "proxy_on_context_create",
        "proxy_on_delete",
        "proxy_on_done",
        "proxy_on_http_call_response",
        "proxy_on_log",
        "proxy_on_memory_allocate",
        "proxy_on_tick",
        "proxy_on_vm_start",
    ];
    assert_eq!(exports, BTreeSet::from(needed));
}

/// One page more is the allocator's unevenness; a leak of 25 bytes a request would be more.
const PAGE_BYTES: u64 = 65_536;

/// A hundred requests a second for a minute; the machine's memory at the end of each second.
fn memory_over_a_minute(proxy: &mut Proxy, mut each_second: impl FnMut(&mut Proxy, usize)) -> Vec<usize> {
    let mut sizes = Vec::new();
    for second in 0..60 {
        for number in 0..100 {
            proxy.request(get(format!("/{second}/{number}"))).respond(200).unwrap();
        }
        each_second(proxy, second);
        proxy.advance(secs(1)).unwrap();
        sizes.push(proxy.memory_bytes(0));
    }
    assert_accounted_for(proxy);
    sizes
}

#[test]
fn memory_is_flat_under_steady_load() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}}));
    proxy.cluster("otlp").serve(200, millis(5));
    let sizes = memory_over_a_minute(&mut proxy, |_, _| {});
    let grown = sizes[59].saturating_sub(sizes[30]) as u64;
    assert!(grown <= PAGE_BYTES, "memory grows under steady load: {sizes:?}");
}

#[test]
fn memory_is_flat_while_the_queue_is_full_and_calls_fail_in_every_way() {
    for when_full in ["drop_oldest", "drop_newest", "spill"] {
        let mut proxy = proxy(json!({
            "metrics": {"interval": "1s", "temporality": "delta"},
            "batch": {"max_records": 20, "max_bytes": 32_768},
            "queue": {"max_bytes": 65_536, "when_full": when_full},
            "retry": {"initial_backoff": "100ms", "max_backoff": "500ms", "max_elapsed": "2s"},
        }));
        let sizes = memory_over_a_minute(&mut proxy, |proxy, second| {
            let mut cluster = proxy.cluster("otlp");
            match second % 4 {
                0 => drop(cluster.answer_all(503).unwrap()),
                1 => drop(cluster.answer_all(400).unwrap()),
                2 => drop(cluster.answer_all(200).unwrap()),
                _ => {}
            }
        });
        assert!(dropped(&proxy, "rejected") > 0 && proxy.counter("offpath_records_delivered_total") > 0);
        let full = if when_full == "spill" { "spilled" } else { "queue_full" };
        assert!(dropped(&proxy, full) > 0, "{when_full}: the queue was never full");
        let grown = sizes[59].saturating_sub(sizes[30]) as u64;
        assert!(grown <= PAGE_BYTES, "{when_full}: memory grows: {sizes:?}");
    }
}
