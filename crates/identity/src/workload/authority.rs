//! The authority of the mesh: roots on disk, an intermediate in memory.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde::{Deserialize, Serialize};

use super::{Role, RootAge, SpiffeId, Step, Svid, TrustBundle, next_step};
use crate::{
    authority::validity,
    file::{FileError, read_if_there, write_private},
};

/// How long a root lives. It is replaced without anybody noticing, long before.
const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// How long an intermediate lives: its key never leaves memory, and a process may run for months.
const INTERMEDIATE_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How long a workload's certificate lives.
const SVID_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Certificates start this much in the past, for peers whose clock is behind.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(1);
/// The form of the file.
const FORMAT: u32 = 1;

/// Why something could not be sealed or opened.
pub type SealError = Box<dyn std::error::Error + Send + Sync>;

/// How keys are kept on disk.
pub trait Seal: Send + Sync {
    /// The form in which something is kept; it opens under the same name only.
    ///
    /// # Errors
    /// When it cannot be sealed.
    fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError>;

    /// What is kept.
    ///
    /// # Errors
    /// When no key opens it.
    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError>;

    /// Whether it should be sealed anew, because its key is to be given up.
    fn is_stale(&self, sealed: &[u8]) -> bool;
}

/// The authority of workloads could not be loaded, made, or could not sign.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadAuthorityError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{path} does not hold the authority of workloads", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The file is of a form that this version does not know.
    #[error("{path} has format {found}, not {FORMAT}: it is another version's", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its form.
        found: u32,
    },
    /// The file holds a certificate that is none.
    #[error("{path} holds a root that cannot be read", path = path.display())]
    Root {
        /// The file.
        path: PathBuf,
    },
    /// A key could not be sealed or opened.
    #[error("cannot {action} the root's key of {path}", path = path.display())]
    Seal {
        /// `seal` or `open`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: SealError,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {subject}")]
    Certificate {
        /// For whom.
        subject: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// The time lies outside what a certificate can hold.
    #[error("the clock shows {0}, which a certificate cannot hold")]
    Clock(Timestamp),
}

/// What [`WorkloadAuthority::tend`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// Other roots are to be believed.
    pub bundle: bool,
    /// Another root signs: certificates are to be made anew before their time.
    pub signing: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    roots: Vec<Root>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    role: Role,
    /// Since when, seconds since the epoch.
    since: i64,
    /// PEM.
    certificate: String,
    /// Sealed and in base64; empty once it signs no more.
    key: String,
}

impl Root {
    fn age(&self) -> Option<RootAge> {
        let (_, not_after) = validity(&self.certificate)?;
        let since = Timestamp::from_second(self.since).ok()?;
        Some(RootAge { role: self.role, since, not_after })
    }
}

struct Intermediate {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
    renew_at: Timestamp,
}

struct State {
    roots: Vec<Root>,
    intermediate: Intermediate,
    bundle: Arc<TrustBundle>,
}

/// The root of trust of the workloads of one trust domain.
pub struct WorkloadAuthority {
    path: PathBuf,
    trust_domain: Arc<str>,
    seal: Arc<dyn Seal>,
    state: Mutex<State>,
}

impl WorkloadAuthority {
    /// Loads the authority kept in the file at `path`, or makes one there.
    ///
    /// # Errors
    /// When the file cannot be read or written, is not what it should be, or its key cannot be opened.
    pub fn load_or_create(
        path: &Path,
        trust_domain: &str,
        seal: Arc<dyn Seal>,
        now: Timestamp,
    ) -> Result<Self, WorkloadAuthorityError> {
        let trust_domain: Arc<str> = trust_domain.into();
        let keeper = Keeper { path, seal: &*seal, trust_domain: &trust_domain };
        let mut roots = keeper.read()?;
        let mut changed = false;
        while let Some(step) = next_step(&keeper.ages(&roots)?, false, now) {
            keeper.carry_out(&mut roots, step, now)?;
            changed = true;
        }
        if keeper.renew_seals(&mut roots)? || changed {
            keeper.write(&roots)?;
        }
        let intermediate = keeper.intermediate(&roots, now)?;
        let bundle = Arc::new(keeper.bundle(&roots)?);
        let state = Mutex::new(State { roots, intermediate, bundle });
        Ok(Self { path: path.to_owned(), trust_domain, seal, state })
    }

