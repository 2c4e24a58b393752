//! Any bytes as a certificate request, in PEM as clients send it and as the DER inside, and as a public key.
#![no_main]

use identity::{CertificateRequest, jwt::VerificationKey, validity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _request = CertificateRequest::parse(bytes);
    let _request = CertificateRequest::parse_der(bytes);
    let _key = VerificationKey::from_spki(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _validity = validity(text);
    }
});
