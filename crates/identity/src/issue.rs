//! Issuing a certificate for a request: what it may be used for, how long, and its encoding (RFC 5280).
//!
//! Subject and key are taken from the request byte by byte, so that every organisation of a subject survives.

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{
    CertificateRequest,
    authority::{AuthorityError, CLOCK_SKEW_MINUTES},
    der,
};

/// Lifetimes shorter than this are granted in full after the back-dating, as upstream does.
const SHORT_SECONDS: i64 = 8 * 3600;
const SERIAL_BYTES: usize = 16;

/// Object identifiers, encoded.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a certificate may be used for: bits of the key usage and identifiers of the extended key usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    /// Bit 0 (digital signature) is the highest bit, as in the encoding.
    bits: u16,
    extended: Vec<&'static [u8]>,
}

/// Some usages have no meaning.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized usage values: {0:?}")]
pub struct UnknownUsages(pub Vec<String>);

impl Usages {
    /// Reads the names that CertificateSigningRequests use.
    ///
    /// # Errors
    /// Lists the names that mean nothing.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownUsages> {
        let (mut usages, mut unknown) = (Self::default(), Vec::new());
        for name in names {
            match (bit(name), extended(name)) {
                (Some(bit), _) => usages.bits |= 0x8000 >> bit,
                (None, Some(identifier)) if usages.extended.contains(&identifier) => {}
                (None, Some(identifier)) => usages.extended.push(identifier),
                (None, None) => unknown.push(name.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(usages) } else { Err(UnknownUsages(unknown)) }
    }

    fn encoded_bits(&self) -> Vec<u8> {
        let bytes = self.bits.to_be_bytes();
        let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
        let unused = used.last().map_or(0, |last| last.trailing_zeros().min(7) as u8);
        let mut content = vec![unused];
        content.extend_from_slice(used);
        der::tagged(der::BIT_STRING, &content)
    }
}

fn bit(name: &str) -> Option<u32> {
    Some(match name {
        "signing" | "digital signature" => 0,
        "content commitment" => 1,
        "key encipherment" => 2,
        "data encipherment" => 3,
        "key agreement" => 4,
        "cert sign" => 5,
        "crl sign" => 6,
        "encipher only" => 7,
        "decipher only" => 8,
        _ => return None,
    })
}

fn extended(name: &str) -> Option<&'static [u8]> {
    const PKIX: [&[u8]; 9] = [
        &[0x2b, 6, 1, 5, 5, 7, 3, 1],
        &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        &[0x2b, 6, 1, 5, 5, 7, 3, 3],
        &[0x2b, 6, 1, 5, 5, 7, 3, 4],
        &[0x2b, 6, 1, 5, 5, 7, 3, 5],
        &[0x2b, 6, 1, 5, 5, 7, 3, 6],
        &[0x2b, 6, 1, 5, 5, 7, 3, 7],
        &[0x2b, 6, 1, 5, 5, 7, 3, 8],
        &[0x2b, 6, 1, 5, 5, 7, 3, 9],
    ];
    Some(match name {
        "any" => &[0x55, 0x1d, 0x25, 0],
        "server auth" => PKIX[0],
        "client auth" => PKIX[1],
        "code signing" => PKIX[2],
        "email protection" | "s/mime" => PKIX[3],
        "ipsec end system" => PKIX[4],
        "ipsec tunnel" => PKIX[5],
        "ipsec user" => PKIX[6],
        "timestamping" => PKIX[7],
        "ocsp signing" => PKIX[8],
        "microsoft sgc" => &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3],
        "netscape sgc" => &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1],
        _ => return None,
    })
}

/// From when until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Validity {
    /// A validity of `seconds`, back-dated for clocks that are behind and never longer than the issuer's own.
    pub(crate) fn of(seconds: i64, now: Timestamp, issuer_not_after: Timestamp) -> Result<Self, AuthorityError> {
        let clock = |_| AuthorityError::Clock(now);
        let not_before = now.checked_sub(CLOCK_SKEW_MINUTES.minutes()).map_err(clock)?;
        let from = if seconds < SHORT_SECONDS { now } else { not_before };
        let not_after = from.checked_add(seconds.seconds()).map_err(clock)?.min(issuer_not_after);
        Ok(Self { not_before, not_after })
    }

    fn encoded(self) -> Vec<u8> {
        der::sequence([time(self.not_before), time(self.not_after)])
    }
}

