//! Any bytes as the body of an answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offpath_fuzz::answer_body(bytes));
