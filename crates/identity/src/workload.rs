//! The identities of workloads: who a pod is to other pods, and how it proves that.
//!
//! A [`WorkloadAuthority`] is the root of trust of the mesh, apart from the cluster's own authority: no certificate of
//! one is good for anything with the other. Its root is kept sealed in one file and opened only to sign an intermediate,
//! which lives in memory; the intermediate signs short-lived certificates ([`Svid`]) that carry a [`SpiffeId`]. The roots
//! that peers are to believe are a [`TrustBundle`], and [`PeerVerifier`] believes them.
//!
//! A root is replaced in three steps that [`roots::next_step`] decides: the new one is announced, then signs, and the old
//! one is forgotten when all that it vouched for has ended. At every moment each certificate about is believed by everybody.

mod authority;
mod roots;
mod spiffe;
mod svid;
mod verify;

pub use authority::{Seal, SealError, Tended, WorkloadAuthority, WorkloadAuthorityError};
pub use roots::{Role, RootAge, Step, next_step};
pub use spiffe::{SpiffeId, SpiffeIdError};
pub use svid::{Svid, TrustBundle};
pub use verify::{PeerError, PeerVerifier, peer_id};
