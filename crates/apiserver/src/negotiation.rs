//! What the caller wants the answer to look like.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// The shape of an answer with objects in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects as they are.
    Object,
    /// A Table.
    Table(MetaVersion),
    /// PartialObjectMetadata, or its list.
    PartialMetadata(MetaVersion),
}

/// The version of `meta.k8s.io` a shape was asked for in: their fields are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    fn of(version: &str) -> Option<Self> {
        match version {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    /// The version as objects name it.
    pub(crate) const fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// Which encoding carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// Kubernetes' protobuf, slower than JSON here: for clients that do not take JSON as readily.
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

/// What an answer can be made into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// It has rows; what is not kept as objects, such as a review, has none.
    pub(crate) tables: bool,
    /// Its objects have protobuf messages; those of custom resources have none, but their metadata has.
    pub(crate) messages: bool,
    /// It is a stream of events.
    pub(crate) stream: bool,
}

/// Protobuf's media type.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PRODUCED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMED: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const ENCODINGS: [(&str, Encoding); 3] =
    [("json", Encoding::Json), ("yaml", Encoding::Yaml), ("vnd.kubernetes.protobuf", Encoding::Protobuf)];

/// One way in which the client would take the answer.
#[derive(Clone, Copy, Debug)]
struct Wish<'a> {
    encoding: Encoding,
    /// In thousandths.
    quality: u16,
    /// How much of the media type is left open.
    wildcards: u8,
    kind: &'a str,
    group: &'a str,
    version: &'a str,
    /// Set in lines, for people.
    pretty: bool,
}

/// What an `Accept` header names that can be produced at all, the most wanted first.
fn wishes(accept: &str) -> Vec<Wish<'_>> {
    let mut wishes: Vec<Wish<'_>> = accept.split(',').flat_map(of_entry).collect();
    wishes.sort_by_key(|wish| (std::cmp::Reverse(wish.quality), wish.wildcards));
    wishes
}

fn of_entry(entry: &str) -> impl Iterator<Item = Wish<'_>> {
    let mut parts = entry.split(';').map(str::trim);
    let (kind, form) = parts.next().and_then(|media_type| media_type.split_once('/')).unwrap_or_default();
    let mut wish = Wish {
        encoding: Encoding::Json,
        quality: 1000,
        wildcards: u8::from(kind == "*") + u8::from(form == "*"),
        kind: "",
        group: "",
        version: "",
        pretty: false,
    };
    let (mut streamed, mut unknown) = (false, false);
    for (key, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        match key {
            "as" => wish.kind = value,
            "g" => wish.group = value,
            "v" => wish.version = value,
            "q" => wish.quality = value.parse::<f32>().map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16),
            "stream" => (streamed, unknown) = (value == "watch", unknown || !matches!(value, "" | "watch")),
            // no group has versions of its server
            "sv" => unknown |= !value.is_empty(),
            "pretty" => wish.pretty = value == "1",
            _ => {}
        }
    }
    let named = matches!(kind, "application" | "*") && (kind != "*" || form == "*") && !unknown;
    ENCODINGS
        .into_iter()
        .filter(move |(known, encoding)| {
            named && (form == "*" || form == *known) && !(streamed && *encoding == Encoding::Yaml)
        })
        .map(move |(_, encoding)| Wish { encoding, ..wish })
}

/// Whether the client has a wish that is more than plain JSON; told without taking the header apart.
fn accept(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(None) };
    if matches!(accept.as_bytes(), b"application/json" | b"*/*") {
        return Ok(None);
    }
    let accept = accept.to_str().map_err(|_| ApiError::not_acceptable(PRODUCED))?;
    Ok(Some(accept).filter(|accept| !accept.trim().is_empty()))
}

