//! Any bytes as the table of leases in shared data.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offpath_fuzz::lease_table(bytes));
