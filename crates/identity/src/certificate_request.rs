//! Requests for certificates (PKCS #10, RFC 2986): what somebody asks to be signed.

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::der;

/// Longest request that is looked at; real ones are about 1 KiB.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// A certificate request cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRequestError {
    /// Not the right kind of PEM.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    /// The content of the block is not what it says.
    #[error("the certificate request is malformed")]
    Malformed,
    /// The holder of the key did not sign it.
    #[error("the certificate request's signature is invalid or of an unsupported algorithm")]
    Signature,
}

/// A certificate request whose signature proves that its key's holder made it.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Common name, empty for none.
    pub common_name: String,
    /// Organisations: the groups of a client.
    pub organizations: Vec<String>,
    /// DNS names asked for.
    pub dns_names: Vec<String>,
    /// IP addresses asked for, 4 or 16 bytes each.
    pub ip_addresses: Vec<Vec<u8>>,
    /// E-mail addresses asked for.
    pub email_addresses: Vec<String>,
    /// URIs asked for.
    pub uris: Vec<String>,
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
}

impl CertificateRequest {
    /// Reads a request in PEM and checks its signature.
    ///
    /// # Errors
    /// Says whether the PEM, its content or the signature is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, CertificateRequestError> {
        use CertificateRequestError::Pem;
        if text.len() > REQUEST_BYTES_MAX {
            return Err(Pem);
        }
        let block = pem::parse(text).map_err(|_| Pem)?;
        if block.tag() != "CERTIFICATE REQUEST" {
            return Err(Pem);
        }
        Self::parse_der(block.contents())
    }

    /// Reads a request in DER and checks its signature.
    ///
    /// # Errors
    /// Says whether the content or the signature is wrong.
    pub fn parse_der(bytes: &[u8]) -> Result<Self, CertificateRequestError> {
        use CertificateRequestError::{Malformed, Signature};
        let (rest, request) = X509CertificationRequest::from_der(bytes).map_err(|_| Malformed)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        request.verify_signature().map_err(|_| Signature)?;
        let info = &request.certification_request_info;
        let texts = |values: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            values
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| Malformed)
        };
        let mut parsed = Self {
            // as Go reads a subject: of several common names the last one counts
            common_name: texts(info.subject.iter_common_name().collect())?.pop().unwrap_or_default(),
            organizations: texts(info.subject.iter_organization().collect())?,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            email_addresses: Vec::new(),
            uris: Vec::new(),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        parsed.add(name)?;
                    }
                }
                ParsedExtension::ParseError { .. } => return Err(Malformed),
                _ => {}
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), CertificateRequestError> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.email_addresses.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => self.ip_addresses.push(bytes.to_vec()),
            GeneralName::IPAddress(_) | GeneralName::Invalid(..) => return Err(CertificateRequestError::Malformed),
            // kinds of names that no signer of Kubernetes passes on
            _ => {}
        }
        Ok(())
    }

    /// The alternative names as the value of a certificate's extension; `None` when there are none.
    pub(crate) fn alternative_names(&self) -> Option<Vec<u8>> {
        const EMAIL: u8 = 0x81;
        const DNS: u8 = 0x82;
        const URI: u8 = 0x86;
        const IP: u8 = 0x87;
        let texts = |tag: u8, names: &[String]| -> Vec<Vec<u8>> {
            names.iter().map(|name| der::tagged(tag, name.as_bytes())).collect()
        };
        let mut names = texts(DNS, &self.dns_names);
        names.extend(texts(EMAIL, &self.email_addresses));
        names.extend(self.ip_addresses.iter().map(|bytes| der::tagged(IP, bytes)));
        names.extend(texts(URI, &self.uris));
        (!names.is_empty()).then(|| der::sequence(names))
    }

    /// Whether the subject says nothing, so that the alternative names are all there is.
    pub(crate) fn is_unnamed(&self) -> bool {
        self.subject == der::sequence::<&[u8]>([])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    /// A request for `name` of `organization` with DNS names, in PEM.
    pub(crate) fn request(name: &str, organization: &str, dns: &[&str]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.subject_alt_names = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let parsed = CertificateRequest::parse(request("jane", "dev", &["a.io", "b.io"]).as_bytes()).unwrap();
        assert_eq!((parsed.common_name.as_str(), &parsed.organizations[..]), ("jane", &["dev".to_owned()][..]));
        assert_eq!(parsed.dns_names, ["a.io", "b.io"]);
    }

    #[test]
    fn a_changed_request_or_other_pem_is_refused() {
        use CertificateRequestError::{Malformed, Pem, Signature};
        let mut block = ::pem::parse(request("jane", "dev", &[])).unwrap().into_contents();
        let at = block.windows(4).position(|window| window == b"jane").unwrap();
        block[at] = b'd';
        let encode = |tag: &str, bytes: &[u8]| ::pem::encode(&::pem::Pem::new(tag, bytes));
        for (text, why) in [
            (encode("CERTIFICATE REQUEST", &block), Signature),
            (encode("CERTIFICATE REQUEST", b"x"), Malformed),
            (encode("CERTIFICATE", &block), Pem),
            ("junk".to_owned(), Pem),
        ] {
            assert_eq!(CertificateRequest::parse(text.as_bytes()).unwrap_err(), why);
        }
    }
}