/// Picks what the `Accept` header wants most of what is offered; none given means JSON. Where JSON of whole objects is
/// wanted by name just as much as protobuf, it is JSON, of which stored objects consist already.
pub(crate) fn accepted(headers: &HeaderMap, offer: Offer) -> Result<Accepted, ApiError> {
    let Some(accept) = accept(headers)? else { return Ok(Accepted::PLAIN) };
    let shape = |wish: &Wish<'_>| {
        let shape = match (wish.kind, wish.group) {
            ("", "") if wish.version.is_empty() => Shape::Object,
            ("Table", "meta.k8s.io") => Shape::Table(MetaVersion::of(wish.version)?),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io") => {
                Shape::PartialMetadata(MetaVersion::of(wish.version)?)
            }
            _ => return None,
        };
        let is_offered = match (shape, wish.encoding) {
            (Shape::Object, Encoding::Protobuf) => offer.messages,
            (Shape::Table(_), Encoding::Protobuf) => false,
            (Shape::Table(_), _) => offer.tables,
            _ => true,
        };
        is_offered.then_some(shape)
    };
    let wishes = wishes(accept);
    let mut can_be = wishes.iter().filter_map(|wish| Some((wish, shape(wish)?)));
    let Some((first, shape)) = can_be.next() else { return Err(ApiError::not_acceptable(PRODUCED)) };
    // what is wanted most is settled before it turns out that it cannot be streamed
    if offer.stream && first.encoding == Encoding::Yaml {
        return Err(ApiError::not_acceptable(STREAMED));
    }
    let as_much = |(wish, other): (&Wish<'_>, Shape)| {
        wish.encoding == Encoding::Json
            && other == shape
            && (wish.quality, wish.wildcards) == (first.quality, first.wildcards)
    };
    let encoding = match first.encoding {
        Encoding::Protobuf if shape == Shape::Object && can_be.any(as_much) => Encoding::Json,
        encoding => encoding,
    };
    Ok(Accepted { shape, encoding })
}

/// How a failure is told to a client that sent this `Accept` header: as it would take an object, or else as JSON.
pub(crate) fn of_failure(accept: Option<&header::HeaderValue>) -> Accepted {
    let Some(accept) = accept.and_then(|accept| accept.to_str().ok()) else { return Accepted::PLAIN };
    let wishes = wishes(accept);
    let mut plain = wishes.iter().filter(|wish| wish.kind.is_empty());
    let Some(first) = plain.next() else { return Accepted::PLAIN };
    let encoding = match first.encoding {
        Encoding::Protobuf if plain.any(|wish| wish.encoding == Encoding::Json && wish.quality == first.quality) => {
            Encoding::Json
        }
        encoding => encoding,
    };
    Accepted { encoding, ..Accepted::PLAIN }
}

/// Whether JSON is wanted in lines.
pub(crate) fn wants_lines(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) else { return false };
    // few clients ask for it, and looking for the word is cheaper than taking the header apart
    accept.contains("pretty")
        && wishes(accept).iter().find(|wish| wish.encoding == Encoding::Json).is_some_and(|wish| wish.pretty)
}

