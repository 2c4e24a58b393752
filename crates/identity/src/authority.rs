//! The certificate authority.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};

use rcgen::{PublicKeyData as _, SigningKey as _};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::{
    CertificateRequest, der,
    file::{FileError, beside, read_if_there, write_private},
    issue::{self, IssuerName, Usages, Validity},
};

/// How long the root lives: as long as kubeadm's, because replacing it needs every client's attention.
const ROOT_LIFETIME_HOURS: i64 = 10 * 365 * 24;
/// How long a leaf lives: as long as kubeadm's. Leaves are made anew at every start.
const LEAF_LIFETIME_HOURS: i64 = 365 * 24;
/// Certificates start this much in the past, for clients whose clock is behind.
pub(crate) const CLOCK_SKEW_MINUTES: i64 = 5;

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
    /// The random number generator failed.
    #[error("no randomness for a serial number")]
    Random,
    /// The certificate authority's own certificate is not one that can sign.
    #[error("{path} {trouble}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong with it.
        trouble: &'static str,
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
///
/// It signs with the first certificate of `NAME.crt`. Every other certificate in that file, and in files `NAME-*.crt`
/// beside it, is trusted too, so that a root can be replaced while certificates of its predecessor are still about.
pub struct Authority {
    directory: PathBuf,
    file_stem: &'static str,
    material: RwLock<Arc<Material>>,
}

/// What the files said when they were last read.
struct Material {
    certificate_pem: String,
    key_pem: String,
    trusted_pem: String,
    issuer: Issuer<'static, rcgen::KeyPair>,
    name: IssuerName,
    not_after: Timestamp,
}

impl Material {
    fn read(directory: &Path, file_stem: &str, bundle: &str, key_pem: String) -> Result<Self, AuthorityError> {
        let certificate_path = directory.join(format!("{file_stem}.crt"));
        let failed = |source| AuthorityError::Certificate { directory: directory.display().to_string(), source };
        let unusable = |trouble| AuthorityError::Unusable { path: certificate_path.display().to_string(), trouble };
        let first = pem::parse(bundle).map_err(|_| unusable("holds no certificate in PEM"))?;
        let key = rcgen::KeyPair::from_pem(&key_pem).map_err(failed)?;
        let (name, not_after) = issuer_name(first.contents(), &key).map_err(unusable)?;
        let certificate_pem = pem::encode_config(&first, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF));
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(failed)?;
        let trusted_pem = trusted(directory, file_stem)?;
        Ok(Self { certificate_pem, key_pem, trusted_pem, issuer, name, not_after })
    }
}

impl Authority {
    /// Loads the cluster's authority kept in `directory`, or makes one there.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is not what it should be.
    pub fn load_or_create(directory: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        Self::load_or_create_named(directory, "ca", "keelson-ca", now)
    }

