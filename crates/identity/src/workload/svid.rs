//! Certificates of workloads, and the roots that vouch for them.

use std::sync::Arc;

use jiff::Timestamp;

use super::SpiffeId;

/// A workload's certificate with its key (an X.509-SVID).
#[derive(Clone)]
pub struct Svid {
    /// Who it says the holder is.
    pub id: SpiffeId,
    /// The certificate and the intermediate that signed it, in DER.
    pub chain: Vec<Vec<u8>>,
    /// The private key (PKCS #8, DER).
    pub key: Vec<u8>,
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

impl Svid {
    /// When another one is to take its place: half of its life is left for whatever hinders that.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before.checked_add(life / 2).unwrap_or(self.not_before)
    }
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Svid({}, until {})", self.id, self.not_after)
    }
}

/// The roots that are believed, in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose identities they vouch for.
    pub trust_domain: Arc<str>,
    /// The certificates; the one that signs comes first.
    pub roots: Vec<Vec<u8>>,
}

impl TrustBundle {
    /// The roots as PEM.
    pub fn pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        self.roots.iter().map(|root| pem::encode_config(&pem::Pem::new("CERTIFICATE", root.clone()), config)).collect()
    }
}
