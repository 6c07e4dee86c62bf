//! Any bytes as a `Retry-After` header.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offpath_fuzz::retry_after(bytes));
