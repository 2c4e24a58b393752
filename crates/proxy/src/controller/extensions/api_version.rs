//! Our ApiVersionFilter.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use kinds::{
    gateway::HTTPBackendRef,
    gateway_extensions::{ApiVersion, ApiVersionFilter, VersionLink, VersionLocation},
};
use serde_json::json;

use crate::{
    controller::{
        filters::{Filtered, header_name, header_value, unsupported},
        verdict::Fault,
    },
    routing::{Direct, HeaderEdits, Version, VersionPlace, Versions},
};

/// Says since when a resource is deprecated (RFC 9745).
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");

/// Says when a resource is gone (RFC 8594).
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// By which header the backend is told unless the filter says otherwise.
const TOLD: HeaderName = HeaderName::from_static("api-version");

pub(super) fn compile(filter: &ApiVersionFilter, into: &mut Filtered) -> Result<(), Fault> {
    if into.versions.is_some() {
        return Err(unsupported("only one ApiVersionFilter is supported per HTTPRouteRule"));
    }
    into.versions = Some(filter.spec.clone());
    Ok(())
}

/// The versions among which the requests of a rule with these backends choose.
pub(crate) fn versions(
    spec: &kinds::gateway_extensions::ApiVersionFilterSpec,
    backends: &[HTTPBackendRef],
) -> Result<Versions, Fault> {
    let places = spec.locations.iter().map(place).collect::<Result<_, _>>()?;
    let all: Vec<_> = spec.versions.iter().map(|from| version(from, backends)).collect::<Result<_, _>>()?;
    let names = || spec.versions.iter().flat_map(|version| std::iter::once(&version.name).chain(&version.aliases));
    if let Some(twice) = names().enumerate().find(|(at, name)| names().take(*at).any(|other| other == *name)) {
        return Err(unsupported(format!("versions: {:?} is the name of two", twice.1)));
    }
    let number = |name: &String| {
        let found = spec.versions.iter().position(|version| version.name == *name);
        found.ok_or_else(|| unsupported(format!("default: {name:?} is the name of no version")))
    };
    let known: Vec<_> = spec.versions.iter().map(|version| version.name.as_str()).collect();
    let detail = format!("the version of the API must be one of {}", known.join(", "));
    Ok(Versions {
        places,
        default: spec.default_.as_ref().map(number).transpose()?,
        header: spec.request_header.as_deref().map_or(Ok(TOLD), header_name)?,
        all,
        unknown: Arc::new(problem(StatusCode::BAD_REQUEST, &detail, Vec::new())),
    })
}

fn place(from: &VersionLocation) -> Result<VersionPlace, Fault> {
    match (&*from.type_, &from.prefix, &from.header, &from.media_type, &from.parameter) {
        ("Path", prefix, ..) => Ok(VersionPlace::Path(prefix.as_deref().unwrap_or("/").trim_end_matches('/').into())),
        ("Header", _, Some(name), ..) => Ok(VersionPlace::Header(header_name(name)?)),
        ("MediaType", _, _, Some(text), None) => VersionPlace::media_type(text)
            .ok_or_else(|| unsupported(format!("mediaType {text:?} is no media type with {{version}} in it"))),
        ("MediaType", _, _, None, Some(name)) => Ok(VersionPlace::Parameter(name.as_str().into())),
        (other, ..) => Err(unsupported(format!("a location of type {other:?} lacks what belongs to it"))),
    }
}

fn version(from: &ApiVersion, backends: &[HTTPBackendRef]) -> Result<Version, Fault> {
    let shares = match &*from.backends {
        [] => None,
        named => {
            if let Some(missing) = named.iter().find(|name| backends.iter().all(|backend| backend.name != **name)) {
                let message = format!("version {}: the rule has no backendRef {missing:?}", from.name);
                return Err(unsupported(message));
            }
            Some(backends.iter().map(|backend| named.contains(&backend.name)).collect())
        }
    };
    let time = |text: &String| {
        let parsed = text.parse::<Timestamp>();
        parsed.map_err(|error| unsupported(format!("version {}: {text:?} is no time: {error}", from.name)))
    };
    let (deprecated, sunset) =
        (from.deprecated_at.as_ref().map(time).transpose()?, from.sunset_at.as_ref().map(time).transpose()?);
    let mut headers = Vec::new();
    if let Some(at) = deprecated {
        headers.push((DEPRECATION, header_value(&format!("@{}", at.as_second()))?));
    }
    if let Some(at) = sunset {
        headers.push((SUNSET, header_value(&http_date(at))?));
    }
    for link in &from.links {
        headers.push((header::LINK, link_value(link)?));
    }
    let gone = sunset.filter(|_| from.after_sunset.as_deref() == Some("Gone")).map(|at| {
        let detail = format!("version {} of the API is no longer served", from.name);
        (SystemTime::from(at), Arc::new(problem(StatusCode::GONE, &detail, headers.clone())))
    });
    Ok(Version {
        names: std::iter::once(&from.name).chain(&from.aliases).map(|name| name.as_str().into()).collect(),
        told: header_value(&from.name)?,
        shares,
        headers,
        gone,
    })
}

/// A time as HTTP writes it (RFC 9110, section 5.6.7).
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// A link (RFC 8288).
fn link_value(link: &VersionLink) -> Result<HeaderValue, Fault> {
    let plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b'\\'));
    if !plain(&link.href) || !plain(&link.rel) || !link.type_.as_deref().is_none_or(plain) {
        return Err(unsupported(format!("the link {:?} has characters that no link has", link.href)));
    }
    let kind = link.type_.as_ref().map_or(String::new(), |kind| format!("; type=\"{kind}\""));
    header_value(&format!("<{}>; rel=\"{}\"{kind}", link.href, link.rel))
}

/// What is said to a request that is not served (RFC 9457).
fn problem(status: StatusCode, detail: &str, add: Vec<(HeaderName, HeaderValue)>) -> Direct {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({"title": title, "status": status.as_u16(), "detail": detail}).to_string();
    let kind = HeaderValue::from_static("application/problem+json");
    Direct { status, body: Some((Bytes::from(body), kind)), edits: HeaderEdits { add, ..HeaderEdits::default() } }
}
