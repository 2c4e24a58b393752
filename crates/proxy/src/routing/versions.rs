//! One service in several versions of its API: which one a request is for, and what is said about it.
//!
//! A request names its version in an element of its path, in a header, or in a media type that it accepts or sends. The
//! first place where it does counts; what is no version there is the next place's business, but for headers and media
//! types, which are about nothing else: a version that is not known is refused.

use std::{ops::Range, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{direct::Direct, matching::RequestHead};

/// What stands for the version in a media type.
const PLACE: &str = "{version}";

/// The versions of a service.
#[derive(Clone, Debug)]
pub struct Versions {
    /// Where requests name theirs.
    pub places: Vec<VersionPlace>,
    /// The version of those that name none.
    pub default: Option<usize>,
    /// How the backend is told.
    pub header: HeaderName,
    /// They.
    pub all: Vec<Version>,
    /// The answer to a request that must name a version, or names one that is not known.
    pub unknown: Arc<Direct>,
}

/// Where a request may name its version.
#[derive(Clone, Debug)]
pub enum VersionPlace {
    /// In the path, after this prefix.
    Path(Box<str>),
    /// In a header.
    Header(HeaderName),
    /// In a media type, between these.
    MediaType(Box<str>, Box<str>),
    /// In a parameter of a media type.
    Parameter(Box<str>),
}

/// A version.
#[derive(Clone, Debug)]
pub struct Version {
    /// What it is called, the first name by the backend.
    pub names: Vec<Box<str>>,
    /// What the backend is told.
    pub told: HeaderValue,
    /// Which shares of the rule serve it; all when absent.
    pub shares: Option<Vec<bool>>,
    /// What every answer says.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// When it is served no longer, and what is answered then.
    pub gone: Option<(SystemTime, Arc<Direct>)>,
}

/// The version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its number.
    pub number: usize,
    /// What of the path names it.
    pub cut: Option<(usize, usize)>,
}

/// What a place says.
enum Said {
    Nothing,
    Unknown,
    Version(usize, Option<Range<usize>>),
}

impl Versions {
    /// The version of a request; else its answer.
    pub fn pick(&self, head: &RequestHead<'_>) -> Result<Picked, &Direct> {
        let mut picked = self.default.map(|number| Picked { number, cut: None });
        for place in &self.places {
            match self.look(place, head) {
                Said::Nothing => {}
                Said::Unknown => return Err(&self.unknown),
                Said::Version(number, cut) => {
                    picked = Some(Picked { number, cut: cut.map(|cut| (cut.start, cut.end)) });
                    break;
                }
            }
        }
        let picked = picked.ok_or(&*self.unknown)?;
        match self.all.get(picked.number).and_then(|version| version.gone.as_ref()) {
            Some((at, gone)) if SystemTime::now() >= *at => Err(gone),
            _ => Ok(picked),
        }
    }

