//! Takes from the linked plugin the exports that it has only because proxy-wasm's SDK defines all callbacks.
//!
//! In comes the module as the linker wrote it; out goes the module that users get, on its way to the target folder. An
//! export that is not in [`NEEDED`] is dropped, and with it the code and the imports that nothing else reaches.
//!
//! Envoy decides by a callback's export alone whether it calls: as an HTTP filter, the SDK's empty callbacks would have it
//! enter the virtual machine for headers, each chunk of a body, and trailers, in both directions, for nothing.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use walrus::{ModuleConfig, passes::gc};

/// What the plugin exports, each for a reason.
pub const NEEDED: [&str; 12] = [
    // Where the host reads and writes what is handed over.
    "memory",
    // Runs once in each machine, and registers the root context.
    "_initialize",
    // Never called; says by its name which calls the host is to provide.
    "proxy_abi_version_0_2_1",
    // Where the host puts what it returns. It prefers `malloc`, which the SDK does not export.
    "proxy_on_memory_allocate",
    // The life of the root context, and in a filter chain that of each request's; without `proxy_on_delete`, the SDK would
    // keep them all.
    "proxy_on_context_create",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_done",
    "proxy_on_delete",
    // What the plugin does: a request is finished, batches become old, the collector has answered.
    "proxy_on_log",
    "proxy_on_tick",
    "proxy_on_http_call_response",
];

/// The module without the exports that are not [`NEEDED`], and without what only they reached.
///
/// Function names stay if there are any. The list of the compilers that made the module (`producers`) goes, because it would
/// now name a tool more.
///
/// # Errors
/// When `wasm` is not a valid module, or lacks an export that is needed.
pub fn keep_needed(wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut module = ModuleConfig::new()
        .generate_producers_section(false)
        .parse(wasm)
        .context("the linked module cannot be read")?;
    let present: BTreeSet<String> = module.exports.iter().map(|export| export.name.clone()).collect();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !present.contains(*name)).collect();
    ensure!(missing.is_empty(), "the linked module does not export {}", missing.join(", "));
    for name in present.iter().filter(|name| !NEEDED.contains(&name.as_str())) {
        module.exports.remove(name)?;
    }
    gc::run(&mut module);
    Ok(module.emit_wasm())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unneeded_exports_go_with_what_only_they_reach() {
        let body = r#"
            (import "env" "proxy_log" (func $log))
            (import "env" "proxy_get_property" (func $get_property))
            (func $reached (call $log))
            (func $unreached (call $get_property))
            (func $hook (call $reached))
            (func (export "proxy_on_request_body") (call $reached) (call $unreached))"#;
        let slim = keep_needed(&module(body, &NEEDED)).unwrap();
        let module = ModuleConfig::new().parse(&slim).unwrap();

        let exports: BTreeSet<&str> = module.exports.iter().map(|export| export.name.as_str()).collect();
        assert_eq!(exports, BTreeSet::from(NEEDED));
        let imports: Vec<&str> = module.imports.iter().map(|import| import.name.as_str()).collect();
        assert_eq!(imports, ["proxy_log"]);
        let names: BTreeSet<&str> =
            module.funcs.iter().filter_map(|function| function.name.as_deref()).collect();
        assert_eq!(names, BTreeSet::from(["log", "reached", "hook"]));
    }

    #[test]
    fn a_missing_export_is_named() {
        let (left_out, rest) = NEEDED.split_last().unwrap();
        let error = keep_needed(&module("(func $hook)", rest)).unwrap_err();
        assert_eq!(error.to_string(), format!("the linked module does not export {left_out}"));
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let error = keep_needed(b"#!/bin/sh").unwrap_err();
        assert_eq!(error.to_string(), "the linked module cannot be read");
    }

    /// `body`, which defines `$hook`, with these exports.
    fn module(body: &str, exports: &[&str]) -> Vec<u8> {
        let exports: String = exports
            .iter()
            .map(|name| match *name {
                "memory" => r#"(memory (export "memory") 1)"#.to_owned(),
                _ => format!(r#"(export "{name}" (func $hook))"#),
            })
            .collect();
        wat::parse_str(format!("(module {body} {exports})")).unwrap()
    }
}
