#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| m1_fuzz::manifest::run(data));
