//! Request paths: a hand-sized parser from the path to what is asked for, without allocation for plain names.

use std::borrow::Cow;

/// What a path asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Route<'a> {
    /// `/api/v1/…` or `/apis/GROUP/VERSION/…`.
    Resource(ResourcePath<'a>),
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(&'a str),
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    Resources { group: &'a str, version: &'a str },
    /// Everything else, for example `/livez`.
    Other(&'a str),
}

/// A resource, one of its objects, or a subresource of that.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ResourcePath<'a> {
    /// API group, empty for core.
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    /// Empty for cluster-scoped resources and for lists across all namespaces.
    pub(crate) namespace: Cow<'a, str>,
    pub(crate) resource: &'a str,
    /// Empty for the collection.
    pub(crate) name: Cow<'a, str>,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// What follows the subresource (`proxy` paths).
    pub(crate) rest: &'a str,
    /// The deprecated `/watch/` prefix.
    pub(crate) watch: bool,
}

/// Parses the path of a request.
pub(crate) fn parse(path: &str) -> Route<'_> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let (first, rest) = split(trimmed);
    match first {
        "api" => match split(rest) {
            ("", _) => Route::CoreVersions,
            (version, rest) => versioned("", version, rest),
        },
        "apis" => match split(rest) {
            ("", _) => Route::Groups,
            (group, rest) => match split(rest) {
                ("", _) => Route::Group(group),
                (version, rest) => versioned(group, version, rest),
            },
        },
        _ => Route::Other(path),
    }
}

fn versioned<'a>(group: &'a str, version: &'a str, rest: &'a str) -> Route<'a> {
    let (mut first, mut rest) = split(rest);
    let mut parsed = ResourcePath { group, version, ..ResourcePath::default() };
    if first == "watch" && !rest.is_empty() {
        parsed.watch = true;
        (first, rest) = split(rest);
    }
    if first.is_empty() {
        return Route::Resources { group, version };
    }
    if first == "namespaces" {
        let (namespace, after) = split(rest);
        let (next, after) = split(after);
        // `namespaces/NAME` and its own subresources are about the Namespace object itself
        if namespace.is_empty() || next.is_empty() || (group.is_empty() && matches!(next, "status" | "finalize")) {
            (parsed.resource, parsed.name, parsed.subresource) = (first, decode(namespace), next);
            return Route::Resource(parsed);
        }
        parsed.namespace = decode(namespace);
        (first, rest) = (next, after);
    }
    parsed.resource = first;
    let (name, after) = split(rest);
    let (subresource, after) = split(after);
    (parsed.name, parsed.subresource, parsed.rest) = (decode(name), subresource, after);
    Route::Resource(parsed)
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

/// Undoes percent encoding; invalid sequences stay as they are.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath<'_> {
        match parse(path) {
            Route::Resource(parsed) => parsed,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn paths_name_group_version_resource_namespace_name_and_subresource() {
        let parsed = resource("/apis/apps/v1/namespaces/default/deployments/web/scale");
        assert_eq!((parsed.group, parsed.version, parsed.resource), ("apps", "v1", "deployments"));
        assert_eq!((&*parsed.namespace, &*parsed.name, parsed.subresource), ("default", "web", "scale"));
        let parsed = resource("/api/v1/pods");
        assert_eq!((&*parsed.namespace, parsed.resource, &*parsed.name), ("", "pods", ""));
        let parsed = resource("/api/v1/nodes/n1/proxy/logs/a/b");
        assert_eq!((parsed.subresource, parsed.rest), ("proxy", "logs/a/b"));
    }

    #[test]
    fn a_namespace_is_an_object_and_a_scope() {
        let parsed = resource("/api/v1/namespaces/default");
        assert_eq!((&*parsed.namespace, parsed.resource, &*parsed.name), ("", "namespaces", "default"));
        let parsed = resource("/api/v1/namespaces/default/finalize");
        assert_eq!((parsed.resource, &*parsed.name, parsed.subresource), ("namespaces", "default", "finalize"));
        let parsed = resource("/api/v1/namespaces/default/status");
        assert_eq!(parsed.subresource, "status");
        let parsed = resource("/api/v1/namespaces");
        assert_eq!((parsed.resource, &*parsed.name), ("namespaces", ""));
    }

    #[test]
    fn discovery_and_other_paths() {
        assert_eq!(parse("/api"), Route::CoreVersions);
        assert_eq!(parse("/apis/"), Route::Groups);
        assert_eq!(parse("/apis/apps"), Route::Group("apps"));
        assert_eq!(parse("/api/v1/"), Route::Resources { group: "", version: "v1" });
        assert_eq!(parse("/apis/apps/v1"), Route::Resources { group: "apps", version: "v1" });
        assert_eq!(parse("/readyz"), Route::Other("/readyz"));
    }

    #[test]
    fn names_are_percent_decoded() {
        let parsed = resource("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(parsed.name, "system:node");
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert!(resource("/api/v1/watch/namespaces/a/pods").watch);
    }
}
