#![no_main]

#[path = "../properties/sealed.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
