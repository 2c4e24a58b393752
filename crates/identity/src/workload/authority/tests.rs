use std::sync::atomic::{AtomicBool, Ordering};

use rustls::{
    client::danger::ServerCertVerifier as _,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::ClientCertVerifier as _,
};

use super::*;
use crate::workload::{PeerVerifier, peer_id};

/// Seals by turning every bit over; stale on demand.
#[derive(Default)]
struct Flip {
    stale: AtomicBool,
}

impl Seal for Flip {
    fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.stale.store(false, Ordering::Relaxed);
        Ok([name.as_bytes(), b"|"].concat().into_iter().chain(plain.iter().map(|byte| !byte)).collect())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let rest = sealed.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"|"));
        Ok(rest.ok_or("of another name")?.iter().map(|byte| !byte).collect())
    }

    fn is_stale(&self, _sealed: &[u8]) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

fn start() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn hours(hours: i64) -> Timestamp {
    start() + SignedDuration::from_hours(hours)
}

fn authority(directory: &Path, domain: &str) -> WorkloadAuthority {
    WorkloadAuthority::load_or_create(&directory.join("mesh.json"), domain, Arc::new(Flip::default()), start()).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "ledger").unwrap()
}

/// Whether a holder is believed on both sides of a connection; the two never differ.
fn believed(bundle: &TrustBundle, svid: &Svid, at: Timestamp) -> bool {
    let verifier = PeerVerifier::new(bundle, Arc::new(ring::default_provider())).unwrap();
    let chain: Vec<_> = svid.chain.iter().cloned().map(CertificateDer::from).collect();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second().unsigned_abs()));
    let name = ServerName::try_from("ignored.test").unwrap();
    let as_server = verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok();
    let as_client = verifier.verify_client_cert(&chain[0], &chain[1..], now).is_ok();
    assert_eq!(as_server, as_client);
    as_server
}

#[test]
fn a_workload_is_believed_for_an_hour_and_says_who_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path(), "cluster.local");
    let svid = authority.issue(&id(), start()).unwrap();
    assert_eq!(peer_id(&svid.chain[0]).unwrap(), id());
    assert_eq!(svid.renew_at(), start() + SignedDuration::from_mins(30));
    let bundle = authority.bundle();
    assert!(believed(&bundle, &svid, start()) && believed(&bundle, &svid, start() + SignedDuration::from_mins(59)));
    assert!(!believed(&bundle, &svid, start() + SignedDuration::from_mins(61)));
}

#[test]
fn strangers_are_not_believed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, other) = (authority(one.path(), "cluster.local"), authority(two.path(), "cluster.local"));
    let svid = other.issue(&id(), start()).unwrap();
    assert!(!believed(&ours.bundle(), &svid, start()), "the root is another");
    let abroad = ours.issue(&SpiffeId::new("elsewhere", "shop", "ledger").unwrap(), start()).unwrap();
    assert!(!believed(&ours.bundle(), &abroad, start()), "the trust domain is another");
    let mut lone = ours.issue(&id(), start()).unwrap();
    lone.chain.truncate(1);
    assert!(!believed(&ours.bundle(), &lone, start()), "the intermediate is missing");
}

#[test]
fn an_intermediate_is_not_itself_a_workload() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path(), "cluster.local");
    let mut svid = authority.issue(&id(), start()).unwrap();
    svid.chain.remove(0);
    assert!(!believed(&authority.bundle(), &svid, start()));
}

#[test]
fn a_certificate_names_exactly_one_workload() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let (a, b) = (uri("spiffe://cluster.local/ns/a/sa/b"), uri("spiffe://cluster.local/ns/a/sa/c"));
    let named = |names: &[SanType]| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        peer_id(params.self_signed(&key).unwrap().der())
    };
    assert!(named(std::slice::from_ref(&a)).is_ok());
    assert!(named(&[]).is_err() && named(&[a.clone(), b]).is_err() && named(&[uri("https://a.test")]).is_err());
    assert!(peer_id(b"nonsense").is_err());
}

#[test]
fn a_second_start_believes_what_the_first_one_signed() {
    let directory = tempfile::tempdir().unwrap();
    let svid = authority(directory.path(), "cluster.local").issue(&id(), start()).unwrap();
    let again = authority(directory.path(), "cluster.local");
    assert!(believed(&again.bundle(), &svid, start()));
    let text = std::fs::read_to_string(directory.path().join("mesh.json")).unwrap();
    assert!(!text.contains("PRIVATE KEY"), "the root is sealed");
}

#[test]
fn a_root_is_replaced_while_every_certificate_stays_good() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path(), "cluster.local");
    let old_bundle = authority.bundle();
    let old = authority.issue(&id(), start()).unwrap();
    assert_eq!(authority.replace_root(start()).unwrap(), Tended { bundle: true, signing: false });
    assert_eq!(authority.replace_root(start()).unwrap(), Tended::default(), "it has begun");
    assert_eq!(authority.bundle().roots.len(), 2);
    let between = authority.issue(&id(), start()).unwrap();
    assert!(believed(&old_bundle, &between, start()), "who has not heard of the new root goes on");
    let announced = authority.bundle();
    let then = start() + SignedDuration::from_mins(30);
    assert_eq!(authority.tend(then).unwrap(), Tended { bundle: false, signing: true });
    let new = authority.issue(&id(), then).unwrap();
    assert!(!believed(&old_bundle, &new, then) && believed(&announced, &new, then));
    assert!(believed(&authority.bundle(), &old, then), "what the old root vouched for lives on");
    assert_eq!(authority.tend(hours(3)).unwrap(), Tended { bundle: true, signing: false });
    assert_eq!(authority.bundle().roots.len(), 1);
    let latest = authority.issue(&id(), hours(3)).unwrap();
    assert!(believed(&authority.bundle(), &latest, hours(3)) && !believed(&old_bundle, &latest, hours(3)));
}

#[test]
fn an_intermediate_is_replaced_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path(), "cluster.local");
    let first = authority.issue(&id(), start()).unwrap().chain[1].clone();
    assert_eq!(authority.tend(hours(11)).unwrap(), Tended::default());
    assert_eq!(authority.issue(&id(), hours(11)).unwrap().chain[1], first);
    authority.tend(hours(12)).unwrap();
    let svid = authority.issue(&id(), hours(23)).unwrap();
    assert_ne!(svid.chain[1], first);
    assert!(believed(&authority.bundle(), &svid, hours(23)));
}

#[test]
fn a_key_that_is_to_be_given_up_is_given_up_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.json");
    let seal = Arc::new(Flip::default());
    let load = || WorkloadAuthority::load_or_create(&path, "cluster.local", seal.clone(), start());
    load().unwrap();
    seal.stale.store(true, Ordering::Relaxed);
    load().unwrap();
    assert!(!seal.stale.load(Ordering::Relaxed), "it was sealed anew");
}

#[test]
fn what_is_no_authority_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.json");
    let load = || {
        let loaded = WorkloadAuthority::load_or_create(&path, "cluster.local", Arc::new(Flip::default()), start());
        loaded.err().unwrap().to_string()
    };
    for (content, expected) in [("{", "does not hold"), (r#"{"format": 2, "roots": []}"#, "format 2")] {
        std::fs::write(&path, content).unwrap();
        let error = load();
        assert!(error.contains("mesh.json") && error.contains(expected), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    authority(directory.path(), "cluster.local");
    let moved = WorkloadAuthority::load_or_create(&path, "elsewhere", Arc::new(Flip::default()), start());
    assert!(moved.err().unwrap().to_string().contains("cannot open the root's key"));
}
