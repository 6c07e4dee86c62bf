//! Any bytes as what `expr_evaluate` returns.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offpath_fuzz::pairs(bytes));
