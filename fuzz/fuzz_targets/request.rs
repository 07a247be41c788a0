#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gfserver::fuzzing::request(bytes));
