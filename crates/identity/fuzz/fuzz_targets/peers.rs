//! Any bytes as the certificate of a peer of the mesh, and as a SPIFFE ID, which reads as it is written.
#![no_main]

use identity::workload::{SpiffeId, peer_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(id) = peer_id(bytes) {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Some(id) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<SpiffeId>().ok()) {
        assert_eq!(id.to_string().as_bytes(), bytes);
    }
});
