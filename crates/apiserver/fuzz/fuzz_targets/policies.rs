//! Any bytes as an audit policy.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = apiserver::audit::Policy::parse(bytes) {
        let _ = error.to_string();
    }
});
