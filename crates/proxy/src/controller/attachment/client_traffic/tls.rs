//! What a ClientTrafficPolicy says of TLS.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kinds::{
    envoy_gateway::{self, ClientTls, ClientValidation},
    gateway::Reference,
};
use reconcile::Key;
use rustls::{
    RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{SupportedKxGroup, ring},
    version::{TLS12, TLS13},
};

use super::super::reading::{invalid, tell, texts};
use crate::{
    controller::{
        lookup::{Referrer, Seen},
        verdict::Fault,
    },
    server::{Clients, Demands, Terms, roots},
};

/// The key of a Secret that holds roots.
const CA: &str = "ca.crt";

pub(super) fn compile(
    seen: &Seen<'_>,
    namespace: &str,
    from: &ClientTls,
    warnings: &mut Vec<String>,
) -> Result<Terms, Fault> {
    tell(warnings, "tls.", &from.unread);
    if from.signature_algorithms.is_some() {
        warnings.push("spec.tls.signatureAlgorithms is not supported and has no effect".to_owned());
    }
    let mut terms = Terms { versions: versions(from, warnings)?, ..Terms::default() };
    if let Some(names) = &from.ciphers {
        let suites: Vec<_> = chosen(names, suite, "ciphers", warnings);
        if suites.is_empty() {
            return Err(invalid(format!("spec.tls.ciphers: none of {} is supported", names.join(", "))));
        }
        terms.suites = Some(suites);
    }
    if let Some(names) = &from.ecdh_curves {
        let groups: Vec<_> = chosen(names, group, "ecdhCurves", warnings);
        if groups.is_empty() {
            return Err(invalid(format!("spec.tls.ecdhCurves: none of {} is supported", names.join(", "))));
        }
        terms.groups = Some(groups);
    }
    terms.protocols = from.alpn_protocols.as_ref().map(|names| {
        let served = |name: &str| matches!(name, "h2" | "http/1.1").then(|| name.as_bytes().to_vec());
        chosen(names, served, "alpnProtocols", warnings)
    });
    if let Some(resumption) = from.session.as_ref().and_then(|session| session.resumption.as_ref()) {
        terms.resumption = Some((resumption.stateful.is_some(), resumption.stateless.is_some()));
    }
    if let Some(validation) = &from.client_validation {
        (terms.clients, terms.demands) = validate(seen, namespace, validation, warnings)?;
    }
    Ok(terms)
}

/// What names stand for; the others are told.
fn chosen<T>(names: &[String], known: impl Fn(&str) -> Option<T>, field: &str, warnings: &mut Vec<String>) -> Vec<T> {
    let mut all = Vec::new();
    for name in names {
        match known(name) {
            Some(one) => all.push(one),
            None => warnings.push(format!("spec.tls.{field}: {name} is not supported and has no effect")),
        }
    }
    all
}

fn versions(
    from: &ClientTls,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<&'static SupportedProtocolVersion>>, Fault> {
    let number = |version: Option<&str>| match version {
        Some("1.0") => Some(10),
        Some("1.1") => Some(11),
        Some("1.2") => Some(12),
        Some("1.3") => Some(13),
        _ => None,
    };
    let (least, most) = (number(from.min_version.as_deref()), number(from.max_version.as_deref()));
    if least.is_none() && most.is_none() {
        return Ok(None);
    }
    if least.is_some_and(|least| least < 12) {
        warnings.push("spec.tls.minVersion: TLS 1.2 is the lowest version that is served".to_owned());
    }
    let (least, most) = (least.unwrap_or(12), most.unwrap_or(13));
    let versions = [(12, &TLS12), (13, &TLS13)];
    let versions: Vec<_> =
        versions.iter().filter(|(number, _)| (least..=most).contains(number)).map(|(_, version)| *version).collect();
    if versions.is_empty() {
        return Err(invalid("spec.tls: TLS 1.2 and 1.3 are the versions that are served"));
    }
    Ok(Some(versions))
}

/// A suite by OpenSSL's name. Those that are missing here are broken or give no forward secrecy.
fn suite(name: &str) -> Option<SupportedCipherSuite> {
    use ring::cipher_suite as suites;
    Some(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" => suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256" => suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-AES256-GCM-SHA384" => suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-CHACHA20-POLY1305" => suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        _ => return None,
    })
}

