//! Any bytes as any value of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offpath_fuzz::captured(bytes));
