//! Fields by which the store knows objects, so that who selects by one of them is not shown all others.

use std::{borrow::Cow, sync::LazyLock};

use memchr::memmem::Finder;
use store::Index;

/// What every node asks for its pods by, as upstream's cache indexes it too.
pub(crate) const NODE_NAME: &str = "spec.nodeName";

/// Indexes that the store of an API server is opened with. Without them all answers are the same, later.
pub const INDEXES: &[Index] = &[Index { collection: "core/pods", field: NODE_NAME, value: node_of }];

static MEMBER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"nodeName\""));

/// Whether a stored pod may have a node. Of one that waits this tells at a fraction of what it takes to look at its members.
pub(crate) fn may_have_node(pod: &[u8]) -> bool {
    MEMBER.find(pod).is_some()
}

/// The node of a stored pod; pods that wait for one are not looked up by its absence.
fn node_of(pod: &[u8]) -> Option<Cow<'_, str>> {
    if !may_have_node(pod) {
        return None;
    }
    let text = &pod[splice::find(pod, &["spec", "nodeName"])?];
    let plain = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    match plain.filter(|text| !text.contains(&b'\\')).map(str::from_utf8) {
        Some(Ok("")) => None,
        Some(Ok(plain)) => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_slice(text).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_read_as_json_means_it() {
        let node = |spec: &str| node_of(format!("{{\"spec\":{spec}}}").as_bytes()).map(Cow::into_owned);
        assert_eq!(node(r#"{"nodeName":"n1"}"#).as_deref(), Some("n1"));
        assert_eq!(node(r#"{"nodeName":"\u006e1"}"#).as_deref(), Some("n1"));
        let elsewhere = r#"{"containers":[{"name":"nodeName","env":{"nodeName":"n1"}}]}"#;
        for none in [elsewhere, r#"{}"#, r#"{"nodeName":""}"#, r#"{"nodeName":null}"#, r#"{"nodeName":7}"#, "null"] {
            assert_eq!(node(none), None, "{none}");
        }
    }
}