fn group(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    Some(match name {
        "X25519" => ring::kx_group::X25519,
        "P-256" => ring::kx_group::SECP256R1,
        "P-384" => ring::kx_group::SECP384R1,
        _ => return None,
    })
}

fn validate(
    seen: &Seen<'_>,
    namespace: &str,
    from: &ClientValidation,
    warnings: &mut Vec<String>,
) -> Result<(Option<Clients>, Demands), Fault> {
    // Who asks for more to be verified than is, is not served.
    if let Some(field) = from.unread.keys().find(|name| *name != "allowExpiredCertificate") {
        return Err(invalid(format!("spec.tls.clientValidation.{field} is not supported")));
    }
    tell(warnings, "tls.clientValidation.", &from.unread);
    let mut store = RootCertStore::empty();
    for reference in from.ca_certificate_refs.iter().flatten() {
        store.extend(authority(seen, namespace, reference)?.roots.iter().cloned());
    }
    let mode = match (from.mode.as_deref(), from.optional) {
        (Some(mode), _) => mode,
        (None, Some(true)) => "VerifyIfGiven",
        (None, _) => "RequireAndVerify",
    };
    let verified = matches!(mode, "VerifyIfGiven" | "RequireAndVerify");
    if verified && store.is_empty() {
        return Err(invalid("spec.tls.clientValidation.caCertificateRefs: no root to verify certificates by"));
    }
    let clients = match mode {
        "Request" => Clients::Asked,
        "RequireAny" => Clients::Any,
        "VerifyIfGiven" => Clients::Optional(Arc::new(store)),
        "RequireAndVerify" => Clients::Verified(Arc::new(store)),
        other => return Err(invalid(format!("spec.tls.clientValidation.mode: {other} is not known"))),
    };
    Ok((Some(clients), demands(from)?))
}

fn demands(from: &ClientValidation) -> Result<Demands, Fault> {
    let field = "tls.clientValidation";
    let hexadecimal = |text: &String| {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
        bytes.collect::<Option<Vec<u8>>>()
    };
    let digests = |name: &str, texts: Option<&Vec<String>>, read: &dyn Fn(&String) -> Option<Vec<u8>>| {
        let digest = |text: &String| {
            let digest = read(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            digest.ok_or_else(|| invalid(format!("spec.{field}.{name}: {text:?} is no SHA-256 digest")))
        };
        texts.into_iter().flatten().map(digest).collect::<Result<Vec<_>, _>>()
    };
    let names = from.subject_alt_names.clone().unwrap_or_default();
    if let Some(name) = names.unread.keys().next() {
        return Err(invalid(format!("spec.{field}.subjectAltNames.{name} is not supported")));
    }
    let wanted = |of| texts(&format!("{field}.subjectAltNames"), of);
    Ok(Demands {
        certificates: digests("certificateHashes", from.certificate_hashes.as_ref(), &hexadecimal)?,
        keys: digests("spkiHashes", from.spki_hashes.as_ref(), &|text| STANDARD.decode(text).ok())?,
        hosts: wanted(names.dns_names.as_ref())?,
        emails: wanted(names.email_addresses.as_ref())?,
        addresses: wanted(names.ip_addresses.as_ref())?,
        uris: wanted(names.uris.as_ref())?,
    })
}

/// The roots that a reference names.
fn authority(seen: &Seen<'_>, own: &str, reference: &Reference) -> Result<Arc<RootCertStore>, Fault> {
    let key = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
    let referrer = Referrer { group: envoy_gateway::GROUP, kind: "ClientTrafficPolicy", namespace: own };
    let group = reference.group.as_deref().unwrap_or("");
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    let unusable =
        |error: String| invalid(format!("spec.tls.clientValidation.caCertificateRefs: {kind} {key}: {error}"));
    match (group, kind) {
        ("", "ConfigMap") => {
            seen.permit(referrer, kind, &key)?;
            seen.roots(&key).map_err(unusable)
        }
        ("", "Secret") => {
            seen.permit(referrer, kind, &key)?;
            let secret = seen.secret(&key).ok_or_else(|| unusable("not found".to_owned()))?;
            let pem = secret.data.as_ref().and_then(|data| data.get(CA));
            let pem = pem.ok_or_else(|| unusable(format!("it has no {CA}")))?;
            roots(&pem.0).map(Arc::new).map_err(|error| unusable(error.to_string()))
        }
        _ => Err(unusable("only a Secret or a ConfigMap can hold roots".to_owned())),
    }
}
