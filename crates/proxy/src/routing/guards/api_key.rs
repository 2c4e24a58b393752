//! Keys that clients have.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::{
    super::{cookies::cookie, matching::decoded},
    Entrant, Refusal,
};

/// The clients and their keys. Keys are kept and found by their SHA-256: how long a search takes says nothing about a key.
#[derive(Clone, Default)]
pub struct ApiKeys {
    clients: HashMap<[u8; SHA256_OUTPUT_LEN], HeaderValue>,
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys of {} clients", self.clients.len())
    }
}

impl ApiKeys {
    /// Adds a client; says whether no other one has its key.
    pub fn insert(&mut self, client: HeaderValue, key: &[u8]) -> bool {
        self.clients.insert(hash(key), client).is_none()
    }

    fn client(&self, key: &[u8]) -> Option<&HeaderValue> {
        // An empty key is no key, whatever a Secret says.
        if key.is_empty() { None } else { self.clients.get(&hash(key)) }
    }
}

fn hash(key: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, key).as_ref());
    hash
}

/// A place where a key may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// A header, with or without `Bearer` before the key.
    Header(HeaderName),
    /// A parameter of the query.
    Parameter(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// Asks for a key.
#[derive(Clone, Debug)]
pub struct ApiKeyAuth {
    /// Who has which.
    pub keys: Arc<ApiKeys>,
    /// Where keys are looked for; the first place that has one counts.
    pub places: Vec<KeyPlace>,
    /// A header in which the backend is told the client.
    pub forward: Option<HeaderName>,
    /// Whether the key is taken out of the request.
    pub sanitize: bool,
}

impl ApiKeyAuth {
    pub(super) fn ask(&self, entrant: &mut Entrant<'_>) -> Result<(), Refusal> {
        let refusal = || Refusal::new(StatusCode::UNAUTHORIZED, "Client authentication failed.");
        let key = self.places.iter().find_map(|place| place.read(entrant)).ok_or_else(refusal)?;
        let client = self.keys.client(&key).ok_or_else(refusal)?;
        if let Some(header) = &self.forward {
            entrant.parts.headers.insert(header, client.clone());
        }
        if self.sanitize {
            for place in &self.places {
                place.clear(entrant)?;
            }
        }
        Ok(())
    }
}

impl KeyPlace {
    /// The key that is there, if it is not empty.
    pub(super) fn read(&self, entrant: &Entrant<'_>) -> Option<Vec<u8>> {
        let headers = &entrant.parts.headers;
        let key = match self {
            KeyPlace::Header(name) => {
                let value = headers.get(name)?.as_bytes();
                value.strip_prefix(b"Bearer ").unwrap_or(value).to_vec()
            }
            KeyPlace::Parameter(name) => parameter(entrant.parts.uri.query()?, name)?.into_bytes(),
            KeyPlace::Cookie(name) => cookie(headers, name)?.trim_matches('"').as_bytes().to_vec(),
        };
        Some(key).filter(|key| !key.is_empty())
    }

    fn clear(&self, entrant: &mut Entrant<'_>) -> Result<(), Refusal> {
        match self {
            KeyPlace::Header(name) => drop(entrant.parts.headers.remove(name)),
            KeyPlace::Parameter(name) => {
                let Some(query) = entrant.parts.uri.query() else { return Ok(()) };
                let kept: Vec<&str> = query.split('&').filter(|pair| decoded(key_of(pair)) != **name).collect();
                let kept = kept.join("&");
                if !entrant.set_query(Some(&kept)) {
                    return Err(Refusal::bare(StatusCode::BAD_REQUEST));
                }
            }
            KeyPlace::Cookie(name) => clear_cookie(&mut entrant.parts.headers, name),
        }
        Ok(())
    }
}

fn key_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}

/// The first of the parameters of a name.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value).into_owned())
}