    /// As [`Authority::load_or_create`], for an authority of another purpose, with files of another name.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is not what it should be.
    pub fn load_or_create_named(
        directory: &Path,
        file_stem: &'static str,
        common_name: &str,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let path = |extension: &str| directory.join(format!("{file_stem}.{extension}"));
        let (certificate_path, key_path) = (path("crt"), path("key"));
        let failed = |source| AuthorityError::Certificate { directory: directory.display().to_string(), source };
        let (bundle, key_pem) = match (read_if_there(&certificate_path)?, read_if_there(&key_path)?) {
            (Some(certificate), Some(key)) => (certificate, key),
            // The key is written first: a crash in between leaves a key that nothing was ever signed with.
            (None, _) => {
                let made = make_root(common_name, now)?.map_err(failed)?;
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
        let material = RwLock::new(Arc::new(Material::read(directory, file_stem, &bundle, key_pem)?));
        Ok(Self { directory: directory.to_owned(), file_stem, material })
    }

    /// Reads the files again, and says whether they said something new. What cannot be used changes nothing.
    ///
    /// # Errors
    /// When a file is gone or cannot be read, or is not what it should be: certificate and key of different pairs, for
    /// example, because they are just being replaced.
    pub fn reload(&self) -> Result<bool, AuthorityError> {
        let path = |extension: &str| self.directory.join(format!("{}.{extension}", self.file_stem));
        let there = |path: PathBuf| {
            let missing = || AuthorityError::Unusable { path: path.display().to_string(), trouble: "is gone" };
            read_if_there(&path)?.ok_or_else(missing)
        };
        let (bundle, key_pem) = (there(path("crt"))?, there(path("key"))?);
        let new = Material::read(&self.directory, self.file_stem, &bundle, key_pem)?;
        let old = self.material();
        let changed = (&new.certificate_pem, &new.key_pem, &new.trusted_pem)
            != (&old.certificate_pem, &old.key_pem, &old.trusted_pem);
        if changed {
            *self.material.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        }
        Ok(changed)
    }

    fn material(&self) -> Arc<Material> {
        self.material.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificate that signs.
    pub fn certificate_pem(&self) -> String {
        self.material().certificate_pem.clone()
    }

    /// Every root to be trusted, the one that signs first.
    pub fn trusted_pem(&self) -> String {
        self.material().trusted_pem.clone()
    }

    /// When the certificate that signs ends, and every certificate it signed with it.
    pub fn not_after(&self) -> Timestamp {
        self.material().not_after
    }

    /// Issues the certificate that somebody asked for, for at most `seconds`; gives it in PEM. Whether the request is to
    /// be granted is the caller's to decide.
    ///
    /// # Errors
    /// When there is no randomness, or the clock shows what a certificate cannot hold.
    pub fn issue(
        &self,
        request: &CertificateRequest,
        usages: &Usages,
        seconds: i64,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let material = self.material();
        let validity = Validity::of(seconds, now, material.not_after)?;
        let signed = issue::to_be_signed(&material.name, request, usages, validity)?;
        let signature = material.issuer.key().sign(&signed).map_err(|e| self.failed(e))?;
        let certificate = der::sequence([signed, material.name.signature_algorithm.clone(), der::bits(&signature)]);
        let block = pem::Pem::new("CERTIFICATE", certificate);
        Ok(pem::encode_config(&block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF)))
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
        let material = self.material();
        set_validity(&mut params, now, LEAF_LIFETIME_HOURS)?;
        // nobody accepts a certificate longer than its issuer's
        params.not_after = params.not_after.min(moment(material.not_after).ok_or(AuthorityError::Clock(now))?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let sign = || {
            let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let certificate = params.signed_by(&key, &material.issuer)?;
            Ok(KeyPair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
        };
        sign().map_err(|e| self.failed(e))
    }

    fn failed(&self, source: rcgen::Error) -> AuthorityError {
        AuthorityError::Certificate { directory: self.directory.display().to_string(), source }
    }
}

fn make_root(common_name: &str, now: Timestamp) -> Result<Result<KeyPair, rcgen::Error>, AuthorityError> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, now, ROOT_LIFETIME_HOURS)?;
    params.distinguished_name = subject(common_name, None);
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
    let bound = |at: Result<Timestamp, jiff::Error>| at.ok().and_then(moment).ok_or(AuthorityError::Clock(now));
    params.not_before = bound(now.checked_sub(CLOCK_SKEW_MINUTES.minutes()))?;
    params.not_after = bound(now.checked_add(hours.hours()))?;
    Ok(())
}

fn moment(at: Timestamp) -> Option<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(at.as_second()).ok()
}

/// How the holder of a certificate and its key signs, and until when.
fn issuer_name(certificate: &[u8], key: &rcgen::KeyPair) -> Result<(IssuerName, Timestamp), &'static str> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| "holds no certificate")?;
    if !parsed.is_ca() {
        return Err("is not the certificate of a certificate authority");
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("does not belong to the key beside it");
    }
    let signature_algorithm = signature_algorithm(key).ok_or("has a key of an unsupported kind")?;
    let key_identifier = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    });
    let ends = parsed.validity().not_after.timestamp();
    let not_after = Timestamp::from_second(ends).map_err(|_| "ends at a time that cannot be")?;
    Ok((IssuerName { subject: parsed.subject().as_raw().to_vec(), key_identifier, signature_algorithm }, not_after))
}

/// The AlgorithmIdentifier of signatures made with `key`.
fn signature_algorithm(key: &rcgen::KeyPair) -> Option<Vec<u8>> {
    const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let algorithm = key.algorithm();
    if *algorithm == PKCS_RSA_SHA256 {
        return Some(der::sequence([der::identifier(RSA_SHA256), vec![0x05, 0x00]]));
    }
    let known =
        [(&PKCS_ECDSA_P256_SHA256, ECDSA_SHA256), (&PKCS_ECDSA_P384_SHA384, ECDSA_SHA384), (&PKCS_ED25519, ED25519)];
    let (_, arcs) = known.into_iter().find(|(known, _)| *known == algorithm)?;
    Some(der::sequence([der::identifier(arcs)]))
}

/// The certificates in `STEM.crt`, then those in `STEM-*.crt`, as one PEM text.
fn trusted(directory: &Path, file_stem: &str) -> Result<String, AuthorityError> {
    let mut all = read_if_there(&directory.join(format!("{file_stem}.crt")))?.unwrap_or_default();
    for path in beside(directory, &format!("{file_stem}-"), ".crt")? {
        if !all.ends_with('\n') {
            all.push('\n');
        }
        all.push_str(&read_if_there(&path)?.unwrap_or_default());
    }
    Ok(all)
}

