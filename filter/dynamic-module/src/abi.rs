//! What Envoy's functions for dynamic modules look like, and safe wrappers of those that offpath calls.
//!
//! Source: Envoy, `source/extensions/dynamic_modules/abi/abi.h`, ABI v0.2.0, of Envoy 1.40. Envoy promises that what was built for
//! a release works in the next one too.
#![allow(unsafe_code, reason = "the ABI is C's: it passes pointers")]

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

/// The ABI that this is written for.
pub(crate) const VERSION: &CStr = c"v0.2.0";

/// `envoy_dynamic_module_type_access_log_type_DownstreamEnd`: a request has ended.
pub(crate) const DOWNSTREAM_END: u32 = 6;

/// Success, of all functions that tell.
const SUCCESS: u32 = 0;

/// Something on Envoy's side that is only ever handed back.
pub(crate) type EnvoyPtr = *mut c_void;

/// Bytes of either side.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    ptr: *const u8,
    len: usize,
}

impl Buffer {
    const EMPTY: Self = Self { ptr: ptr::null(), len: 0 };

    fn of(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// # Safety
    /// The bytes are there, unchanged, as long as `'h`.
    pub(crate) unsafe fn bytes<'h>(self) -> &'h [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// A header of either side.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    name: Buffer,
    value: Buffer,
}

impl Header {
    /// # Safety
    /// As [`Buffer::bytes`].
    pub(crate) unsafe fn bytes<'h>(self) -> (&'h [u8], &'h [u8]) {
        // SAFETY: the caller's.
        unsafe { (self.name.bytes(), self.value.bytes()) }
    }
}

/// Elements of Envoy's.
///
/// # Safety
/// They are there, unchanged, as long as `'h`.
pub(crate) unsafe fn elements<'h, T>(first: *const T, count: usize) -> &'h [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// A request's header maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum HeaderMap {
    Request = 0,
    Response = 2,
    ResponseTrailers = 3,
}

/// `envoy_dynamic_module_type_attribute_id`, as far as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Attribute {
    RequestProtocol = 10,
    ResponseCode = 15,
    ResponseCodeDetails = 16,
    UpstreamAddress = 41,
    XdsRouteName = 61,
}

/// When what happened, in nanoseconds since the start; -1 for what has not.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Timing {
    pub(crate) start_unix_nano: i64,
    pub(crate) request_complete_nano: i64,
    pub(crate) first_upstream_tx_nano: i64,
    last_upstream_tx_nano: i64,
    first_upstream_rx_nano: i64,
    pub(crate) last_upstream_rx_nano: i64,
    first_downstream_tx_nano: i64,
    last_downstream_tx_nano: i64,
}

/// Bytes without headers, and on the wire to the upstream.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Bytes {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    wire_received: u64,
    wire_sent: u64,
}

macro_rules! callbacks {
    ($($name:ident = $symbol:literal ($($type:ty),*) $(-> $result:ty)?;)*) => {
        unsafe extern "C" {
            $(
                #[link_name = concat!("envoy_dynamic_module_callback_", $symbol)]
                fn $name($(_: $type),*) $(-> $result)?;
            )*
        }
    };
}

