//! Any text as a bearer token: taken apart, its claims read, verified against a published key.
#![no_main]

use std::sync::LazyLock;

use identity::{
    BootstrapToken,
    jwt::{Unverified, VerificationKey},
};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<Vec<VerificationKey>> = LazyLock::new(|| {
    // the example of RFC 7517, appendix A.1
    VerificationKey::from_jwks(&serde_json::json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "1",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}))
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _bootstrap = BootstrapToken::parse(text);
    if let Ok(token) = Unverified::parse(text) {
        let _issuer = token.issuer();
        assert!(!token.is_signed_by_any(KEYS.iter()), "nobody has the private key");
    }
    if let Ok(set) = serde_json::from_str(text) {
        let _keys = VerificationKey::from_jwks(&set);
    }
});