/// From when until when a certificate in PEM is valid; `None` when it cannot be read.
pub fn validity(certificate_pem: &str) -> Option<(Timestamp, Timestamp)> {
    let block = pem::parse(certificate_pem).ok()?;
    let (_, parsed) = X509Certificate::from_der(block.contents()).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((at(parsed.validity().not_before)?, at(parsed.validity().not_after)?))
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
        let (root, leaf) = (der(&authority.certificate_pem()), der(&client.certificate_pem));
        let root = X509Certificate::from_der(&root).unwrap().1;
        let leaf = X509Certificate::from_der(&leaf).unwrap().1;
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(leaf.subject().iter_common_name().next().unwrap().as_str().unwrap(), "admin");
        assert_eq!(leaf.subject().iter_organization().next().unwrap().as_str().unwrap(), "system:masters");
    }

    #[test]
    fn a_request_is_granted_with_its_subject_names_and_usages() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(directory.path(), now()).unwrap();
        let request = crate::certificate_request::tests::request("system:node:a", "system:nodes", &["a", "b"]);
        let request = CertificateRequest::parse(request.as_bytes()).unwrap();
        let usages = Usages::named(["digital signature", "server auth"]).unwrap();
        let issued = authority.issue(&request, &usages, 3600, now()).unwrap();
        let (root, leaf) = (der(&authority.certificate_pem()), der(&issued));
        let root = X509Certificate::from_der(&root).unwrap().1;
        let (rest, leaf) = X509Certificate::from_der(&leaf).unwrap();
        assert!(rest.is_empty());
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(leaf.issuer(), root.subject());
        assert_eq!(leaf.subject().as_raw(), request.subject);
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::DNSName("a"), GeneralName::DNSName("b")]);
        assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        assert!(!leaf.is_ca());
        let (from, until) = validity(&issued).unwrap();
        assert_eq!((from, until), ("2026-11-22T11:55:00Z".parse().unwrap(), "2026-11-22T13:00:00Z".parse().unwrap()));
    }

    #[test]
    fn older_roots_beside_the_one_that_signs_are_trusted() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = Authority::load_or_create(one.path(), now()).unwrap();
        let new = Authority::load_or_create(two.path(), now()).unwrap();
        assert_eq!(new.trusted_pem(), new.certificate_pem());
        std::fs::write(two.path().join("ca-1.crt"), old.certificate_pem()).unwrap();
        assert!(new.reload().unwrap() && !new.reload().unwrap());
        let both = new.trusted_pem();
        assert_eq!(::pem::parse_many(&both).unwrap().len(), 2);
        assert!(both.starts_with(&new.certificate_pem()));
        assert_eq!(Authority::load_or_create(two.path(), now()).unwrap().trusted_pem(), both);
    }

    #[test]
    fn a_replaced_pair_signs_once_both_files_are_there() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (authority, next) = (
            Authority::load_or_create(one.path(), now()).unwrap(),
            Authority::load_or_create(two.path(), now()).unwrap(),
        );
        let old = authority.certificate_pem();
        let put = |file: &str| std::fs::copy(two.path().join(file), one.path().join(file)).unwrap();
        put("ca.crt");
        let error = authority.reload().err().unwrap().to_string();
        assert!(error.contains("does not belong to the key beside it"), "{error}");
        assert_eq!(authority.certificate_pem(), old, "what cannot be used changes nothing");
        put("ca.key");
        assert!(authority.reload().unwrap());
        assert_eq!(authority.certificate_pem(), next.certificate_pem());
        let leaf = der(&authority.client("a", None, now()).unwrap().certificate_pem);
        let root = der(&next.certificate_pem());
        let (leaf, root) = (X509Certificate::from_der(&leaf).unwrap().1, X509Certificate::from_der(&root).unwrap().1);
        leaf.verify_signature(Some(root.public_key())).unwrap();
    }

    #[test]
    fn what_is_signed_does_not_outlive_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(directory.path(), now()).unwrap();
        let late = authority.not_after().checked_sub(48.hours()).unwrap();
        let pair = authority.client("admin", None, late).unwrap();
        assert_eq!(validity(&pair.certificate_pem).unwrap().1, authority.not_after());
    }

    #[test]
    fn keys_are_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_create(directory.path(), now()).unwrap();
        let mode = std::fs::metadata(directory.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_and_names_the_missing_file() {
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_create(directory.path(), now()).unwrap();
        std::fs::remove_file(directory.path().join("ca.key")).unwrap();
        let error = Authority::load_or_create(directory.path(), now()).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}
