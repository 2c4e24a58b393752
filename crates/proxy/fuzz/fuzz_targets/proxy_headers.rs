//! Any bytes as the beginning of a connection that a proxy passes on. What is known of the beginning must not depend on
//! how the bytes come in, and a header is never longer than what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::{Beginning, beginning};

fuzz_target!(|bytes: &[u8]| {
    let whole = beginning(bytes);
    if let Ok(Beginning::Header(length, _)) = &whole {
        assert!(*length <= bytes.len());
        assert_eq!(beginning(&bytes[..*length]), whole);
        for cut in 0..*length {
            assert_eq!(beginning(&bytes[..cut]), Ok(Beginning::Unknown));
        }
    }
    if whole == Ok(Beginning::Other) {
        let mut more = bytes.to_vec();
        more.push(b'\n');
        assert_eq!(beginning(&more), Ok(Beginning::Other));
    }
});
