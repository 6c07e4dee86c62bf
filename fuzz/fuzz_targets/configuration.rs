//! Any bytes as the plugin's configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offpath_fuzz::configuration(bytes));
