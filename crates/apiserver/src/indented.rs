//! JSON in lines, as upstream answers people: whoever asks with `pretty` in the query or the `Accept` header, curl, wget
//! or a browser.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, Uri, header};
use http_body::Frame;
use http_body_util::BodyExt as _;

use crate::{
    body::{Body, BoxError},
    negotiation,
    options::Query,
};

/// How the user agents of people begin.
const PEOPLE: [&[u8]; 3] = [b"curl", b"Wget", b"Mozilla/5.0"];
/// What Go takes for true.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

/// Whether an answer to this request is set in lines; other documents than those of the API come as they are.
pub(crate) fn is_wanted(uri: &Uri, headers: &HeaderMap) -> bool {
    let said = uri.query().filter(|query| query.contains("pretty"));
    let said = said.and_then(|query| {
        let query = Query::parse(Some(query));
        query.get("pretty").filter(|value| !value.is_empty()).map(|value| TRUE.contains(&value))
    });
    let by_agent = || {
        let agent = headers.get(header::USER_AGENT).map(http::HeaderValue::as_bytes).unwrap_or_default();
        PEOPLE.iter().any(|start| agent.starts_with(start))
    };
    (negotiation::wants_lines(headers) || said.unwrap_or_else(by_agent)) && uri.path().starts_with("/api")
}

/// Sets an answer in lines, if it is JSON.
pub(crate) fn answer(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    let content_type = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if !content_type.starts_with(b"application/json") || headers.contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    headers.remove(header::CONTENT_LENGTH);
    response.map(|inner| Indented { inner, lines: Lines::default() }.boxed_unsync())
}

/// A JSON document on its way into lines, frame by frame.
struct Indented {
    inner: Body,
    lines: Lines,
}

impl http_body::Body for Indented {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.lines.of(&data).into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Where in a document the next byte stands.
#[derive(Default)]
struct Lines {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// An object or array has begun and nothing of it was seen.
    has_begun: bool,
}

impl Lines {
    fn of(&mut self, compact: &[u8]) -> Vec<u8> {
        let mut lines = Vec::with_capacity(compact.len() * 2);
        for &byte in compact {
            if self.in_string {
                lines.push(byte);
                self.in_string = self.is_escaped || byte != b'"';
                self.is_escaped = !self.is_escaped && byte == b'\\';
                continue;
            }
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if !std::mem::take(&mut self.has_begun) {
                        self.line(&mut lines);
                    }
                }
                _ if std::mem::take(&mut self.has_begun) => self.line(&mut lines),
                _ => {}
            }
            lines.push(byte);
            match byte {
                b'{' | b'[' => {
                    self.depth += 1;
                    self.has_begun = true;
                }
                b',' => self.line(&mut lines),
                b':' => lines.push(b' '),
                b'"' => self.in_string = true,
                _ => {}
            }
        }
        lines
    }

    fn line(&self, lines: &mut Vec<u8>) {
        lines.push(b'\n');
        lines.resize(lines.len() + 2 * self.depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_the_same_wherever_the_frames_end() {
        let document = json!({"a": {}, "b": [], "c": [1, {"d\\": "x\"{[,:]}", "e": null}], "f": [[true], -1.5]});
        let wanted = serde_json::to_string_pretty(&document).unwrap();
        let compact = document.to_string();
        for size in 1..compact.len() {
            let mut lines = Lines::default();
            let frames = compact.as_bytes().chunks(size).flat_map(|frame| lines.of(frame));
            assert_eq!(String::from_utf8(frames.collect()).unwrap(), wanted);
        }
        assert_eq!(String::from_utf8(Lines::default().of(wanted.as_bytes())).unwrap(), wanted);
    }

    #[test]
    fn people_get_lines_unless_they_say_otherwise() {
        let wanted = |path: &'static str, agent: &'static str| {
            let headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(agent))]);
            is_wanted(&Uri::from_static(path), &headers)
        };
        assert!(wanted("/api/v1", "curl/8.5.0") && wanted("/apis?x=pretty", "Mozilla/5.0 (X11)"));
        assert!(wanted("/api/v1/pods?pretty=true", "kubectl/v1.36.0") && wanted("/api?pretty=1", ""));
        assert!(!wanted("/api/v1/pods?pretty=false", "curl/8.5.0") && !wanted("/api/v1/pods", "kubectl/v1.36.0"));
        assert!(!wanted("/openapi/v2", "curl/8.5.0"));
    }
}
