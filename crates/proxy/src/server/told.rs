//! What backends are told of a client's certificate, in the way of Envoy's `X-Forwarded-Client-Cert`.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::routing::CertificateDetail;

/// Characters of a line in PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// One element of the header: the digest of the certificate, and what else is asked for.
pub(crate) fn element(shown: &[CertificateDer<'_>], details: &[CertificateDetail]) -> HeaderValue {
    let Some(leaf) = shown.first() else { return HeaderValue::from_static("") };
    let mut element = String::from("Hash=");
    for byte in Sha256::digest(leaf) {
        let _ = write!(element, "{byte:02x}");
    }
    let parsed = X509Certificate::from_der(leaf).ok().map(|(_, certificate)| certificate);
    for detail in details {
        match detail {
            CertificateDetail::Certificate => add(&mut element, "Cert", &encoded(&shown[..1])),
            CertificateDetail::Chain => add(&mut element, "Chain", &encoded(shown)),
            CertificateDetail::Subject => {
                let subject = parsed.as_ref().map(|parsed| parsed.subject().to_string()).unwrap_or_default();
                add(&mut element, "Subject", &subject);
            }
            CertificateDetail::Hosts | CertificateDetail::Uris => {
                for (name, value) in names(parsed.as_ref(), *detail) {
                    add(&mut element, name, &value);
                }
            }
        }
    }
    HeaderValue::try_from(element).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn names(parsed: Option<&X509Certificate<'_>>, detail: CertificateDetail) -> Vec<(&'static str, String)> {
    let names = parsed.and_then(|parsed| parsed.subject_alternative_name().ok().flatten());
    let names = names.into_iter().flat_map(|names| names.value.general_names.iter());
    let name = |name: &GeneralName<'_>| match (name, detail) {
        (GeneralName::DNSName(host), CertificateDetail::Hosts) => Some(("DNS", (*host).to_owned())),
        (GeneralName::URI(uri), CertificateDetail::Uris) => Some(("URI", (*uri).to_owned())),
        _ => None,
    };
    names.filter_map(name).collect()
}

/// Values with characters of the header's own grammar are quoted.
fn add(element: &mut String, name: &str, value: &str) {
    let plain = !value.is_empty() && !value.contains([',', ';', '=', '"', ' ']);
    // Else what a certificate says could end the header, or begin another one.
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let value: String = value.chars().map(visible).collect();
    let _ = match plain {
        true => write!(element, ";{name}={value}"),
        false => write!(element, ";{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    };
}

/// Certificates in PEM, with what is not allowed in URLs written by its number.
fn encoded(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(certificate).as_bytes().chunks(PEM_LINE) {
            text.extend(line.iter().copied().map(char::from));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_by_its_digest_and_what_is_asked_for() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        parameters.subject_alt_names.push(rcgen::SanType::URI("spiffe://a/b".try_into().unwrap()));
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "say \"x\"; By=y");
        let key = rcgen::KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().clone();
        let all = [CertificateDetail::Uris, CertificateDetail::Hosts, CertificateDetail::Subject];
        let told = element(std::slice::from_ref(&der), &all);
        let told = told.to_str().unwrap();
        let hash = told.strip_prefix("Hash=").unwrap().split(';').next().unwrap();
        assert_eq!(hash.len(), 64);
        assert!(told.contains(";URI=\"spiffe://a/b\"") || told.contains(";URI=spiffe://a/b"), "{told}");
        assert!(told.contains(";DNS=a.test") && told.contains("\\\"x\\\"; By=y\""), "{told}");
        let chain = element(&[der.clone(), der], &[CertificateDetail::Chain]);
        assert_eq!(chain.to_str().unwrap().matches("BEGIN%20CERTIFICATE").count(), 2);
    }
}