    /// Whose identities it vouches for.
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// The roots that are to be believed.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.state().bundle)
    }

    /// A certificate for a workload, with a key made for it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, WorkloadAuthorityError> {
        let state = self.state();
        let intermediate = &state.intermediate;
        let failed = |source| WorkloadAuthorityError::Certificate { subject: id.to_string(), source };
        let uri = id.to_string().try_into().map_err(failed)?;
        let not_after = after(now, SVID_LIFE)?.min(intermediate.not_after);
        let mut params = params(&self.trust_domain, now, not_after)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &intermediate.issuer).map_err(failed)?;
        Ok(Svid {
            id: id.clone(),
            chain: vec![certificate.der().to_vec(), intermediate.certificate.clone()],
            key: key.serialize_der(),
            not_before: now,
            not_after,
        })
    }

    /// Does what is due: replaces the intermediate, and the root step by step. Cheap when nothing is due.
    ///
    /// # Errors
    /// When something could not be made or kept. What was before goes on.
    pub fn tend(&self, now: Timestamp) -> Result<Tended, WorkloadAuthorityError> {
        self.advance(false, now)
    }

    /// Begins to replace the root, unless that has begun.
    ///
    /// # Errors
    /// As [`WorkloadAuthority::tend`].
    pub fn replace_root(&self, now: Timestamp) -> Result<Tended, WorkloadAuthorityError> {
        self.advance(true, now)
    }

    fn advance(&self, mut wanted: bool, now: Timestamp) -> Result<Tended, WorkloadAuthorityError> {
        let keeper = Keeper { path: &self.path, seal: &*self.seal, trust_domain: &self.trust_domain };
        let mut state = self.state();
        let mut roots = state.roots.clone();
        let mut tended = Tended::default();
        while let Some(step) = next_step(&keeper.ages(&roots)?, wanted, now) {
            keeper.carry_out(&mut roots, step, now)?;
            wanted &= step != Step::Announce;
            tended.bundle |= step != Step::Promote;
            tended.signing |= matches!(step, Step::Promote | Step::Found);
        }
        let due = tended.signing || state.intermediate.renew_at <= now;
        if !due && !tended.bundle {
            return Ok(tended);
        }
        // what is only in memory would be believed by nobody after a restart: written first
        keeper.renew_seals(&mut roots)?;
        keeper.write(&roots)?;
        if due {
            state.intermediate = keeper.intermediate(&roots, now)?;
        }
        state.bundle = Arc::new(keeper.bundle(&roots)?);
        state.roots = roots;
        Ok(tended)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is done to roots, wherever they are.
struct Keeper<'a> {
    path: &'a Path,
    seal: &'a dyn Seal,
    trust_domain: &'a Arc<str>,
}

