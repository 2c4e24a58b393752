//! Header changes.

use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};

/// Changes to the headers of a request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Headers that lose all their values.
    pub remove: Vec<HeaderName>,
    /// Headers that get one value in place of all they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers that get one more value.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Applies the changes. What is added joins the values that are there with a comma, as one header line.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            match headers.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(value.clone());
                }
                Entry::Occupied(mut entry) => {
                    let mut joined = entry.get().as_bytes().to_vec();
                    joined.extend_from_slice(b",");
                    joined.extend_from_slice(value.as_bytes());
                    match HeaderValue::from_bytes(&joined) {
                        Ok(joined) => {
                            entry.insert(joined);
                        }
                        Err(_) => entry.append(value.clone()),
                    }
                }
            }
        }
    }
}
