//! The lines of a watch, decoded without what no cache keeps.

use std::io;

use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::core::{Status, WatchEvent};
use serde::de::DeserializeOwned;

/// Where an object's managed fields lie in the line of its event.
const MANAGED_FIELDS: [&str; 3] = ["object", "metadata", "managedFields"];

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
    pub(crate) async fn next<K: DeserializeOwned>(&mut self) -> Result<Option<WatchEvent<K>>, EventError> {
        self.line.clear();
        self.lines.read_until(b'\n', &mut self.line).await?;
        match self.line.last() {
            Some(b'\n') => decode(&self.line).map(Some),
            _ => Ok(None),
        }
    }
}

/// Who owns which field is a third of an object, and read by no controller: it is passed over, not decoded.
fn decode<K: DeserializeOwned>(line: &[u8]) -> Result<WatchEvent<K>, EventError> {
    let lean = splice::find(line, &MANAGED_FIELDS).map(|place| {
        let mut lean = Vec::with_capacity(line.len() - place.len() + 4);
        lean.extend_from_slice(&line[..place.start]);
        lean.extend_from_slice(b"null");
        lean.extend_from_slice(&line[place.end..]);
        lean
    });
    serde_json::from_slice(lean.as_deref().unwrap_or(line)).map_err(|error| {
        // what a server or a proxy answers when it fails after it has begun
        let is_status = splice::find(line, &["kind"]).is_some_and(|place| line[place] == *b"\"Status\"");
        match serde_json::from_slice(line) {
            Ok(status) if is_status => EventError::Status(status),
            _ => EventError::Decode(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[tokio::test]
    async fn an_event_is_decoded_without_its_managed_fields() {
        let lines = concat!(
            r#"{"type":"ADDED","object":{"metadata":{"name":"a","managedFields":[{"fieldsV1":{"f:data":{}}}],"uid":"u"},"#,
            r#""data":{"managedFields":"[]"}}}"#,
            "\n",
            r#"{"type":"MODIFIED","object":{"metadata":"#,
        );
        let mut events = Events::new(lines.as_bytes());
        let Some(WatchEvent::Added(map)) = events.next::<ConfigMap>().await.unwrap() else { panic!("not added") };
        assert_eq!(map.metadata.managed_fields, None);
        assert_eq!(map.metadata.uid.as_deref(), Some("u"));
        assert_eq!(map.data.unwrap()["managedFields"], "[]");
        assert!(events.next::<ConfigMap>().await.unwrap().is_none(), "the connection broke within a line");
    }

    #[tokio::test]
    async fn one_odd_line_does_not_hide_the_next() {
        let lines = [
            r#"{"type":"ADDED","object":{"metadata":7}}"#,
            r#"{"type":"ADDED","object":{"metadata":{}}}"#,
            r#"{"kind":"Status","code":410}"#,
            "",
        ];
        let lines = lines.join("\n");
        let mut events = Events::new(lines.as_bytes());
        assert!(matches!(events.next::<ConfigMap>().await, Err(EventError::Decode(_))));
        assert!(matches!(events.next::<ConfigMap>().await, Ok(Some(WatchEvent::Added(_)))));
        let Err(EventError::Status(status)) = events.next::<ConfigMap>().await else { panic!("no status") };
        assert_eq!(status.code, 410);
    }
}
