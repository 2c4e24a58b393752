//! Cross-origin resource sharing: which pages of other origins may read answers (the Fetch standard).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<OriginMatch>,
    credentials: bool,
    methods: Names,
    headers: Names,
    expose: Names,
    max_age: Option<HeaderValue>,
}

/// Names in a header, or every name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Names {
    #[default]
    None,
    Any,
    Listed(HeaderValue),
}

/// A condition on an origin, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OriginMatch {
    Any,
    Exact(Box<str>),
    /// What is before and after the `*`.
    Wildcard(Box<str>, Box<str>),
}

impl OriginMatch {
    fn of(origin: &str) -> OriginMatch {
        let origin = origin.to_ascii_lowercase();
        match origin.split_once('*') {
            Some(("", "")) => OriginMatch::Any,
            Some((before, after)) => OriginMatch::Wildcard(before.into(), after.into()),
            None => OriginMatch::Exact(origin.into()),
        }
    }

    fn takes(&self, origin: &str) -> bool {
        match self {
            OriginMatch::Any => true,
            OriginMatch::Exact(exact) => **exact == *origin,
            OriginMatch::Wildcard(before, after) => {
                let rest = origin.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
                rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
            }
        }
    }
}

impl Names {
    fn of(names: &[String]) -> Names {
        if names.iter().any(|name| name == "*") {
            return Names::Any;
        }
        match HeaderValue::try_from(names.join(", ")) {
            Ok(list) if !names.is_empty() => Names::Listed(list),
            Ok(_) | Err(_) => Names::None,
        }
    }

    /// What to answer: where `*` would not count, because credentials are sent, the names that were asked for.
    fn answer(&self, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Names::None => None,
            Names::Any => asked.cloned(),
            Names::Listed(list) => Some(list.clone()),
        }
    }
}

impl Cors {
    /// From origins, methods and headers as Gateway API writes them.
    pub fn new(origins: &[String], methods: &[String], headers: &[String], expose: &[String]) -> Self {
        Cors {
            origins: origins.iter().map(|origin| OriginMatch::of(origin)).collect(),
            methods: Names::of(methods),
            headers: Names::of(headers),
            expose: Names::of(expose),
            ..Cors::default()
        }
    }

    /// Lets credentials be sent.
    pub fn with_credentials(mut self, credentials: bool) -> Self {
        self.credentials = credentials;
        self
    }

    /// For how many seconds browsers keep the answer.
    pub fn with_max_age(mut self, seconds: u32) -> Self {
        self.max_age = Some(HeaderValue::from(seconds));
        self
    }

    /// The answer's headers to a question whether a request may be sent; `None` when this is no such question. For an
    /// origin that may not they say nothing, which is how browsers know.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<HeaderMap> {
        let asked = request.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = request.get(header::ORIGIN)?;
        if method != Method::OPTIONS {
            return None;
        }
        let mut answer = HeaderMap::new();
        if !self.allow(origin, &mut answer) {
            return Some(answer);
        }
        let headers = self.headers.answer(request.get(header::ACCESS_CONTROL_REQUEST_HEADERS));
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.answer(Some(asked))),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
            (header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ] {
            if let Some(value) = value {
                answer.insert(name, value);
            }
        }
        Some(answer)
    }

    /// Says on an answer who may read it, whatever the backend said.
    pub fn apply(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        for name in OURS {
            answer.remove(name);
        }
        if let Some(origin) = origin {
            self.allow(origin, answer);
        }
    }

    fn allow(&self, origin: &HeaderValue, answer: &mut HeaderMap) -> bool {
        let text = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
        if !self.origins.iter().any(|allowed| allowed.takes(&text)) {
            return false;
        }
        let everybody = self.origins.contains(&OriginMatch::Any) && !self.credentials;
        if everybody {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        // With credentials `*` is the name of a header, so that nothing would be readable; there is no list to give.
        let expose = self.expose.answer(Some(&HeaderValue::from_static("*")));
        if let Some(expose) = expose {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
        true
    }
}

/// Headers that the gateway answers for once a rule has a CORS filter.
const OURS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn request(origin: &'static str, method: &'static str, headers: &'static str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert("origin", HeaderValue::from_static(origin));
        map.insert("access-control-request-method", HeaderValue::from_static(method));
        if !headers.is_empty() {
            map.insert("access-control-request-headers", HeaderValue::from_static(headers));
        }
        map
    }

    #[test]
    fn origins_match_exactly_by_wildcard_or_all() {
        for (pattern, origin, expected) in [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://WWW.foo.com", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://evil.com/.bar.com", false),
            ("http://*", "http://any.where:80", true),
            ("*", "null", true),
        ] {
            let cors = Cors::new(&names(&[pattern]), &[], &[], &[]);
            let mut answer = HeaderMap::new();
            cors.apply(Some(&HeaderValue::from_static(origin)), &mut answer);
            assert_eq!(answer.contains_key("access-control-allow-origin"), expected, "{pattern} and {origin}");
        }
    }

    #[test]
    fn preflight_lists_what_is_allowed() {
        let cors = Cors::new(
            &names(&["https://a.com"]),
            &names(&["GET", "OPTIONS"]),
            &names(&["x-1", "x-2"]),
            &names(&["x-3", "x-4"]),
        );
        let cors = cors.with_credentials(true).with_max_age(3600);
        let answer = cors.preflight(&Method::OPTIONS, &request("https://a.com", "GET", "x-1")).unwrap();
        for (name, value) in [
            ("access-control-allow-origin", "https://a.com"),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-1, x-2"),
            ("access-control-expose-headers", "x-3, x-4"),
            ("access-control-max-age", "3600"),
            ("access-control-allow-credentials", "true"),
            ("vary", "origin"),
        ] {
            assert_eq!(answer[name], value, "{name}");
        }
        let foreign = cors.preflight(&Method::OPTIONS, &request("https://b.com", "GET", "")).unwrap();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert_eq!(cors.preflight(&Method::GET, &request("https://a.com", "GET", "")), None);
        assert_eq!(cors.preflight(&Method::OPTIONS, &HeaderMap::new()), None);
    }

    #[test]
    fn wildcards_answer_with_what_was_asked_for() {
        let all = names(&["*"]);
        let cors = Cors::new(&all, &all, &all, &all);
        let answer = cors.preflight(&Method::OPTIONS, &request("https://a.com", "PUT", "x-9, x-8")).unwrap();
        assert_eq!(answer["access-control-allow-origin"], "*");
        assert_eq!(answer["access-control-allow-methods"], "PUT");
        assert_eq!(answer["access-control-allow-headers"], "x-9, x-8");
        assert!(!answer.contains_key("access-control-allow-credentials") && !answer.contains_key("vary"));
        let credentials = cors.with_credentials(true);
        let answer = credentials.preflight(&Method::OPTIONS, &request("https://a.com", "PUT", "")).unwrap();
        assert_eq!(answer["access-control-allow-origin"], "https://a.com", "`*` and credentials exclude each other");
    }

    #[test]
    fn what_the_backend_says_does_not_count() {
        let cors = Cors::new(&names(&["https://a.com"]), &[], &[], &[]);
        let mut answer = HeaderMap::new();
        answer.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        cors.apply(Some(&HeaderValue::from_static("https://b.com")), &mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
}