    fn look(&self, place: &VersionPlace, head: &RequestHead<'_>) -> Said {
        let named = |text: &str| match self.number(text) {
            Some(number) => Said::Version(number, None),
            None => Said::Unknown,
        };
        match place {
            VersionPlace::Path(prefix) => {
                let Some(rest) = head.path.strip_prefix(&**prefix).and_then(|rest| rest.strip_prefix('/')) else {
                    return Said::Nothing;
                };
                let element = rest.split('/').next().unwrap_or_default();
                let cut = prefix.len()..prefix.len() + 1 + element.len();
                self.number(element).map_or(Said::Nothing, |number| Said::Version(number, Some(cut)))
            }
            VersionPlace::Header(name) => match head.headers.get(name) {
                None => Said::Nothing,
                Some(value) => named(value.to_str().unwrap_or_default().trim()),
            },
            VersionPlace::MediaType(..) | VersionPlace::Parameter(_) => {
                let names = media_types(head.headers).filter_map(|range| place.named(range));
                // Of several types that a client accepts one may be of a version that is known.
                let mut said = Said::Nothing;
                for name in names {
                    said = named(name);
                    if matches!(said, Said::Version(..)) {
                        break;
                    }
                }
                said
            }
        }
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|version| version.names.iter().any(|known| **known == *name))
    }

    /// Which shares of the rule serve a version.
    pub(crate) fn shares(&self, picked: Picked) -> Option<&[bool]> {
        self.all.get(picked.number)?.shares.as_deref()
    }

    /// Tells the backend for which version a request is.
    pub(crate) fn ask(&self, picked: Picked, headers: &mut HeaderMap) {
        if let Some(version) = self.all.get(picked.number) {
            headers.insert(&self.header, version.told.clone());
        }
    }

    /// Says in an answer of which version it is, and by what it was chosen.
    pub fn tell(&self, picked: Picked, headers: &mut HeaderMap) {
        let Some(version) = self.all.get(picked.number) else { return };
        for (name, value) in &version.headers {
            headers.append(name, value.clone());
        }
        for place in &self.places {
            let varies = match place {
                VersionPlace::Path(_) => continue,
                VersionPlace::Header(name) => HeaderValue::from_name(name.clone()),
                VersionPlace::MediaType(..) | VersionPlace::Parameter(_) => HeaderValue::from_name(header::ACCEPT),
            };
            // Who keeps the answer must not give it to a client that asks for another version.
            headers.append(header::VARY, varies);
        }
    }
}

impl VersionPlace {
    /// A place in media types by the text with [`PLACE`] in it.
    pub fn media_type(text: &str) -> Option<Self> {
        let (before, after) = text.split_once(PLACE)?;
        (before.contains('/'))
            .then(|| VersionPlace::MediaType(before.to_ascii_lowercase().into(), after.to_ascii_lowercase().into()))
    }

    /// What a media type names.
    fn named<'a>(&self, media_type: &'a str) -> Option<&'a str> {
        let mut parts = media_type.split(';').map(str::trim);
        let kind = parts.next()?;
        match self {
            VersionPlace::MediaType(before, after) => {
                let at = kind.get(before.len()..kind.len().checked_sub(after.len())?)?;
                let (start, end) = (kind.get(..before.len())?, kind.get(kind.len() - after.len()..)?);
                let same = start.eq_ignore_ascii_case(before) && end.eq_ignore_ascii_case(after);
                (same && !at.is_empty()).then_some(at)
            }
            VersionPlace::Parameter(name) => {
                let pairs = parts.filter_map(|part| part.split_once('='));
                let value =
                    { pairs }.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
                value.map(|value| value.trim_matches('"')).filter(|value| !value.is_empty())
            }
            VersionPlace::Path(_) | VersionPlace::Header(_) => None,
        }
    }
}

/// The media types that a request accepts, and that of its body.
fn media_types(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::ACCEPT).iter().chain(headers.get_all(header::CONTENT_TYPE));
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','))
}

