//! The host calls that are priced, by raw import: statically known paths, no panics, nothing allocated but by the host.
//! Source: proxy-wasm ABI 0.2.1.
#![allow(unsafe_code, reason = "the ABI passes pointers into this module's memory")]

#[cfg(not(feature = "sdk"))]
use crate::bare::give_back;

const OK: u32 = 0;
const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
const PLUGIN_CONFIGURATION: u32 = 7;
const COUNTER: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_property(
        path: *const u8,
        path_len: usize,
        value: *mut *mut u8,
        value_len: *mut usize,
    ) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_len: usize,
        bytes: *mut *mut u8,
        bytes_len: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, pairs: *mut *mut u8, pairs_len: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *mut *mut u8,
        value_len: *mut usize,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_len: usize,
        argument: *const u8,
        argument_len: usize,
        result: *mut *mut u8,
        result_len: *mut usize,
    ) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_log(level: u32, message: *const u8, message_len: usize) -> u32;
}

/// What the host returned: memory that it got from this module.
struct Returned {
    data: *mut u8,
    len: usize,
}

impl Returned {
    fn as_bytes(&self) -> &[u8] {
        if self.data.is_null() {
            return &[];
        }
        // SAFETY: the host wrote `len` bytes where this module told it to.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if !self.data.is_null() {
            give_back(self.data, self.len);
        }
    }
}

/// The SDK's allocator hands out boxed slices.
#[cfg(feature = "sdk")]
fn give_back(data: *mut u8, len: usize) {
    // SAFETY: `proxy_on_memory_allocate(len)` of the SDK leaked a boxed slice of exactly that size.
    drop(unsafe { Vec::from_raw_parts(data, 0, len) });
}

fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Returned> {
    let mut returned = Returned { data: std::ptr::null_mut(), len: 0 };
    (call(&raw mut returned.data, &raw mut returned.len) == OK).then_some(returned)
}

/// How many bytes a call returned; `None` when it failed.
fn looked_at(returned: Option<Returned>) -> Option<usize> {
    let returned = returned?;
    Some(std::hint::black_box(returned.as_bytes()).len())
}

pub(crate) fn property(path: &[u8]) -> Option<usize> {
    // SAFETY: all pointers are valid for the call.
    looked_at(returned(|data, len| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, len) }))
}

fn headers(map: u32) -> Option<usize> {
    // SAFETY: both pointers are valid for the call.
    looked_at(returned(|data, len| unsafe { proxy_get_header_map_pairs(map, data, len) }))
}

pub(crate) fn request_headers() -> Option<usize> {
    headers(REQUEST_HEADERS)
}

pub(crate) fn response_headers() -> Option<usize> {
    headers(RESPONSE_HEADERS)
}

pub(crate) fn request_header(name: &str) -> Option<usize> {
    // SAFETY: all pointers are valid for the call.
    looked_at(returned(|data, len| unsafe {
        proxy_get_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len(), data, len)
    }))
}

fn foreign(name: &str, argument: &[u8]) -> Option<Returned> {
    // SAFETY: all pointers are valid for the call.
    returned(|data, len| unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), argument.as_ptr(), argument.len(), data, len)
    })
}

/// Compiles a CEL expression; the answer is its token.
pub(crate) fn create_expression(text: &str) -> Option<[u8; 4]> {
    foreign("expr_create", text.as_bytes())?.as_bytes().try_into().ok()
}

pub(crate) fn evaluate(token: [u8; 4]) -> Option<usize> {
    looked_at(foreign("expr_evaluate", &token))
}

pub(crate) fn now_unix_nano() -> u64 {
    let mut now = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { proxy_get_current_time_nanoseconds(&raw mut now) };
    now
}

pub(crate) fn define_counter(name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: all pointers are valid for the call.
    let status = unsafe { proxy_define_metric(COUNTER, name.as_ptr(), name.len(), &raw mut id) };
    (status == OK).then_some(id)
}

pub(crate) fn increment(counter: u32) -> bool {
    // SAFETY: no pointers.
    unsafe { proxy_increment_metric(counter, 1) == OK }
}

pub(crate) fn configuration(size: usize) -> String {
    if size == 0 {
        return String::new();
    }
    // SAFETY: both pointers are valid for the call.
    let bytes =
        returned(|data, len| unsafe { proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, size, data, len) });
    bytes.map(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned()).unwrap_or_default()
}

pub(crate) fn log_error(message: &str) {
    log(4, message);
}

pub(crate) fn log_info(message: &str) {
    log(2, message);
}

fn log(level: u32, message: &str) {
    // SAFETY: the pointer is valid for the call.
    unsafe { proxy_log(level, message.as_ptr(), message.len()) };
}