callbacks! {
    log = "log"(u32, Buffer);
    headers_size = "access_logger_get_headers_size"(EnvoyPtr, u32) -> usize;
    get_headers = "access_logger_get_headers"(EnvoyPtr, u32, *mut Header) -> bool;
    get_header_value = "access_logger_get_header_value"(EnvoyPtr, u32, Buffer, *mut Buffer, usize, *mut usize) -> bool;
    get_attribute_string = "access_logger_get_attribute_string"(EnvoyPtr, u32, *mut Buffer) -> bool;
    get_attribute_int = "access_logger_get_attribute_int"(EnvoyPtr, u32, *mut u64) -> bool;
    get_response_flags = "access_logger_get_response_flags"(EnvoyPtr) -> u64;
    get_timing_info = "access_logger_get_timing_info"(EnvoyPtr, *mut Timing);
    get_bytes_info = "access_logger_get_bytes_info"(EnvoyPtr, *mut Bytes);
    get_request_headers_bytes = "access_logger_get_request_headers_bytes"(EnvoyPtr) -> u64;
    get_response_headers_bytes = "access_logger_get_response_headers_bytes"(EnvoyPtr) -> u64;
    get_response_trailers_bytes = "access_logger_get_response_trailers_bytes"(EnvoyPtr) -> u64;
    get_upstream_cluster = "access_logger_get_upstream_cluster"(EnvoyPtr, *mut Buffer) -> bool;
    get_remote_address = "access_logger_get_downstream_remote_address"(EnvoyPtr, *mut Buffer, *mut u32) -> bool;
    signal_init_complete = "bootstrap_extension_config_signal_init_complete"(EnvoyPtr);
    scheduler_new = "bootstrap_extension_config_scheduler_new"(EnvoyPtr) -> EnvoyPtr;
    scheduler_commit = "bootstrap_extension_config_scheduler_commit"(EnvoyPtr, u64);
    scheduler_delete = "bootstrap_extension_config_scheduler_delete"(EnvoyPtr);
    http_callout = "bootstrap_extension_http_callout"(EnvoyPtr, *mut u64, Buffer, *const Header, usize, Buffer, u64) -> u32;
    timer_new = "bootstrap_extension_timer_new"(EnvoyPtr) -> EnvoyPtr;
    timer_enable = "bootstrap_extension_timer_enable"(EnvoyPtr, u64);
    timer_delete = "bootstrap_extension_timer_delete"(EnvoyPtr);
    define_counter = "bootstrap_extension_config_define_counter"(EnvoyPtr, Buffer, *const Buffer, usize, *mut usize) -> u32;
    increment_counter = "bootstrap_extension_config_increment_counter"(EnvoyPtr, usize, *const Buffer, usize, u64) -> u32;
    define_gauge = "bootstrap_extension_config_define_gauge"(EnvoyPtr, Buffer, *const Buffer, usize, *mut usize) -> u32;
    increment_gauge = "bootstrap_extension_config_increment_gauge"(EnvoyPtr, usize, *const Buffer, usize, u64) -> u32;
    decrement_gauge = "bootstrap_extension_config_decrement_gauge"(EnvoyPtr, usize, *const Buffer, usize, u64) -> u32;
    define_histogram = "bootstrap_extension_config_define_histogram"(EnvoyPtr, Buffer, *const Buffer, usize, *mut usize) -> u32;
    record_histogram_value = "bootstrap_extension_config_record_histogram_value"(EnvoyPtr, usize, *const Buffer, usize, u64) -> u32;
}

/// How bad a line in Envoy's log is.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Level {
    Warn = 3,
    Error = 4,
}

/// Writes a line to Envoy's log.
pub(crate) fn write_log(level: Level, line: &str) {
    // SAFETY: Envoy copies the line.
    unsafe { log(level as u32, Buffer::of(line.as_bytes())) };
}

/// The request that a logger is told of, as long as its hook runs.
pub(crate) struct Stream<'h> {
    logger: EnvoyPtr,
    hook: PhantomData<&'h ()>,
}

impl<'h> Stream<'h> {
    /// # Safety
    /// `logger` is what Envoy has called the hook with, and `'h` no longer than that.
    pub(crate) unsafe fn new(logger: EnvoyPtr) -> Self {
        Self { logger, hook: PhantomData }
    }

