//! Paths and query parameters of the distribution API.

use super::error::Refusal;
use crate::digest::Digest;
use crate::reference::{is_repository, is_tag};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Catalog,
    Uploads { name: String },
    Upload { name: String, id: String },
    Blob { name: String, digest: Digest },
    Manifest { name: String, reference: ManifestRef },
    Tags { name: String },
    Referrers { name: String, digest: Digest },
}

/// What names a manifest in its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestRef {
    Tag(String),
    Digest(Digest),
}

/// Reads a path; nothing when it is none of the API's.
pub(crate) fn route(path: &str) -> Option<Result<Route, Refusal>> {
    let path = decode(path);
    let rest = path.strip_prefix("/v2")?;
    match rest {
        "" | "/" => return Some(Ok(Route::Base)),
        "/_catalog" => return Some(Ok(Route::Catalog)),
        _ => {}
    }
    let rest = rest.strip_prefix('/')?;
    let uploads = rest.strip_suffix("/blobs/uploads").or_else(|| rest.strip_suffix("/blobs/uploads/"));
    if let Some(name) = uploads {
        return Some(named(name, |name| Ok(Route::Uploads { name })));
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some(named(name, |name| Ok(Route::Tags { name })));
    }
    let (head, last) = rest.rsplit_once('/')?;
    let (name, kind) = head.rsplit_once('/')?;
    match kind {
        "uploads" => {
            let name = name.strip_suffix("/blobs")?;
            Some(named(name, |name| Ok(Route::Upload { name, id: last.to_owned() })))
        }
        "blobs" => Some(named(name, |name| Ok(Route::Blob { name, digest: digest(last)? }))),
        "referrers" => Some(named(name, |name| Ok(Route::Referrers { name, digest: digest(last)? }))),
        "manifests" => Some(named(name, |name| Ok(Route::Manifest { name, reference: manifest_ref(last)? }))),
        _ => None,
    }
}

fn named(name: &str, route: impl FnOnce(String) -> Result<Route, Refusal>) -> Result<Route, Refusal> {
    if is_repository(name) { route(name.to_owned()) } else { Err(Refusal::NameInvalid(name.to_owned())) }
}

/// Reads a digest.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: crate::digest::DigestError| Refusal::DigestInvalid(error.to_string()))
}

fn manifest_ref(text: &str) -> Result<ManifestRef, Refusal> {
    if text.contains(':') {
        digest(text).map(ManifestRef::Digest)
    } else if is_tag(text) {
        Ok(ManifestRef::Tag(text.to_owned()))
    } else {
        Err(Refusal::ManifestInvalid(format!("{text:?} is neither a tag nor a digest")))
    }
}

/// The value of a query parameter.
pub(crate) fn parameter(query: Option<&str>, wanted: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name) == wanted).then(|| decode(&value.replace('+', " ")))
    })
}

/// Resolves percent escapes; what is none is kept as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| tail.get(..2)).flatten();
        let mut byte = [0];
        match escape {
            Some(digits) if hex::decode_to_slice(digits, &mut byte).is_ok() => {
                bytes.push(byte[0]);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The part of a blob that a `Range` header asks for: first byte and length. Nothing when there is no such header or it
/// is of a form that may be passed over.
pub(crate) fn byte_range(header: Option<&str>, size: u64) -> Result<Option<(u64, u64)>, Refusal> {
    let Some(header) = header else { return Ok(None) };
    let invalid = || Refusal::RangeInvalid { range: header.to_owned(), size };
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => (size.saturating_sub(suffix), size),
        _ => return Err(invalid()),
    };
    if start >= end { Err(invalid()) } else { Ok(Some((start, end - start))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_path_leads_out_of_the_folder(tail in "([a-z._%/:-]|%2e|%2f|blobs|uploads|manifests|tags/list){0,12}") {
            let name = match route(&format!("/v2/{tail}")) {
                Some(Ok(Route::Uploads { name } | Route::Upload { name, .. } | Route::Blob { name, .. })) => name,
                Some(Ok(Route::Manifest { name, .. } | Route::Tags { name } | Route::Referrers { name, .. })) => name,
                Some(Ok(Route::Base | Route::Catalog) | Err(_)) | None => return Ok(()),
            };
            prop_assert!(name.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '_'])), "{name}");
        }

        #[test]
        fn a_range_lies_in_the_blob(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Ok(Some((start, length))) = byte_range(Some(&header), size) {
                prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = Digest::of(b"");
        let ok = |path: &str| route(path).unwrap().unwrap();
        assert_eq!(ok("/v2/"), Route::Base);
        assert_eq!(ok("/v2/a/b/blobs/uploads/"), Route::Uploads { name: "a/b".into() });
        assert_eq!(ok("/v2/blobs/blobs/uploads/7"), Route::Upload { name: "blobs".into(), id: "7".into() });
        let escaped = digest.to_string().replace(':', "%3A");
        assert_eq!(ok(&format!("/v2/a/blobs/{escaped}")), Route::Blob { name: "a".into(), digest });
        let tag = ManifestRef::Tag("v1".into());
        assert_eq!(ok("/v2/manifests/manifests/v1"), Route::Manifest { name: "manifests".into(), reference: tag });
        assert_eq!(ok("/v2/a/tags/list"), Route::Tags { name: "a".into() });
        assert!(route("/v1/").is_none() && route("/v2/a").is_none() && route("/").is_none());
        for bad in ["/v2/A/tags/list", "/v2/../x/tags/list", "/v2/%2e%2e/tags/list"] {
            assert!(matches!(route(bad), Some(Err(Refusal::NameInvalid(_)))), "{bad}");
        }
        assert!(matches!(route("/v2/a/blobs/sha256:1"), Some(Err(Refusal::DigestInvalid(_)))));
    }

    #[test]
    fn ranges_lie_within_the_blob_or_are_refused() {
        assert_eq!(byte_range(None, 10).unwrap(), None);
        assert_eq!(byte_range(Some("bytes=2-4"), 10).unwrap(), Some((2, 3)));
        assert_eq!(byte_range(Some("bytes=2-"), 10).unwrap(), Some((2, 8)));
        assert_eq!(byte_range(Some("bytes=-3"), 10).unwrap(), Some((7, 3)));
        assert_eq!(byte_range(Some("bytes=2-99"), 10).unwrap(), Some((2, 8)));
        assert_eq!(byte_range(Some("lines=1-2"), 10).unwrap(), None);
        for bad in ["bytes=10-", "bytes=4-2", "bytes=-0", "bytes=a-b", "bytes=1-2,4-5"] {
            assert!(byte_range(Some(bad), 10).is_err(), "{bad}");
        }
    }
}