/// How discovery is wanted: in which version of the aggregated form, if in any, and in which encoding.
pub(crate) fn discovery(headers: &HeaderMap) -> Result<(Option<&'static str>, Accepted), ApiError> {
    let Some(accept) = accept(headers)? else { return Ok((None, Accepted::PLAIN)) };
    let form = |wish: Wish<'_>| {
        let version = match (wish.kind, wish.group, wish.version) {
            ("", "", "") => None,
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Some("v2beta1"),
            _ => return None,
        };
        Some((version, Accepted { encoding: wish.encoding, ..Accepted::PLAIN }))
    };
    let found = wishes(accept).into_iter().find_map(form);
    found.ok_or_else(|| ApiError::not_acceptable(PRODUCED))
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

    const OFFER: Offer = Offer { tables: true, messages: true, stream: false };
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

    fn headers(accept: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        headers
    }

    fn offered(accept: &'static str, offer: Offer) -> Result<(Shape, Encoding), ApiError> {
        accepted(&headers(accept), offer).map(|accepted| (accepted.shape, accepted.encoding))
    }

    #[test]
    fn the_most_wanted_entry_that_can_be_made_wins() {
        let table = [
            ("*/*", Shape::Object, Encoding::Json),
            ("application/*", Shape::Object, Encoding::Json),
            ("text/html,application/xml;q=0.9,*/*;q=0.8", Shape::Object, Encoding::Json),
            ("application/yaml", Shape::Object, Encoding::Yaml),
            ("application/json;q=0.5,application/yaml", Shape::Object, Encoding::Yaml),
            ("*/*,application/yaml", Shape::Object, Encoding::Yaml),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Shape::Table(MetaVersion::V1),
                Encoding::Json,
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Shape::Table(MetaVersion::V1Beta1),
                Encoding::Json,
            ),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Shape::Object, Encoding::Json),
            ("application/vnd.kubernetes.protobuf", Shape::Object, Encoding::Protobuf),
            ("application/vnd.kubernetes.protobuf;stream=watch", Shape::Object, Encoding::Protobuf),
            ("application/vnd.kubernetes.protobuf, */*", Shape::Object, Encoding::Protobuf),
            ("application/vnd.kubernetes.protobuf,application/json;q=0.9", Shape::Object, Encoding::Protobuf),
            ("application/vnd.kubernetes.protobuf, application/json", Shape::Object, Encoding::Json),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                Shape::PartialMetadata(MetaVersion::V1),
                Encoding::Protobuf,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                Shape::PartialMetadata(MetaVersion::V1),
                Encoding::Protobuf,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
                Shape::Object,
                Encoding::Json,
            ),
        ];
        for (accept, shape, encoding) in table {
            assert_eq!(offered(accept, OFFER).unwrap(), (shape, encoding), "{accept}");
        }
        let refused = [
            "application/xml",
            "text/yaml",
            "application/json;stream=other",
            "application/json;as=Table",
            "application/json;sv=v1",
            "application/yaml;stream=watch",
        ];
        for accept in refused {
            assert_eq!(offered(accept, OFFER).unwrap_err().code, 406, "{accept}");
        }
    }

    #[test]
    fn json_is_set_in_lines_for_who_says_so_where_json_is_named() {
        for (accept, wanted) in [
            ("application/json;pretty=1", true),
            ("application/json;pretty=true", false),
            ("application/json, application/json;pretty=1", false),
            ("application/yaml;pretty=1, application/json;pretty=1;q=0.5", true),
            ("*/*;pretty=1", true),
            ("application/json", false),
        ] {
            assert_eq!(wants_lines(&headers(accept)), wanted, "{accept}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_not_offered() {
        let none = Offer { tables: false, messages: false, ..OFFER };
        assert_eq!(offered(TABLE, none).unwrap_err().code, 406);
        assert_eq!(
            offered(PROTOBUF, none).unwrap_err().message,
            format!("only the following media types are accepted: {PRODUCED}")
        );
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(offered(metadata, none).unwrap(), (Shape::PartialMetadata(MetaVersion::V1), Encoding::Protobuf));
        let stream = Offer { stream: true, ..OFFER };
        let refused = offered("application/yaml", stream).unwrap_err();
        assert_eq!(refused.message, format!("only the following media types are accepted: {STREAMED}"));
        assert_eq!(offered("application/json;stream=watch", stream).unwrap(), (Shape::Object, Encoding::Json));
    }

    #[test]
    fn failures_are_told_in_the_client_s_encoding() {
        let told = |accept: &'static str| of_failure(Some(&header::HeaderValue::from_static(accept))).encoding;
        assert_eq!(told(PROTOBUF), Encoding::Protobuf);
        assert_eq!(told("application/yaml"), Encoding::Yaml);
        assert_eq!(told("application/vnd.kubernetes.protobuf,application/json"), Encoding::Json);
        assert_eq!(told("application/xml"), Encoding::Json);
        assert_eq!(told(TABLE), Encoding::Json);
    }

    #[test]
    fn discovery_has_its_own_forms() {
        let wanted = |accept| discovery(&headers(accept)).map(|(version, accepted)| (version, accepted.encoding));
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(wanted(v2).unwrap(), (Some("v2"), Encoding::Json));
        assert_eq!(wanted("application/json").unwrap(), (None, Encoding::Json));
        assert_eq!(wanted(PROTOBUF).unwrap(), (None, Encoding::Protobuf));
        let unknown = "application/json;g=apidiscovery.k8s.io;v=v1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(wanted(unknown).unwrap(), (None, Encoding::Json));
        assert_eq!(wanted("application/xml").unwrap_err().code, 406);
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