    /// All headers of a map; `space` is for Envoy to write in.
    pub(crate) fn headers<'s>(
        &'s self,
        map: HeaderMap,
        space: &'s mut Vec<Header>,
    ) -> impl ExactSizeIterator<Item = (&'s [u8], &'s [u8])> + Clone {
        space.clear();
        // SAFETY: Envoy writes as many headers as it has said that there are, and they stay as they are while the hook runs.
        unsafe {
            let count = headers_size(self.logger, map as u32);
            space.reserve(count);
            if get_headers(self.logger, map as u32, space.as_mut_ptr()) {
                space.set_len(count);
            }
            space.iter().map(|header| header.bytes())
        }
    }

    /// The `index`th value of a header.
    pub(crate) fn header(&self, map: HeaderMap, name: &[u8], index: usize) -> Option<&'h [u8]> {
        let mut value = Buffer::EMPTY;
        // SAFETY: all pointers are valid for the call; header values stay as they are while the hook runs.
        unsafe {
            get_header_value(
                self.logger,
                map as u32,
                Buffer::of(name),
                &raw mut value,
                index,
                ptr::null_mut(),
            )
            .then(|| value.bytes())
        }
    }

    /// An attribute that is text.
    pub(crate) fn text(&self, attribute: Attribute) -> Option<&'h [u8]> {
        let mut value = Buffer::EMPTY;
        // SAFETY: the pointer is valid for the call; what it points to then is the stream's.
        unsafe { get_attribute_string(self.logger, attribute as u32, &raw mut value).then(|| value.bytes()) }
    }

    /// An attribute that is a number.
    pub(crate) fn int(&self, attribute: Attribute) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the pointer is valid for the call.
        unsafe { get_attribute_int(self.logger, attribute as u32, &raw mut value).then_some(value) }
    }

    /// The upstream cluster's name.
    pub(crate) fn upstream_cluster(&self) -> Option<&'h [u8]> {
        let mut name = Buffer::EMPTY;
        // SAFETY: the pointer is valid for the call; the stream holds the cluster.
        unsafe { get_upstream_cluster(self.logger, &raw mut name).then(|| name.bytes()) }
    }

    /// The client's IP address and port; of a UNIX domain socket there is none.
    pub(crate) fn client_address(&self) -> Option<(&'h [u8], u32)> {
        let (mut address, mut port) = (Buffer::EMPTY, 0);
        // SAFETY: both pointers are valid for the call; the stream holds its addresses.
        unsafe {
            get_remote_address(self.logger, &raw mut address, &raw mut port).then(|| (address.bytes(), port))
        }
    }

    /// What went wrong, as the bit mask that CEL's `response.flags` is.
    pub(crate) fn response_flags(&self) -> u64 {
        // SAFETY: no pointers of ours.
        unsafe { get_response_flags(self.logger) }
    }

    /// When what happened.
    pub(crate) fn timing(&self) -> Timing {
        let mut timing = Timing::default();
        // SAFETY: the pointer is valid for the call.
        unsafe { get_timing_info(self.logger, &raw mut timing) };
        timing
    }

    /// The request's and the response's bytes, headers and trailers included.
    pub(crate) fn total_sizes(&self) -> (u64, u64) {
        let mut bytes = Bytes::default();
        // SAFETY: the pointer is valid for the call.
        unsafe {
            get_bytes_info(self.logger, &raw mut bytes);
            let response = get_response_headers_bytes(self.logger) + get_response_trailers_bytes(self.logger);
            (bytes.received + get_request_headers_bytes(self.logger), bytes.sent + response)
        }
    }
}

/// What a statistic is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// The main thread's side of Envoy, which is there until the bootstrap extension is destroyed. Calls are made and timers set on
/// the main thread only; statistics and [`Proxy::wake_main_thread`] are for any.
///
/// Envoy joins its workers before it destroys bootstrap extensions: what a worker finds here stays while it uses it. Only on the main
/// thread may a logger be dropped later.
pub(crate) struct Proxy {
    /// Null when it is gone.
    config: AtomicPtr<c_void>,
    scheduler: EnvoyPtr,
    timer: EnvoyPtr,
}

// SAFETY: both pointers are only handed back to Envoy, whose scheduler takes events from any thread, and whose timer is touched
// on the main thread alone.
unsafe impl Send for Proxy {}
// SAFETY: as above; the statistics behind `config` are atomic, and the list of them is complete before another thread sees it.
unsafe impl Sync for Proxy {}

impl Proxy {
    /// # Safety
    /// `config` is what Envoy has made the bootstrap extension with, on its main thread.
    pub(crate) unsafe fn new(config: EnvoyPtr) -> Self {
        // SAFETY: Envoy keeps both until they are deleted.
        let (scheduler, timer) = unsafe { (scheduler_new(config), timer_new(config)) };
        Self { config: AtomicPtr::new(config), scheduler, timer }
    }