/// Until 2049 with two digits of the year, as the standard demands.
fn time(at: Timestamp) -> Vec<u8> {
    let zoned = at.to_zoned(TimeZone::UTC);
    if (1950..2050).contains(&zoned.year()) {
        der::tagged(der::UTC_TIME, zoned.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        der::tagged(der::GENERALIZED_TIME, zoned.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

/// Who issues, as it is written into certificates.
pub(crate) struct IssuerName {
    pub(crate) subject: Vec<u8>,
    pub(crate) key_identifier: Option<Vec<u8>>,
    pub(crate) signature_algorithm: Vec<u8>,
}

/// The part of a certificate that is signed.
pub(crate) fn to_be_signed(
    issuer: &IssuerName,
    request: &CertificateRequest,
    usages: &Usages,
    validity: Validity,
) -> Result<Vec<u8>, AuthorityError> {
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    serial[0] &= 0x7f;
    let version = der::tagged(0xa0, &der::tagged(der::INTEGER, &[2]));
    let extensions = der::tagged(0xa3, &der::sequence(extensions(issuer, request, usages)));
    Ok(der::sequence([
        version,
        der::positive(&serial),
        issuer.signature_algorithm.clone(),
        issuer.subject.clone(),
        validity.encoded(),
        request.subject.clone(),
        request.public_key.clone(),
        extensions,
    ]))
}

fn extensions(issuer: &IssuerName, request: &CertificateRequest, usages: &Usages) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    if usages.bits != 0 {
        all.push(extension(KEY_USAGE, true, &usages.encoded_bits()));
    }
    if !usages.extended.is_empty() {
        let identifiers = usages.extended.iter().map(|arcs| der::identifier(arcs));
        all.push(extension(EXTENDED_KEY_USAGE, false, &der::sequence(identifiers)));
    }
    all.push(extension(BASIC_CONSTRAINTS, true, &der::sequence::<&[u8]>([])));
    if let Some(identifier) = &issuer.key_identifier {
        let value = der::sequence([der::tagged(0x80, identifier)]);
        all.push(extension(AUTHORITY_KEY_IDENTIFIER, false, &value));
    }
    if let Some(names) = request.alternative_names() {
        all.push(extension(SUBJECT_ALTERNATIVE_NAME, request.is_unnamed(), &names));
    }
    all
}

fn extension(identifier: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![der::identifier(identifier)];
    if critical {
        parts.push(der::tagged(der::BOOLEAN, &[0xff]));
    }
    parts.push(der::tagged(der::OCTET_STRING, value));
    der::sequence(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_read_by_name() {
        let usages = Usages::named(["digital signature", "key encipherment", "client auth", "client auth"]).unwrap();
        assert_eq!(usages.encoded_bits(), [3, 2, 5, 0xa0]);
        assert_eq!(usages.extended.len(), 1);
        assert_eq!(Usages::named(["decipher only"]).unwrap().encoded_bits(), [3, 3, 7, 0, 0x80]);
        assert_eq!(Usages::named(["x", "any"]).unwrap_err().to_string(), r#"unrecognized usage values: ["x"]"#);
    }

    #[test]
    fn a_validity_is_back_dated_and_ends_with_its_issuer() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-22T12:00:00Z");
        let day = Validity::of(86_400, now, at("2036-01-01T00:00:00Z")).unwrap();
        assert_eq!(day, Validity { not_before: at("2026-11-22T11:55:00Z"), not_after: at("2026-11-23T11:55:00Z") });
        let short = Validity::of(600, now, at("2036-01-01T00:00:00Z")).unwrap();
        assert_eq!(short.not_after, at("2026-11-22T12:10:00Z"));
        let cut = Validity::of(86_400, now, at("2026-11-22T18:00:00Z")).unwrap();
        assert_eq!(cut.not_after, at("2026-11-22T18:00:00Z"));
    }

    #[test]
    fn years_from_2050_on_are_written_in_full() {
        assert_eq!(time("2049-12-31T23:59:59Z".parse().unwrap())[..2], [der::UTC_TIME, 13]);
        assert_eq!(time("2050-01-01T00:00:00Z".parse().unwrap())[..2], [der::GENERALIZED_TIME, 15]);
    }
}