/// Takes every cookie of a name out of a request.
fn clear_cookie(headers: &mut HeaderMap, name: &str) {
    let header::Entry::Occupied(entry) = headers.entry(header::COOKIE) else { return };
    let (_, values) = entry.remove_entry_mult();
    let values: Vec<HeaderValue> = values.collect();
    for value in values {
        let Ok(text) = value.to_str() else {
            headers.append(header::COOKIE, value);
            continue;
        };
        let kept = text.split(';').filter(|pair| pair.trim().split_once('=').is_none_or(|(of, _)| of != name));
        let kept = kept.map(str::trim).collect::<Vec<_>>().join("; ");
        match HeaderValue::try_from(kept) {
            Ok(kept) if !kept.is_empty() => drop(headers.append(header::COOKIE, kept)),
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn keys() -> ApiKeyAuth {
        let mut keys = ApiKeys::default();
        assert!(keys.insert(HeaderValue::from_static("ada"), b"key-1"));
        assert!(keys.insert(HeaderValue::from_static("bob"), b"k&2"));
        assert!(keys.insert(HeaderValue::from_static("empty"), b""));
        ApiKeyAuth {
            keys: Arc::new(keys),
            places: vec![
                KeyPlace::Header(HeaderName::from_static("x-api-key")),
                KeyPlace::Header(header::AUTHORIZATION),
                KeyPlace::Parameter("key".into()),
                KeyPlace::Cookie("key".into()),
            ],
            forward: Some(HeaderName::from_static("x-client")),
            sanitize: false,
        }
    }

    /// The request as the backend would get it: the client, the target, the cookies, `x-api-key`.
    fn ask(auth: &ApiKeyAuth, uri: &str, headers: &[(&str, &str)]) -> Result<[String; 4], Refusal> {
        let mut request = Request::builder().uri(uri).header("x-client", "root");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let authority = HeaderValue::from_static("shop.test");
        let client = "10.0.0.7".parse().unwrap();
        let entrant = &mut Entrant::new(&mut parts, ("shop.test", &authority), client, false);
        auth.ask(entrant)?;
        let all = |name: &str| {
            let values = parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join("|")
        };
        Ok([all("x-client"), parts.uri.to_string(), all("cookie"), all("x-api-key")])
    }

    #[test]
    fn the_first_place_with_a_key_counts_and_the_backend_is_told_the_client() {
        for (uri, headers, client) in [
            ("/", &[("x-api-key", "key-1")][..], Some("ada")),
            ("/", &[("authorization", "Bearer key-1")], Some("ada")),
            ("/?a=b&key=k%262", &[], Some("bob")),
            ("/", &[("cookie", "a=b; key=\"key-1\"")], Some("ada")),
            ("/?key=key-1", &[("x-api-key", "")], Some("ada")),
            ("/?key=key-1", &[("x-api-key", "wrong")], None),
            ("/?key=", &[], None),
            ("/?key2=key-1", &[], None),
            ("/", &[], None),
        ] {
            match (ask(&keys(), uri, headers), client) {
                (Ok([told, ..]), Some(client)) => assert_eq!(told, client, "{uri} {headers:?}"),
                (Err(refusal), None) => {
                    assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
                    assert_eq!(refusal.body.as_deref(), Some(&b"Client authentication failed."[..]));
                }
                (outcome, _) => panic!("{uri} {headers:?}: {outcome:?}"),
            }
        }
        assert!(!format!("{:?}", keys()).contains("key-1"));
    }

    #[test]
    fn two_clients_with_one_key_are_noticed() {
        let mut keys = ApiKeys::default();
        assert!(keys.insert(HeaderValue::from_static("ada"), b"key-1"));
        assert!(!keys.insert(HeaderValue::from_static("eve"), b"key-1"));
    }

    #[test]
    fn a_key_that_is_hidden_is_taken_out_of_every_place() {
        let hiding = ApiKeyAuth { sanitize: true, ..keys() };
        let headers = [("x-api-key", "key-1"), ("cookie", "a=b; key=x; c=d"), ("cookie", "key=y")];
        let [_, uri, cookies, header] = ask(&hiding, "/p?a=1&key=z&%6bey=w&b", &headers).unwrap();
        assert_eq!((&*uri, &*cookies, &*header), ("/p?a=1&b", "a=b; c=d", ""));
        let [_, uri, ..] = ask(&hiding, "/p?key=key-1", &[]).unwrap();
        assert_eq!(uri, "/p");
    }
}
