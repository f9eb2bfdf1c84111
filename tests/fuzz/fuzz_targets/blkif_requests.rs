#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| m1_fuzz::blkif_requests::run(data));
