//! The exports of a module without the SDK: nothing is entered at all but on configuration and for a finished request.
//!
//! Envoy gives each stream of an HTTP filter a context of its own; this module does not look at which one it is in.
#![allow(unsafe_code, reason = "the ABI is exported by name, and the host writes where it is told to")]

use std::cell::RefCell;

use crate::{host, probe::Probe};

/// More than any call of the probes returns.
const ARENA_BYTES: usize = 64 * 1024;

thread_local! {
    static PROBE: RefCell<Probe> = RefCell::new(Probe::default());
    static ARENA: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the host calls this once, before everything else.
    unsafe { __wasm_call_ctors() };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_context: u32, size: usize) -> bool {
    match Probe::configure(&host::configuration(size)) {
        Ok(probe) => {
            if probe.uses_arena {
                ARENA.with_borrow_mut(|arena| *arena = vec![0; ARENA_BYTES]);
            }
            PROBE.set(probe);
            true
        }
        Err(reason) => {
            host::log_error(&reason);
            false
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(_context: u32) {
    PROBE.with_borrow(Probe::log);
}

/// One call's result at a time is alive here, so that an arena never holds more than one.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let in_arena = ARENA.with_borrow_mut(|arena| arena.get_mut(..size).map(<[u8]>::as_mut_ptr));
    in_arena.unwrap_or_else(|| {
        let mut bytes = Vec::with_capacity(size);
        let data = bytes.as_mut_ptr();
        std::mem::forget(bytes);
        data
    })
}

/// The end of what [`proxy_on_memory_allocate`] gave.
pub(crate) fn give_back(data: *mut u8, len: usize) {
    if ARENA.with_borrow(|arena| arena.is_empty()) {
        // SAFETY: it was allocated above, with this capacity.
        drop(unsafe { Vec::from_raw_parts(data, 0, len) });
    }
}
