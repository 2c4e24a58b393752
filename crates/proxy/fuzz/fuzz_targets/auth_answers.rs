//! Any bytes as the answer of a service that decides about requests. What is understood must be an answer that can be
//! followed: a status that ends a request, headers that are headers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::routing::{Said, check};

fuzz_target!(|bytes: &[u8]| {
    if let Some(Said::Refuse(refusal)) = check::answer(bytes) {
        assert!(!refusal.status.is_informational());
    }
});