    fn config(&self) -> Option<EnvoyPtr> {
        Some(self.config.load(Ordering::Acquire)).filter(|config| !config.is_null())
    }

    /// Lets Envoy take traffic, as far as offpath is concerned.
    pub(crate) fn init_complete(&self) {
        if let Some(config) = self.config() {
            // SAFETY: it is there.
            unsafe { signal_init_complete(config) };
        }
    }

    /// Has the main thread call [`crate::hooks`]'s `scheduled` soon.
    pub(crate) fn wake_main_thread(&self) {
        if self.config().is_some() {
            // SAFETY: the scheduler is there as long as the configuration is.
            unsafe { scheduler_commit(self.scheduler, 0) };
        }
    }

    /// Has the main thread call [`crate::hooks`]'s `timer_fired` after a while.
    pub(crate) fn set_timer(&self, after: Duration) {
        if self.config().is_some() {
            // SAFETY: the timer is there as long as the configuration is.
            unsafe { timer_enable(self.timer, milliseconds(after)) };
        }
    }

    /// Begins a call; its answer will name the token. `None` when the cluster is unknown or has nobody in it.
    pub(crate) fn call(
        &self,
        cluster: &str,
        headers: &[(String, String)],
        body: &[u8],
        timeout: Duration,
    ) -> Option<u64> {
        let headers: Vec<Header> = headers
            .iter()
            .map(|(name, value)| {
                // The ABI wants the authority under its older name.
                let name = if name == ":authority" { "host" } else { name };
                Header { name: Buffer::of(name.as_bytes()), value: Buffer::of(value.as_bytes()) }
            })
            .collect();
        let mut token = 0;
        // SAFETY: all pointers are valid for the call, in which Envoy copies what they point to.
        let result = unsafe {
            http_callout(
                self.config()?,
                &raw mut token,
                Buffer::of(cluster.as_bytes()),
                headers.as_ptr(),
                headers.len(),
                Buffer::of(body),
                milliseconds(timeout),
            )
        };
        (result == SUCCESS).then_some(token)
    }

    /// Defines a statistic; `None` when Envoy does not.
    pub(crate) fn define(&self, kind: MetricKind, name: &str) -> Option<usize> {
        let define = match kind {
            MetricKind::Counter => define_counter,
            MetricKind::Gauge => define_gauge,
            MetricKind::Histogram => define_histogram,
        };
        let mut id = 0;
        // SAFETY: all pointers are valid for the call; there are no labels.
        let result =
            unsafe { define(self.config()?, Buffer::of(name.as_bytes()), ptr::null(), 0, &raw mut id) };
        (result == SUCCESS).then_some(id)
    }

    /// Adds to a counter or a gauge, or takes from a gauge.
    pub(crate) fn add(&self, kind: MetricKind, id: usize, change: i64) {
        let change_by = match kind {
            MetricKind::Counter => increment_counter,
            MetricKind::Gauge if change < 0 => decrement_gauge,
            MetricKind::Gauge => increment_gauge,
            MetricKind::Histogram => return,
        };
        if let Some(config) = self.config() {
            // SAFETY: it is there, and there are no labels.
            unsafe { change_by(config, id, ptr::null(), 0, change.unsigned_abs()) };
        }
    }

    /// Records a value in a histogram.
    pub(crate) fn record(&self, id: usize, value: u64) {
        if let Some(config) = self.config() {
            // SAFETY: it is there, and there are no labels.
            unsafe { record_histogram_value(config, id, ptr::null(), 0, value) };
        }
    }

    /// Envoy's side goes: nothing is called any more. On the main thread.
    pub(crate) fn forget(&self) {
        if !self.config.swap(ptr::null_mut(), Ordering::AcqRel).is_null() {
            // SAFETY: both are ours, and used no more.
            unsafe {
                scheduler_delete(self.scheduler);
                timer_delete(self.timer);
            }
        }
    }
}

/// At least one: of none, Envoy's calls take it that they may last for ever.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
