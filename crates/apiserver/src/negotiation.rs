//! What the caller wants the answer to look like.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// The shape of an answer with objects in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects as they are.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata, or its list.
    PartialMetadata,
}

/// Which encoding carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// Kubernetes' protobuf, of built-in kinds only and slower than JSON here: for clients that take nothing else.
    Protobuf,
}

/// The outcome of content negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

impl Accepted {
    /// Plain JSON.
    pub(crate) const PLAIN: Self = Self { shape: Shape::Object, encoding: Encoding::Json };
}

/// Protobuf's media type.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PRODUCED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// What is left for kinds that are known only as JSON.
pub(crate) const PRODUCED_AS_TEXT: &str = "application/json, application/yaml";

/// Picks the first acceptable entry of the `Accept` header, protobuf last; none given means JSON. What is not kept as
/// objects, such as a review, has no rows: `has_tables` says whether a table can be made.
pub(crate) fn accepted(headers: &HeaderMap, has_tables: bool) -> Result<Accepted, ApiError> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Accepted::PLAIN) };
    if accept.as_bytes() == b"application/json" {
        return Ok(Accepted::PLAIN);
    }
    let Ok(accept) = accept.to_str() else { return Err(ApiError::not_acceptable(PRODUCED)) };
    if accept.trim().is_empty() {
        return Ok(Accepted::PLAIN);
    }
    let (protobuf, text): (Vec<Accepted>, Vec<Accepted>) =
        accept.split(',').filter_map(entry).partition(|accepted| accepted.encoding == Encoding::Protobuf);
    let can_be = |accepted: &&Accepted| has_tables || accepted.shape != Shape::Table;
    let first = text.iter().find(can_be).or(protobuf.first()).copied();
    first.ok_or_else(|| ApiError::not_acceptable(PRODUCED))
}

fn entry(entry: &str) -> Option<Accepted> {
    let mut parts = entry.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" | "text/html" => Encoding::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => Encoding::Yaml,
        PROTOBUF => Encoding::Protobuf,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for (key, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        match key {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    if encoding == Encoding::Protobuf && !kind.is_empty() {
        return None;
    }
    let shape = match (kind, group, version) {
        ("", _, _) => Shape::Object,
        ("Table", "meta.k8s.io", "v1") => Shape::Table,
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Shape::PartialMetadata,
        _ => return None,
    };
    Some(Accepted { shape, encoding })
}

/// Whether a header with quality values (`Accept-Encoding`) names gzip as acceptable.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').map(str::trim).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> Result<Accepted, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(value));
        accepted(&headers, true)
    }

    #[test]
    fn the_first_acceptable_entry_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(table).unwrap().shape, Shape::Table);
        assert_eq!(
            accept("application/json;as=Table;v=v9;g=meta.k8s.io,application/json").unwrap().shape,
            Shape::Object
        );
        assert_eq!(accept("application/vnd.kubernetes.protobuf, application/json").unwrap().encoding, Encoding::Json);
        assert_eq!(accept("application/yaml").unwrap().encoding, Encoding::Yaml);
        assert_eq!(accept("*/*").unwrap().encoding, Encoding::Json);
        assert_eq!(accept("application/vnd.kubernetes.protobuf").unwrap().encoding, Encoding::Protobuf);
        assert_eq!(accept("application/vnd.kubernetes.protobuf;stream=watch").unwrap().encoding, Encoding::Protobuf);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(accept(metadata).unwrap_err().code, 406);
    }

    #[test]
    fn what_has_no_rows_makes_no_table() {
        let mut headers = HeaderMap::new();
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(table));
        assert_eq!(accepted(&headers, false).unwrap_err().code, 406);
        let either = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(either));
        assert_eq!(accepted(&headers, false).unwrap().shape, Shape::Object);
    }

    #[test]
    fn gzip_is_used_only_when_asked_for() {
        let mut headers = HeaderMap::new();
        assert!(!takes_gzip(&headers));
        headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("deflate, gzip;q=1.0"));
        assert!(takes_gzip(&headers));
        headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("gzip;q=0"));
        assert!(!takes_gzip(&headers));
    }
}
