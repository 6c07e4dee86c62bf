//! What a module must be like, and what becomes of one that traps.

use offpath_host_test::{PluginModule, Proxy, get};

use crate::probe::{Arg, Probe};

fn compile(body: &str) -> offpath_host_test::Result<PluginModule> {
    let wat = format!(
        r#"(module {body}
             (memory (export "memory") 1)
             (func (export "proxy_abi_version_0_2_1"))
             (func (export "malloc") (param i32) (result i32) (i32.const 1024)))"#
    );
    PluginModule::compile(&wat::parse_str(wat).unwrap())
}

#[test]
fn an_import_that_envoy_lacks_is_named() {
    let imports = r#"
        (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
        (import "env" "proxy_teleport" (func))
        (import "wasi_snapshot_preview1" "path_rename" (func))
        (import "elsewhere" "fd_write" (func))"#;
    let error = compile(imports).unwrap_err().to_string();
    for name in ["env::proxy_teleport", "wasi_snapshot_preview1::path_rename", "elsewhere::fd_write"] {
        assert!(error.contains(name), "{error}");
    }
    assert!(!error.contains("proxy_log"), "{error}");
}

#[test]
fn a_missing_export_is_named() {
    let error = PluginModule::compile(&wat::parse_str("(module)").unwrap()).unwrap_err().to_string();
    for name in ["proxy_abi_version_0_2_1", "memory", "proxy_on_memory_allocate"] {
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_host_function_that_is_not_emulated_traps_with_its_name() {
    let module = compile(
        r#"(import "env" "proxy_grpc_cancel" (func $cancel (param i32) (result i32)))
           (func (export "proxy_on_log") (param i32) (drop (call $cancel (i32.const 1))))"#,
    );
    let mut proxy = Proxy::load(&module.unwrap()).start().unwrap();
    let error = format!("{:?}", proxy.request(get("/")).respond(200).unwrap_err());
    assert!(error.contains("env::proxy_grpc_cancel"), "{error}");
}

#[test]
fn a_hook_that_calls_for_ever_traps() {
    let module = compile(
        r#"(import "env" "proxy_set_tick_period_milliseconds" (func $set (param i32) (result i32)))
           (func (export "proxy_on_log") (param i32) (loop (drop (call $set (i32.const 1))) (br 0)))"#,
    );
    let mut proxy = Proxy::load(&module.unwrap()).start().unwrap();
    let error = format!("{:?}", proxy.request(get("/")).respond(200).unwrap_err());
    assert!(error.contains("host calls, and does not end"), "{error}");
}

#[test]
fn initialization_must_not_call_the_proxy() {
    let module = compile(
        r#"(import "env" "proxy_done" (func $done (result i32)))
           (func (export "_initialize") (drop (call $done)))"#,
    );
    let error = format!("{:?}", Proxy::load(&module.unwrap()).start().err().unwrap());
    assert!(error.contains("`proxy_done` was called from the module's initialization"), "{error}");
}

#[test]
fn a_trap_has_the_guests_backtrace_and_ends_its_machine_only() {
    let module = compile(
        r#"(func $deep_in_the_plugin unreachable)
           (func (export "proxy_on_log") (param i32) (call $deep_in_the_plugin))"#,
    );
    let mut proxy = Proxy::load(&module.unwrap()).workers(2).start().unwrap();
    let error = format!("{:?}", proxy.request(get("/")).respond(200).unwrap_err());
    assert!(error.contains("`proxy_on_log` failed in Worker(0)"), "{error}");
    assert!(error.contains("deep_in_the_plugin"), "{error}");
    assert!(proxy.has_failed(0) && !proxy.has_failed(1));
    // Envoy does not enter a machine that has trapped.
    proxy.request(get("/")).respond(200).unwrap();
}

#[test]
fn growth_of_memory_can_be_refused() {
    let module = compile(
        r#"(func (export "proxy_on_log") (param i32)
             (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)))"#,
    );
    let mut proxy = Proxy::load(&module.unwrap()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    assert_eq!(proxy.memory_bytes(0), 2 * 65536);
    proxy.limit_memory(2 * 65536);
    assert!(proxy.request(get("/")).respond(200).is_err());
}

#[test]
fn wasi_gives_no_files_no_arguments_and_seeded_randomness() {
    let random = |seed| {
        let module = compile(
            r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
               (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
               (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
               (import "wasi_snapshot_preview1" "path_open"
                 (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
               (import "env" "proxy_set_shared_data" (func $share (param i32 i32 i32 i32 i32) (result i32)))
               (data (i32.const 0) "random")
               (data (i32.const 16) "\40\00\00\00\05\00\00\00")
               (data (i32.const 64) "line\n")
               (func (export "proxy_on_log") (param i32)
                 (if (call $args (i32.const 200) (i32.const 204)) (then unreachable))
                 (if (i32.load (i32.const 200)) (then unreachable))
                 (if (i32.ne (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 6) (i32.const 0)
                     (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 200)) (i32.const 44)) (then unreachable))
                 (if (i32.ne (call $random (i32.const 128) (i32.const 65537)) (i32.const 28)) (then unreachable))
                 (if (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 200)) (then unreachable))
                 (if (i32.ne (i32.load (i32.const 200)) (i32.const 5)) (then unreachable))
                 (if (call $random (i32.const 128) (i32.const 8)) (then unreachable))
                 (drop (call $share (i32.const 0) (i32.const 6) (i32.const 128) (i32.const 8) (i32.const 0))))"#,
        );
        let mut proxy = Proxy::load(&module.unwrap()).seed(seed).start().unwrap();
        proxy.request(get("/")).respond(200).unwrap();
        assert_eq!(proxy.log_lines()[0].message, "line");
        proxy.shared_data("random").unwrap()
    };
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
}

#[test]
fn a_hook_that_the_module_does_not_export_is_not_called() {
    let probe = Probe::on_log("proxy_log", &[Arg::Int(2), crate::probe::bytes("line")]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.reconfigure(serde_json::json!({})).unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    assert_eq!(proxy.log_lines().len(), 1);
}
