//! Answers that a route gives itself, and credentials that it adds.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::Entry};

use super::edit::HeaderEdits;

/// An answer in place of a backend's.
#[derive(Clone, Debug)]
pub struct Direct {
    /// Its status.
    pub status: StatusCode,
    /// Its body, and of what type it is.
    pub body: Option<(Bytes, HeaderValue)>,
    /// Its headers besides.
    pub edits: HeaderEdits,
}

impl Direct {
    /// Nothing but a status.
    pub fn status(status: StatusCode) -> Self {
        Direct { status, body: None, edits: HeaderEdits::default() }
    }
}

/// A credential that requests get on their way to the backend.
#[derive(Clone)]
pub struct Credential {
    /// The header that carries it.
    pub header: HeaderName,
    /// It.
    pub value: HeaderValue,
    /// Whether it replaces what the client sent.
    pub overwrite: bool,
}

impl Credential {
    /// Adds it to a request.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match headers.entry(&self.header) {
            Entry::Vacant(entry) => drop(entry.insert(self.value.clone())),
            Entry::Occupied(mut entry) if self.overwrite => drop(entry.insert(self.value.clone())),
            Entry::Occupied(_) => {}
        }
    }
}

impl std::fmt::Debug for Credential {
    /// Without the value, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("header", &self.header).field("overwrite", &self.overwrite).finish()
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn a_credential_replaces_the_clients_only_where_it_shall() {
        let credential =
            |overwrite| Credential { header: AUTHORIZATION, value: HeaderValue::from_static("Basic ours"), overwrite };
        for (sent, overwrite, expected) in [
            (None, false, "Basic ours"),
            (Some("Bearer theirs"), false, "Bearer theirs"),
            (Some("x"), true, "Basic ours"),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(sent.map(|sent| (AUTHORIZATION, HeaderValue::from_static(sent))));
            credential(overwrite).apply(&mut headers);
            let values: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
            assert_eq!(values, [expected], "{sent:?} {overwrite}");
        }
        assert!(!format!("{:?}", credential(true)).contains("ours"), "a secret is not written to logs");
    }
}
