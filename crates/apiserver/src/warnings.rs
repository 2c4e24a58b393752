//! What the client of a request is warned about, whatever the outcome.

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

/// Longest warning text, as upstream cuts it.
const WARNING_BYTES_MAX: usize = 256;
/// Warnings of one answer at most; upstream cuts them at 4 KiB of text.
const WARNINGS_MAX: usize = 32;

/// The warnings of one request.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Warns the client, once for each text.
    pub(crate) fn add(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.0.lock());
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Moves them into an answer's headers.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut warnings = self.0.lock();
        if !warnings.is_empty() {
            write(headers, &std::mem::take(&mut *warnings));
        }
    }
}

/// Writes warnings into an answer's headers.
pub(crate) fn write(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings {
        let mut text: String = warning.chars().filter(|char| !char.is_control()).collect();
        text.truncate(text.floor_char_boundary(WARNING_BYTES_MAX));
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(header::WARNING, value);
        }
    }
}
