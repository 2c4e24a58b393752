//! Any bytes as kept answers, as replies of Redis, and as the place of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use resilience::idempotency::{RedisUrl, fuzz_record, fuzz_replies};

fuzz_target!(|bytes: &[u8]| {
    fuzz_record(bytes);
    fuzz_replies(bytes);
    if let Ok(url) = std::str::from_utf8(bytes).map_err(drop).and_then(|text| RedisUrl::parse(text).map_err(drop)) {
        assert!(!url.host.is_empty() && url.port > 0);
    }
});
