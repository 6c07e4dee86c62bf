//! What a module may import and must export to be loaded by Envoy.
//!
//! In comes a compiled module, out go the names that stand in the way. The lists are those of proxy-wasm-cpp-host at
//! the time of Envoy 1.33, the oldest release that the plugin supports: an import missing there fails the load.

use wasmtime::{ExternType, Module};

/// `env`, without the `proxy_` prefix: ABI 0.2.1.
const PROXY: [&str; 39] = [
    "log",
    "get_status",
    "set_property",
    "get_property",
    "send_local_response",
    "get_shared_data",
    "set_shared_data",
    "register_shared_queue",
    "resolve_shared_queue",
    "dequeue_shared_queue",
    "enqueue_shared_queue",
    "get_header_map_value",
    "add_header_map_value",
    "replace_header_map_value",
    "remove_header_map_value",
    "get_header_map_pairs",
    "set_header_map_pairs",
    "get_header_map_size",
    "get_buffer_status",
    "get_buffer_bytes",
    "set_buffer_bytes",
    "http_call",
    "grpc_call",
    "grpc_stream",
    "grpc_close",
    "grpc_cancel",
    "grpc_send",
    "set_tick_period_milliseconds",
    "get_current_time_nanoseconds",
    "define_metric",
    "increment_metric",
    "record_metric",
    "get_metric",
    "set_effective_context",
    "done",
    "call_foreign_function",
    "continue_stream",
    "close_stream",
    "get_log_level",
];

/// `wasi_snapshot_preview1` (and `wasi_unstable`).
const WASI: [&str; 18] = [
    "fd_write",
    "fd_read",
    "fd_seek",
    "fd_close",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "environ_get",
    "environ_sizes_get",
    "args_get",
    "args_sizes_get",
    "clock_time_get",
    "random_get",
    "sched_yield",
    "poll_oneoff",
    "proc_exit",
    "path_open",
    "fd_prestat_get",
    "fd_prestat_dir_name",
];

/// The imports of `module` that Envoy 1.33 does not provide, as `module::name`.
#[must_use]
pub fn imports_unknown_to_envoy(module: &Module) -> Vec<String> {
    module
        .imports()
        .filter(|import| match (import.module(), import.ty()) {
            ("env", ExternType::Func(_)) => {
                !import.name().strip_prefix("proxy_").is_some_and(|name| PROXY.contains(&name))
            }
            ("wasi_snapshot_preview1" | "wasi_unstable", ExternType::Func(_)) => {
                !WASI.contains(&import.name())
            }
            _ => true,
        })
        .map(|import| format!("{}::{}", import.module(), import.name()))
        .collect()
}

/// The exports that Envoy needs and `module` does not have: an ABI version, a memory and an allocator.
#[must_use]
pub fn missing_exports(module: &Module) -> Vec<&'static str> {
    let has = |name: &str| module.get_export(name).is_some();
    let mut missing = Vec::new();
    if !has("proxy_abi_version_0_2_1") {
        missing.push("proxy_abi_version_0_2_1");
    }
    if !has("memory") {
        missing.push("memory");
    }
    if !has("malloc") && !has("proxy_on_memory_allocate") {
        missing.push("proxy_on_memory_allocate");
    }
    missing
}
