#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| m1_fuzz::store_image::run(data));
