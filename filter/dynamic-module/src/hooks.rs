//! The functions that Envoy calls: pointers become references here, and no panic goes further than this.
//!
//! Source: Envoy, `source/extensions/dynamic_modules/abi/abi.h`, "Event Hooks" of access loggers and bootstrap extensions.
#![allow(unsafe_code, reason = "the ABI is C's: it passes pointers")]

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;

use crate::abi::{
    Buffer, DOWNSTREAM_END, EnvoyPtr, Header, Level, Proxy, Stream, VERSION, elements, write_log,
};
use crate::exporter::{Exporter, Response};
use crate::logger::{Configuration, Logger};
use crate::panic::caught;

/// `envoy_dynamic_module_type_http_callout_result_Success`: there is an answer.
const ANSWERED: u32 = 0;

/// What Envoy hands back with each call of a hook: a `Box` or an `Arc` of ours.
type ModulePtr = *const c_void;

/// Envoy calls back by this, with the context that it has given.
type EventCallback = extern "C" fn(*mut c_void);

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    VERSION.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_access_logger_config_new(
    _config: EnvoyPtr,
    _name: Buffer,
    text: Buffer,
) -> ModulePtr {
    // SAFETY: Envoy's text is there during the call.
    let text = unsafe { text.bytes() };
    let configuration = caught(|| match Configuration::read(text, Exporter::current()) {
        Ok(configuration) => Some(Arc::new(configuration)),
        Err(reason) => {
            write_log(Level::Error, &format!("offpath: {reason}"));
            None
        }
    });
    configuration.flatten().map_or(ptr::null(), |configuration| Arc::into_raw(configuration).cast())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_access_logger_config_destroy(configuration: ModulePtr) {
    // SAFETY: it is what `config_new` has returned, and Envoy uses it no more.
    let configuration = unsafe { Arc::from_raw(configuration.cast::<Configuration>()) };
    caught(|| drop(configuration));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_access_logger_new(
    configuration: ModulePtr,
    _logger: EnvoyPtr,
) -> ModulePtr {
    // SAFETY: it is what `config_new` has returned; the count goes up for the one that is dropped here.
    let configuration = unsafe {
        Arc::increment_strong_count(configuration.cast::<Configuration>());
        Arc::from_raw(configuration.cast::<Configuration>())
    };
    let logger = caught(|| Box::new(Logger::new(&configuration)));
    logger.map_or(ptr::null(), |logger| Box::into_raw(logger).cast_const().cast())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_access_logger_log(
    stream: EnvoyPtr,
    logger: ModulePtr,
    log_type: u32,
) {
    if log_type != DOWNSTREAM_END {
        return;
    }
    // SAFETY: it is what `logger_new` has returned; Envoy calls on that thread only, and not while it does already.
    let logger = unsafe { &mut *logger.cast_mut().cast::<Logger>() };
    // SAFETY: Envoy's, for this call.
    let stream = unsafe { Stream::new(stream) };
    if caught(|| logger.log(&stream)).is_none() {
        caught(|| logger.recover());
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_access_logger_destroy(logger: ModulePtr) {
    // SAFETY: it is what `logger_new` has returned, and Envoy uses it no more.
    let logger = unsafe { Box::from_raw(logger.cast_mut().cast::<Logger>()) };
    caught(|| drop(logger));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_new(
    config: EnvoyPtr,
    _name: Buffer,
    _text: Buffer,
) -> ModulePtr {
    // SAFETY: Envoy's, on its main thread.
    let proxy = unsafe { Proxy::new(config) };
    let exporter = caught(|| {
        let exporter = Exporter::start(proxy);
        if exporter.is_none() {
            write_log(
                Level::Error,
                "offpath: is a bootstrap extension of this Envoy already; allowed is one for all loggers",
            );
        }
        exporter
    });
    exporter.flatten().map_or(ptr::null(), |exporter| Arc::into_raw(exporter).cast())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_destroy(exporter: ModulePtr) {
    // SAFETY: it is what `config_new` has returned, and Envoy uses it no more.
    let exporter = unsafe { Arc::from_raw(exporter.cast::<Exporter>()) };
    caught(|| exporter.end());
}

/// The extension's own part, of which Envoy wants one for each configuration: the same again.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_new(
    exporter: ModulePtr,
    _extension: EnvoyPtr,
) -> ModulePtr {
    exporter
}

/// # Safety
/// The pointer is what `config_new` has returned, and not destroyed.
unsafe fn exporter<'e>(exporter: ModulePtr) -> &'e Exporter {
    // SAFETY: the caller's.
    unsafe { &*exporter.cast::<Exporter>() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_scheduled(
    _config: EnvoyPtr,
    module: ModulePtr,
    _event: u64,
) {
    // SAFETY: Envoy calls with what it was given.
    let exporter = unsafe { exporter(module) };
    caught(|| exporter.awoken());
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_timer_fired(
    _config: EnvoyPtr,
    module: ModulePtr,
    _timer: EnvoyPtr,
) {
    // SAFETY: Envoy calls with what it was given.
    let exporter = unsafe { exporter(module) };
    caught(|| exporter.tick());
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_http_callout_done(
    _config: EnvoyPtr,
    module: ModulePtr,
    token: u64,
    result: u32,
    headers: *const Header,
    headers_size: usize,
    body: *const Buffer,
    body_size: usize,
) {
    // SAFETY: Envoy calls with what it was given, and with an answer that is there during the call.
    let (exporter, response) = unsafe {
        let headers = elements(headers, headers_size).iter().map(|header| header.bytes()).collect();
        let body = elements(body, body_size).iter().map(|slice| slice.bytes()).collect();
        (exporter(module), Response { headers, body })
    };
    caught(|| exporter.answered(token, (result == ANSWERED).then_some(response)));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_shutdown(
    _extension: EnvoyPtr,
    module: ModulePtr,
    complete: EventCallback,
    context: *mut c_void,
) {
    /// Envoy's own, handed back.
    struct Context(*mut c_void);
    // SAFETY: it is handed back on the main thread, where it came from.
    unsafe impl Send for Context {}
    let context = Context(context);
    // SAFETY: Envoy calls with what it was given.
    let exporter = unsafe { exporter(module) };
    caught(|| {
        exporter.shut_down(Box::new(move || {
            let Context(context) = { context };
            complete(context);
        }));
    });
}

macro_rules! nothing_to_do {
    ($($(#[$doc:meta])* $name:ident($($type:ty),*);)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] extern "C" fn $name($(_: $type),*) {})*
    };
}

// Envoy does not load a bootstrap extension that lacks one of them.
nothing_to_do! {
    envoy_dynamic_module_on_bootstrap_extension_server_initialized(EnvoyPtr, ModulePtr);
    envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized(EnvoyPtr, ModulePtr);
    envoy_dynamic_module_on_bootstrap_extension_drain_started(EnvoyPtr, ModulePtr);
    envoy_dynamic_module_on_bootstrap_extension_destroy(ModulePtr);
    envoy_dynamic_module_on_bootstrap_extension_file_changed(EnvoyPtr, ModulePtr, Buffer, u32);
    envoy_dynamic_module_on_bootstrap_extension_cluster_add_or_update(EnvoyPtr, ModulePtr, Buffer);
    envoy_dynamic_module_on_bootstrap_extension_cluster_removal(EnvoyPtr, ModulePtr, Buffer);
    envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update(EnvoyPtr, ModulePtr, Buffer);
    envoy_dynamic_module_on_bootstrap_extension_listener_removal(EnvoyPtr, ModulePtr, Buffer);
}

/// offpath has no page in Envoy's admin interface, and is never asked for one.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_admin_request(
    _extension: EnvoyPtr,
    _module: ModulePtr,
    _method: Buffer,
    _path: Buffer,
    _body: Buffer,
) -> u32 {
    404
}