/// A path without the element that names the version.
pub(crate) fn without(path: &str, (start, end): (usize, usize)) -> String {
    let kept = format!("{}{}", path.get(..start).unwrap_or(path), path.get(end..).unwrap_or_default());
    if kept.starts_with('/') { kept } else { format!("/{kept}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::*;

    fn version(names: &[&str]) -> Version {
        Version {
            names: names.iter().map(|name| (*name).into()).collect(),
            told: HeaderValue::from_str(names[0]).unwrap(),
            shares: None,
            headers: vec![(HeaderName::from_static("deprecation"), HeaderValue::from_static("@1"))],
            gone: None,
        }
    }

    fn versions(default: Option<usize>) -> Versions {
        Versions {
            places: vec![
                VersionPlace::Path("/api".into()),
                VersionPlace::Header(HeaderName::from_static("api-version")),
                VersionPlace::media_type("application/vnd.shop.{version}+json").unwrap(),
                VersionPlace::Parameter("v".into()),
            ],
            default,
            header: HeaderName::from_static("api-version"),
            all: vec![version(&["v1", "1"]), version(&["v2", "2"])],
            unknown: Arc::new(Direct::status(StatusCode::BAD_REQUEST)),
        }
    }

    fn pick(versions: &Versions, path: &str, sent: &[(&'static str, &'static str)]) -> Result<(usize, String), u16> {
        let headers = sent.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers = HeaderMap::from_iter(headers);
        let head = RequestHead { host: "h", method: &Method::GET, path, query: None, headers: &headers };
        let picked = versions.pick(&head).map_err(|direct| direct.status.as_u16())?;
        Ok((picked.number, picked.cut.map_or(path.to_owned(), |cut| without(path, cut))))
    }

    #[test]
    fn the_first_place_that_names_a_version_counts() {
        let served = versions(Some(1));
        for (path, sent, expected) in [
            ("/api/v1/orders", &[][..], Ok((0, "/api/orders"))),
            ("/api/v1", &[], Ok((0, "/api"))),
            ("/api/v1/", &[("api-version", "2")], Ok((0, "/api/"))),
            ("/api/orders", &[], Ok((1, "/api/orders"))),
            ("/api/v9/orders", &[], Ok((1, "/api/v9/orders"))),
            ("/apiv1", &[], Ok((1, "/apiv1"))),
            ("/o", &[("api-version", "1")], Ok((0, "/o"))),
            ("/o", &[("api-version", " v1 ")], Ok((0, "/o"))),
            ("/o", &[("api-version", "9")], Err(400)),
            ("/o", &[("accept", "application/vnd.shop.v1+json")], Ok((0, "/o"))),
            ("/o", &[("accept", "text/html, Application/Vnd.Shop.v1+JSON; q=0.5")], Ok((0, "/o"))),
            ("/o", &[("accept", "application/vnd.shop.v9+json")], Err(400)),
            ("/o", &[("accept", "application/vnd.shop.v9+json, application/vnd.shop.v1+json")], Ok((0, "/o"))),
            ("/o", &[("accept", "application/vnd.shop.+json")], Ok((1, "/o"))),
            ("/o", &[("content-type", "application/json; v=1")], Ok((0, "/o"))),
            ("/o", &[("accept", "application/json; V=\"1\"")], Ok((0, "/o"))),
            ("/o", &[("accept", "*/*")], Ok((1, "/o"))),
            ("/o", &[("accept", "a")], Ok((1, "/o"))),
        ] {
            assert_eq!(pick(&served, path, sent), expected.map(|(n, path)| (n, path.to_owned())), "{path} {sent:?}");
        }
        assert_eq!(pick(&versions(None), "/o", &[]), Err(400), "some version must be named");
    }

    #[test]
    fn a_version_is_served_until_it_is_gone() {
        let mut versions = versions(Some(0));
        let now = SystemTime::now();
        for (at, expected) in [(now + Duration::from_secs(3600), Ok((0, "/o".to_owned()))), (now, Err(410))] {
            versions.all[0].gone = Some((at, Arc::new(Direct::status(StatusCode::GONE))));
            assert_eq!(pick(&versions, "/o", &[]), expected);
        }
        assert_eq!(pick(&versions, "/o", &[("api-version", "2")]), Ok((1, "/o".to_owned())));
    }

    #[test]
    fn answers_say_what_they_depend_on() {
        let mut headers = HeaderMap::new();
        versions(None).tell(Picked { number: 0, cut: None }, &mut headers);
        let vary: Vec<_> = headers.get_all(header::VARY).iter().collect();
        assert_eq!(
            (&headers["deprecation"], vary),
            (
                &HeaderValue::from_static("@1"),
                ["api-version", "accept", "accept"].map(HeaderValue::from_static).iter().collect()
            )
        );
    }
}
