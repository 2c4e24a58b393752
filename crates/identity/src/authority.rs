//! The certificate authority.

use std::{net::IpAddr, path::Path};

use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::file::{FileError, read_if_there, write_private};

/// How long the root lives: as long as kubeadm's, because replacing it needs every client's attention.
const ROOT_LIFETIME_HOURS: i64 = 10 * 365 * 24;
/// How long a leaf lives: as long as kubeadm's. Leaves are made anew at every start.
const LEAF_LIFETIME_HOURS: i64 = 365 * 24;
/// Certificates start this much in the past, for clients whose clock is behind.
const CLOCK_SKEW_MINUTES: i64 = 5;

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";

/// The authority could not be loaded, made, or could not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// One of the two files is there without the other.
    #[error("{found} is there but {missing} is not: restore it, or remove both to start a new certificate authority")]
    Incomplete {
        /// The file that is there.
        found: String,
        /// The file that is missing.
        missing: String,
    },
    /// A certificate or key could not be made or read.
    #[error("certificate authority in {directory}")]
    Certificate {
        /// Folder of the authority.
        directory: String,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// The time lies outside what a certificate can hold.
    #[error("the clock shows {0}, which a certificate cannot hold")]
    Clock(Timestamp),
}

/// A certificate chain and its private key, as PEM.
#[derive(Clone)]
pub struct KeyPair {
    /// Certificate.
    pub certificate_pem: String,
    /// Private key (PKCS #8).
    pub key_pem: String,
}

/// The root of trust of one installation.
pub struct Authority {
    certificate_pem: String,
    directory: String,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// Loads the authority kept in `directory`, or makes one there.
    pub fn load_or_create(directory: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        let failed = |source| AuthorityError::Certificate { directory: directory.display().to_string(), source };
        let (certificate_pem, key_pem) = match (read_if_there(&certificate_path)?, read_if_there(&key_path)?) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => {
                let made = make_root(now)?.map_err(failed)?;
                write_private(&key_path, made.key_pem.as_bytes())?;
                write_private(&certificate_path, made.certificate_pem.as_bytes())?;
                (made.certificate_pem, made.key_pem)
            }
            // The key is written first: a crash in between leaves a key that nothing was ever signed with.
            (None, Some(_)) => {
                let made = make_root(now)?.map_err(failed)?;
                write_private(&key_path, made.key_pem.as_bytes())?;
                write_private(&certificate_path, made.certificate_pem.as_bytes())?;
                (made.certificate_pem, made.key_pem)
            }
            (Some(_), None) => {
                return Err(AuthorityError::Incomplete {
                    found: certificate_path.display().to_string(),
                    missing: key_path.display().to_string(),
                });
            }
        };
        let key = rcgen::KeyPair::from_pem(&key_pem).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(failed)?;
        Ok(Self { certificate_pem, directory: directory.display().to_string(), issuer })
    }

    /// The root certificate, as clients must trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for a server that answers under these names and addresses.
    pub fn server(
        &self,
        common_name: &str,
        names: &[String],
        addresses: &[IpAddr],
        now: Timestamp,
    ) -> Result<KeyPair, AuthorityError> {
        let mut params = CertificateParams::new(names.to_vec()).map_err(|e| self.failed(e))?;
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = subject(common_name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.leaf(params, now)
    }

    /// A certificate that makes its holder `user` in `group`.
    pub fn client(&self, user: &str, group: Option<&str>, now: Timestamp) -> Result<KeyPair, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(params, now)
    }

    fn leaf(&self, mut params: CertificateParams, now: Timestamp) -> Result<KeyPair, AuthorityError> {
        set_validity(&mut params, now, LEAF_LIFETIME_HOURS)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let sign = || {
            let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok(KeyPair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
        };
        sign().map_err(|e| self.failed(e))
    }

    fn failed(&self, source: rcgen::Error) -> AuthorityError {
        AuthorityError::Certificate { directory: self.directory.clone(), source }
    }
}

fn make_root(now: Timestamp) -> Result<Result<KeyPair, rcgen::Error>, AuthorityError> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, now, ROOT_LIFETIME_HOURS)?;
    params.distinguished_name = subject("keelson-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let make = || {
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Ok(KeyPair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    };
    Ok(make())
}

fn subject(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, hours: i64) -> Result<(), AuthorityError> {
    let bound = |at: Result<Timestamp, jiff::Error>| {
        at.ok()
            .and_then(|at| time::OffsetDateTime::from_unix_timestamp(at.as_second()).ok())
            .ok_or(AuthorityError::Clock(now))
    };
    params.not_before = bound(now.checked_sub(CLOCK_SKEW_MINUTES.minutes()))?;
    params.not_after = bound(now.checked_add(hours.hours()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn der(pem: &str) -> Vec<u8> {
        ::pem::parse(pem).unwrap().into_contents()
    }

    #[test]
    fn a_second_start_loads_the_same_authority() {
        let directory = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(directory.path(), now()).unwrap();
        let second = Authority::load_or_create(directory.path(), now()).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
    }

    #[test]
    fn leaves_are_signed_by_the_root_and_carry_user_and_group() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(directory.path(), now()).unwrap();
        let client = authority.client("admin", Some("system:masters"), now()).unwrap();
        let (root, leaf) = (der(authority.certificate_pem()), der(&client.certificate_pem));
        let root = X509Certificate::from_der(&root).unwrap().1;
        let leaf = X509Certificate::from_der(&leaf).unwrap().1;
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(leaf.subject().iter_common_name().next().unwrap().as_str().unwrap(), "admin");
        assert_eq!(leaf.subject().iter_organization().next().unwrap().as_str().unwrap(), "system:masters");
    }

    #[test]
    fn keys_are_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_create(directory.path(), now()).unwrap();
        let mode = std::fs::metadata(directory.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_and_names_the_missing_file() {
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_create(directory.path(), now()).unwrap();
        std::fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
        let error = Authority::load_or_create(directory.path(), now()).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}
