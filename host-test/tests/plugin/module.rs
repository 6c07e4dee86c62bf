//! The built module itself: what it imports and exports, and that its memory stays small.

use std::collections::BTreeSet;

use offpath_host_test::abi::{imports_unknown_to_envoy, missing_exports};
use offpath_host_test::get;
use serde_json::json;

use crate::support::{assert_accounted_for, plugin_wasm, proxy, secs};

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

#[test]
fn memory_is_flat_under_steady_load() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}}));
    proxy.cluster("otlp").serve(200, std::time::Duration::from_millis(5));
    let mut sizes = Vec::new();
    for round in 0..60 {
        for number in 0..100 {
            proxy.request(get(format!("/{round}/{number}"))).respond(200).unwrap();
        }
        proxy.advance(secs(1)).unwrap();
        sizes.push(proxy.memory_bytes(0));
    }
    assert_accounted_for(&proxy);
    // One page more is the allocator's unevenness; a leak of 25 bytes a request would be more.
    const PAGE_BYTES: u64 = 65_536;
    let grown = sizes[59].saturating_sub(sizes[30]) as u64;
    assert!(grown <= PAGE_BYTES, "memory grows under steady load: {sizes:?}");
}