impl Keeper<'_> {
    fn read(&self) -> Result<Vec<Root>, WorkloadAuthorityError> {
        let Some(text) = read_if_there(self.path)? else { return Ok(Vec::new()) };
        let path = || self.path.to_owned();
        let content = |source| WorkloadAuthorityError::Content { path: path(), source };
        let document: Document = serde_json::from_str(&text).map_err(content)?;
        match document.format {
            FORMAT => Ok(document.roots),
            found => Err(WorkloadAuthorityError::Format { path: path(), found }),
        }
    }

    fn write(&self, roots: &[Root]) -> Result<(), WorkloadAuthorityError> {
        let document = Document { format: FORMAT, roots: roots.to_vec() };
        let text = serde_json::to_vec_pretty(&document)
            .map_err(|source| WorkloadAuthorityError::Content { path: self.path.to_owned(), source })?;
        Ok(write_private(self.path, &text)?)
    }

    fn unreadable(&self) -> WorkloadAuthorityError {
        WorkloadAuthorityError::Root { path: self.path.to_owned() }
    }

    fn ages(&self, roots: &[Root]) -> Result<Vec<RootAge>, WorkloadAuthorityError> {
        roots.iter().map(|root| root.age().ok_or_else(|| self.unreadable())).collect()
    }

    fn carry_out(&self, roots: &mut Vec<Root>, step: Step, now: Timestamp) -> Result<(), WorkloadAuthorityError> {
        match step {
            Step::Found => {
                // one that has ended vouches for nothing any more
                roots.retain(|root| root.role != Role::Signing);
                roots.push(self.make(Role::Signing, now)?);
            }
            Step::Announce => roots.push(self.make(Role::Announced, now)?),
            Step::Promote => {
                for root in roots.iter_mut().filter(|root| root.role != Role::Retired) {
                    let signs = root.role == Role::Announced;
                    (root.role, root.since) = (if signs { Role::Signing } else { Role::Retired }, now.as_second());
                    if !signs {
                        root.key = String::new();
                    }
                }
            }
            Step::Forget(index) => drop(roots.remove(index)),
        }
        Ok(())
    }

    fn make(&self, role: Role, now: Timestamp) -> Result<Root, WorkloadAuthorityError> {
        let mut params = params(self.trust_domain, now, after(now, ROOT_LIFE)?)?;
        params.distinguished_name.push(DnType::CommonName, "Keelson mesh root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = self.own_name()?;
        let failed = |source| WorkloadAuthorityError::Certificate { subject: self.trust_domain.to_string(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let key = self.sealed(&key.serialize_der())?;
        Ok(Root { role, since: now.as_second(), certificate: certificate.pem(), key })
    }

    /// The name of the trust domain itself, which the standard asks authorities to carry.
    fn own_name(&self) -> Result<Vec<SanType>, WorkloadAuthorityError> {
        let uri = format!("spiffe://{}", self.trust_domain);
        let failed = |source| WorkloadAuthorityError::Certificate { subject: uri.clone(), source };
        Ok(vec![SanType::URI(uri.as_str().try_into().map_err(failed)?)])
    }

    fn sealed(&self, key: &[u8]) -> Result<String, WorkloadAuthorityError> {
        let sealed = self.seal.seal(&self.place(), key);
        let failed = |source| WorkloadAuthorityError::Seal { action: "seal", path: self.path.to_owned(), source };
        Ok(BASE64.encode(sealed.map_err(failed)?))
    }

    fn opened(&self, key: &str) -> Result<Vec<u8>, WorkloadAuthorityError> {
        let failed = |source| WorkloadAuthorityError::Seal { action: "open", path: self.path.to_owned(), source };
        let sealed = BASE64.decode(key).map_err(|error| failed(error.into()))?;
        self.seal.open(&self.place(), &sealed).map_err(failed)
    }

    /// What sealed keys are bound to.
    fn place(&self) -> String {
        format!("workload-root/{}", self.trust_domain)
    }

    /// Seals anew what is sealed with a key that is to be given up; says whether there was any.
    fn renew_seals(&self, roots: &mut [Root]) -> Result<bool, WorkloadAuthorityError> {
        let mut renewed = false;
        for root in roots.iter_mut().filter(|root| !root.key.is_empty()) {
            if BASE64.decode(&root.key).is_ok_and(|sealed| self.seal.is_stale(&sealed)) {
                root.key = self.sealed(&self.opened(&root.key)?)?;
                renewed = true;
            }
        }
        Ok(renewed)
    }

    fn intermediate(&self, roots: &[Root], now: Timestamp) -> Result<Intermediate, WorkloadAuthorityError> {
        let signing = roots.iter().find(|root| root.role == Role::Signing).ok_or_else(|| self.unreadable())?;
        let ends = signing.age().ok_or_else(|| self.unreadable())?.not_after;
        let not_after = after(now, INTERMEDIATE_LIFE)?.min(ends);
        let mut params = params(self.trust_domain, now, not_after)?;
        params.distinguished_name.push(DnType::CommonName, "Keelson mesh intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = self.own_name()?;
        params.use_authority_key_identifier_extension = true;
        let failed = |source| WorkloadAuthorityError::Certificate { subject: self.trust_domain.to_string(), source };
        let root_key = KeyPair::try_from(self.opened(&signing.key)?).map_err(failed)?;
        let root = Issuer::from_ca_cert_pem(&signing.certificate, root_key).map_err(failed)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &root).map_err(failed)?;
        let renew_at = after(now, not_after.duration_since(now) / 2)?;
        let issuer = Issuer::new(params, key);
        Ok(Intermediate { certificate: certificate.der().to_vec(), issuer, not_after, renew_at })
    }

    fn bundle(&self, roots: &[Root]) -> Result<TrustBundle, WorkloadAuthorityError> {
        let first = roots.iter().filter(|root| root.role == Role::Signing);
        let others = roots.iter().filter(|root| root.role != Role::Signing);
        let der = |root: &Root| pem::parse(&root.certificate).map(pem::Pem::into_contents);
        let roots =
            first.chain(others).map(|root| der(root).map_err(|_| self.unreadable())).collect::<Result<_, _>>()?;
        Ok(TrustBundle { trust_domain: Arc::clone(self.trust_domain), roots })
    }
}

fn after(now: Timestamp, time: SignedDuration) -> Result<Timestamp, WorkloadAuthorityError> {
    now.checked_add(time).map_err(|_| WorkloadAuthorityError::Clock(now))
}

fn params(
    trust_domain: &str,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<CertificateParams, WorkloadAuthorityError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name = name;
    let moment = |at: Timestamp| {
        time::OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| WorkloadAuthorityError::Clock(now))
    };
    params.not_before = moment(now.checked_sub(CLOCK_SKEW).map_err(|_| WorkloadAuthorityError::Clock(now))?)?;
    params.not_after = moment(not_after)?;
    Ok(params)
}

#[cfg(test)]
mod tests;
