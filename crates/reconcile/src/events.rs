//! The lines of a watch, taken apart no further than to the object in each.

use std::io;

use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::core::watch::Bookmark;
use kube::core::{Status, WatchEvent};
use serde::de::{Error as _, IgnoredAny};

/// Bytes of room kept for the next line.
const LINE_KEPT: usize = 64 * 1024;

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventError {
    /// The connection broke.
    #[error("cannot read from the server")]
    Read(#[from] io::Error),
    /// One event cannot be understood; the next one may be.
    #[error("cannot decode an event")]
    Decode(#[source] serde_json::Error),
    /// The server says why it goes no further.
    #[error("server ended the watch: {0}")]
    Status(Box<Status>),
}

/// What a line says. Objects are as the server wrote them.
pub(crate) enum Event<'a> {
    /// The object was created or modified.
    Applied(&'a [u8]),
    /// The object is gone; this is its last state.
    Deleted(&'a [u8]),
    /// The server tells how far the watch is.
    Bookmark(Bookmark),
    /// The server says why it goes no further.
    Error(Box<Status>),
}

/// Events as they arrive.
pub(crate) struct Events<R> {
    lines: R,
    // kept between events, so that reading one allocates nothing
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Events<R> {
    /// The events in the lines of a watch.
    pub(crate) fn new(lines: R) -> Self {
        Self { lines, line: Vec::new() }
    }

    /// The next event, `None` when the server has closed the watch, be it in the middle of a line. Of a call that was
    /// dropped the begun line is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<Event<'_>>, EventError> {
        self.line.clear();
        // one large object must not hold its memory for ever
        self.line.shrink_to(LINE_KEPT);
        self.lines.read_until(b'\n', &mut self.line).await?;
        match self.line.last() {
            Some(b'\n') => event(&self.line).map(Some),
            _ => Ok(None),
        }
    }
}

/// What stands in front of an object in the lines of API servers, and behind it.
const ADDED: &[u8] = br#"{"type":"ADDED","object":"#;
const MODIFIED: &[u8] = br#"{"type":"MODIFIED","object":"#;
const DELETED: &[u8] = br#"{"type":"DELETED","object":"#;
const END: &[u8] = b"}\n";

fn event(line: &[u8]) -> Result<Event<'_>, EventError> {
    // the usual form needs no look at the object, which is decoded next and has to be one then
    let framed = |head: &[u8]| line.strip_prefix(head)?.strip_suffix(END);
    if let Some(object) = framed(ADDED).or_else(|| framed(MODIFIED)) {
        return Ok(Event::Applied(object));
    }
    if let Some(object) = framed(DELETED) {
        return Ok(Event::Deleted(object));
    }
    let [kind, object] = splice::find_each(line, 0..line.len(), ["type", "object"]);
    match (kind.map(|place| &line[place]), object) {
        (Some(b"\"ADDED\"" | b"\"MODIFIED\""), Some(object)) => Ok(Event::Applied(&line[object])),
        (Some(b"\"DELETED\""), Some(object)) => Ok(Event::Deleted(&line[object])),
        _ => match serde_json::from_slice(line) {
            Ok(WatchEvent::<IgnoredAny>::Bookmark(bookmark)) => Ok(Event::Bookmark(bookmark)),
            Ok(WatchEvent::Error(status)) => Ok(Event::Error(status)),
            Ok(_) => Err(EventError::Decode(serde_json::Error::custom("an event without an object"))),
            Err(error) => {
                // what a server or a proxy answers when it fails after it has begun
                let is_status = splice::find(line, &["kind"]).is_some_and(|place| line[place] == *b"\"Status\"");
                match serde_json::from_slice(line) {
                    Ok(status) if is_status => Err(EventError::Status(status)),
                    _ => Err(EventError::Decode(error)),
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_is_its_kind_and_its_object_as_it_was_written() {
        let lines = concat!(
            r#"{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u"},"data":{"object":"[]"}}}"#,
            "\n",
            r#"{"object": {"metadata":{"name":"b"}} , "type": "DELETED"}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7"}}}"#,
            "\n",
            r#"{"type":"MODIFIED","object":{"metadata":"#,
        );
        let mut events = Events::new(lines.as_bytes());
        let Some(Event::Applied(object)) = events.next().await.unwrap() else { panic!("not added") };
        assert_eq!(object, br#"{"metadata":{"name":"a","uid":"u"},"data":{"object":"[]"}}"#);
        let Some(Event::Deleted(object)) = events.next().await.unwrap() else { panic!("not deleted") };
        assert_eq!(object, br#"{"metadata":{"name":"b"}}"#);
        let Some(Event::Bookmark(bookmark)) = events.next().await.unwrap() else { panic!("no bookmark") };
        assert_eq!(bookmark.metadata.resource_version, "7");
        assert!(events.next().await.unwrap().is_none(), "the connection broke within a line");
    }

    #[tokio::test]
    async fn one_odd_line_does_not_hide_the_next() {
        let lines = [
            r#"{"type":"ADDED"}"#,
            r#"{"type":"TURNED","object":{}}"#,
            r#"{"type":"ADDED","object":{"metadata":{}}}"#,
            r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#,
            r#"{"kind":"Status","code":500}"#,
            "",
        ];
        let lines = lines.join("\n");
        let mut events = Events::new(lines.as_bytes());
        assert!(matches!(events.next().await, Err(EventError::Decode(_))));
        assert!(matches!(events.next().await, Err(EventError::Decode(_))));
        assert!(matches!(events.next().await, Ok(Some(Event::Applied(_)))));
        let Ok(Some(Event::Error(status))) = events.next().await else { panic!("no error") };
        assert_eq!(status.code, 410);
        let Err(EventError::Status(status)) = events.next().await else { panic!("no status") };
        assert_eq!(status.code, 500);
    }
}
