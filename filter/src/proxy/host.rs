//! The host calls that the plugin makes.
//!
//! Imported directly where the SDK's own functions would panic on a status they do not expect, or allocate for each
//! call; a failed call is `None` here. Calls to clusters go through the SDK, whose dispatcher must know their tokens.
//! Source: proxy-wasm ABI 0.2.1.
#![allow(unsafe_code, reason = "the ABI passes pointers into this module's memory")]

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType};

use crate::ledger::Stat;

const OK: u32 = 0;

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
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        value: *mut *mut u8,
        value_len: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        version: u32,
    ) -> u32;
    fn proxy_done() -> u32;
}

/// Takes what a host call returns by pointer and length; `None` for a failed call.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let (mut data, mut len) = (std::ptr::null_mut(), 0);
    if call(&raw mut data, &raw mut len) != OK {
        return None;
    }
    if data.is_null() {
        return Some(Vec::new());
    }
    // SAFETY: the host wrote `len` bytes into memory that it got from this module's `proxy_on_memory_allocate(len)`,
    // which allocates a byte slice of exactly that size and gives it away.
    Some(unsafe { Vec::from_raw_parts(data, len, len) })
}

fn buffer(kind: BufferType, max_len: usize) -> Option<Vec<u8>> {
    // SAFETY: both pointers are valid for the call.
    returned(|data, len| unsafe { proxy_get_buffer_bytes(kind as u32, 0, max_len, data, len) })
}

fn foreign(name: &str, argument: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: all pointers are valid for the call.
    returned(|data, len| unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), argument.as_ptr(), argument.len(), data, len)
    })
}

/// A property by its NUL-separated path; `None` when the host has none.
pub(super) fn property(path: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: all pointers are valid for the call.
    returned(|data, len| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, len) })
}

/// A property that is text; empty when the host has none.
pub(super) fn text_property(path: &[u8]) -> String {
    property(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// All headers of the current stream's request, as serialized pairs; empty when it has none.
pub(super) fn request_headers() -> Option<Vec<u8>> {
    // SAFETY: both pointers are valid for the call.
    returned(|data, len| unsafe { proxy_get_header_map_pairs(MapType::HttpRequestHeaders as u32, data, len) })
}

/// The plugin's configuration; empty when there is none.
pub(super) fn plugin_configuration(size: usize) -> Vec<u8> {
    if size == 0 { Vec::new() } else { buffer(BufferType::PluginConfiguration, size).unwrap_or_default() }
}

/// The status of the answer at hand.
pub(super) fn answer_status() -> Option<u16> {
    str::from_utf8(&answer_header(b":status")?).ok()?.parse().ok()
}

/// A header of the answer at hand.
pub(super) fn answer_header(name: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: all pointers are valid for the call.
    returned(|data, len| unsafe {
        proxy_get_header_map_value(
            MapType::HttpCallResponseHeaders as u32,
            name.as_ptr(),
            name.len(),
            data,
            len,
        )
    })
}

/// The first `max_len` bytes of the answer at hand.
pub(super) fn answer_body(max_len: usize) -> Vec<u8> {
    if max_len == 0 {
        Vec::new()
    } else {
        buffer(BufferType::HttpCallResponseBody, max_len).unwrap_or_default()
    }
}

/// The time.
pub(super) fn now_unix_nano() -> u64 {
    let mut now = 0;
    // SAFETY: the pointer is valid for the call. It cannot fail; if it did, the time would be 1970.
    unsafe { proxy_get_current_time_nanoseconds(&raw mut now) };
    now
}

/// How often `on_tick` is called.
pub(super) fn set_tick_period(period: Duration) {
    // SAFETY: no pointers.
    unsafe { proxy_set_tick_period_milliseconds(u32::try_from(period.as_millis()).unwrap_or(u32::MAX)) };
}

/// Tells the host that a root context that it wants gone is ready.
pub(super) fn done() {
    // SAFETY: no pointers.
    unsafe { proxy_done() };
}

/// Begins a call; its answer will name the token. `None` when the cluster is unknown or has nobody in it.
pub(super) fn dispatch(
    cluster: &str,
    headers: &[(String, String)],
    body: &[u8],
    timeout: Duration,
) -> Option<u32> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    hostcalls::dispatch_http_call(cluster, headers, Some(body), Vec::new(), timeout).ok()
}

/// A CEL expression that the host has compiled; it belongs to the root context.
pub(super) struct Expression {
    token: [u8; 4],
}

impl Expression {
    /// Compiles `text`; `None` when the host cannot.
    pub(super) fn create(text: &str) -> Option<Self> {
        let token = foreign("expr_create", text.as_bytes())?;
        Some(Self { token: token.try_into().ok()? })
    }

    /// Evaluates it for the current stream; `None` when that fails.
    pub(super) fn evaluate(&self) -> Option<Vec<u8>> {
        foreign("expr_evaluate", &self.token)
    }

    /// Frees it.
    pub(super) fn delete(self) {
        foreign("expr_delete", &self.token);
    }
}

fn define(kind: MetricType, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: all pointers are valid for the call.
    let status = unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) };
    (status == OK).then_some(id)
}

/// Defines a gauge, or finds it: all machines share it by its name.
pub(super) fn define_gauge(name: &str) -> Option<u32> {
    define(MetricType::Gauge, name)
}

/// Adds to a statistic; a negative change is for gauges only.
pub(super) fn add(id: Option<u32>, change: i64) {
    if let Some(id) = id.filter(|_| change != 0) {
        // SAFETY: no pointers.
        unsafe { proxy_increment_metric(id, change) };
    }
}

/// What a gauge shows.
pub(super) fn value(id: Option<u32>) -> i64 {
    let mut value = 0;
    if let Some(id) = id {
        // SAFETY: the pointer is valid for the call.
        unsafe { proxy_get_metric(id, &raw mut value) };
    }
    i64::try_from(value).unwrap_or(0)
}

/// What all machines of one `vm_id` share under `key`, and the version of it; `None` when there is nothing.
pub(super) fn shared_data(key: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut version = 0;
    // SAFETY: all pointers are valid for the call.
    let value = returned(|data, len| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut version)
    })?;
    Some((value, version))
}

/// Replaces what is shared under `key` if it still has this version; 0 replaces whatever is there.
pub(super) fn set_shared_data(key: &[u8], value: &[u8], version: u32) -> bool {
    // SAFETY: all pointers are valid for the call.
    let status =
        unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) };
    status == OK
}

/// The proxy's own statistics: the host's ids by [`Stat::index`].
pub(super) struct Statistics {
    ids: Vec<Option<u32>>,
    export_milliseconds: Option<u32>,
}

impl Statistics {
    /// Defines all of them.
    pub(super) fn define() -> Self {
        let kind = |stat: Stat| {
            if stat.is_gauge() { MetricType::Gauge } else { MetricType::Counter }
        };
        Self {
            ids: Stat::all().map(|stat| define(kind(stat), &stat.name())).collect(),
            export_milliseconds: define(MetricType::Histogram, "offpath_export_milliseconds"),
        }
    }

    /// Adds a change, which is negative only for gauges.
    pub(super) fn add(&self, stat: Stat, change: i64) {
        add(self.ids.get(stat.index()).copied().flatten(), change);
    }

    /// Records how long an export call took.
    pub(super) fn record_export(&self, took: Duration) {
        if let Some(id) = self.export_milliseconds {
            // SAFETY: no pointers.
            unsafe { proxy_record_metric(id, u64::try_from(took.as_millis()).unwrap_or(u64::MAX)) };
        }
    }
}
