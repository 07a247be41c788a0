#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shm_channel::fuzzing::consumer(bytes));
