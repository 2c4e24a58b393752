//! The conditions of a rule. One that cannot be followed takes no request: it would be for others than was meant.

use http::{HeaderName, Method};
use kinds::istio::{HTTPRuleMatch, HTTPRuleRewrite, StringMatch};

use super::{Condition, MESH};
use crate::routing::{PathMatch, RequestMatch, ValueMatch};

/// Some conditions cannot be followed.
#[derive(Debug)]
pub(super) struct Faults {
    /// Why.
    pub(super) told: Vec<String>,
    /// Those that can.
    pub(super) rest: Vec<Condition>,
}

/// The conditions for requests to a port; without any a rule is for all.
pub(super) fn compile(
    from: &[HTTPRuleMatch],
    port: u16,
    rewrite: Option<&HTTPRuleRewrite>,
) -> Result<Vec<Condition>, Faults> {
    let to = rewrite.and_then(|rewrite| rewrite.uri.as_deref());
    if from.is_empty() {
        let anything = HTTPRuleMatch::default();
        return condition(&anything, to)
            .map(|one| vec![one])
            .map_err(|told| Faults { told: vec![told], rest: Vec::new() });
    }
    let here = from.iter().filter(|one| one.port.is_none_or(|number| number == u32::from(port)));
    let here = here.filter(|one| one.gateways.is_empty() || one.gateways.iter().any(|name| name == MESH));
    let (mut told, mut rest) = (Vec::new(), Vec::new());
    for one in here {
        match condition(one, to) {
            Ok(condition) => rest.push(condition),
            Err(wrong) => told.push(format!("{wrong}: it takes no request")),
        }
    }
    if told.is_empty() { Ok(rest) } else { Err(Faults { told, rest }) }
}

fn condition(from: &HTTPRuleMatch, rewrite: Option<&str>) -> Result<Condition, String> {
    if let Some(name) = from.rest.keys().next() {
        return Err(format!("{name} is not followed"));
    }
    if from.source_namespace.is_some() {
        return Err("sourceNamespace is not followed".to_owned());
    }
    if from.authority.is_some() {
        return Err("authority is not followed".to_owned());
    }
    let (path, whole_path) = path(from.uri.as_ref(), from.ignore_uri_case, rewrite)?;
    let method = match &from.method {
        None => None,
        Some(StringMatch { exact: Some(name), .. }) => {
            Some(Method::from_bytes(name.as_bytes()).map_err(|_| format!("method {name:?} is no HTTP method"))?)
        }
        Some(_) => return Err("only an exact method is followed".to_owned()),
    };
    let headers = from.headers.iter().map(|(name, value)| {
        let header = HeaderName::try_from(&**name).map_err(|_| format!("{name:?} is no header name"))?;
        Ok((header, text(value)?))
    });
    let query = from.query_params.iter().map(|(name, value)| Ok((name.as_str().into(), text(value)?)));
    let condition = RequestMatch {
        path,
        method,
        headers: headers.collect::<Result<_, String>>()?,
        query: query.collect::<Result<_, String>>()?,
        ..RequestMatch::prefix("/")
    };
    Ok((condition, whole_path))
}

/// A condition on a path, and whether a rewrite replaces the whole of it.
fn path(from: Option<&StringMatch>, any_case: bool, rewrite: Option<&str>) -> Result<(PathMatch, bool), String> {
    let default = StringMatch { prefix: Some("/".to_owned()), ..StringMatch::default() };
    let (pattern, matched, whole) = match from.unwrap_or(&default) {
        StringMatch { exact: Some(exact), .. } => (regex::escape(exact), 0, true),
        StringMatch { prefix: Some(prefix), .. } => {
            // Where both end in a slash, it stays between them and what follows.
            let slash = prefix.ends_with('/') && rewrite.is_some_and(|rewrite| rewrite.ends_with('/'));
            (format!("{}.*", regex::escape(prefix)), prefix.len() - usize::from(slash), false)
        }
        StringMatch { regex: Some(pattern), .. } => (pattern.clone(), 0, true),
        StringMatch { .. } => (".*".to_owned(), 0, true),
    };
    let pattern = if any_case { format!("(?i){pattern}") } else { pattern };
    let path = PathMatch::in_order(&pattern, matched).map_err(|error| format!("uri {pattern:?}: {error}"))?;
    Ok((path, whole))
}

/// A condition on a text.
fn text(from: &StringMatch) -> Result<ValueMatch, String> {
    let pattern = match from {
        StringMatch { exact: Some(exact), .. } => return Ok(ValueMatch::Exact(exact.as_str().into())),
        StringMatch { prefix: Some(prefix), .. } => format!("{}.*", regex::escape(prefix)),
        StringMatch { regex: Some(pattern), .. } => pattern.clone(),
        // It only has to be there.
        StringMatch { .. } => ".*".to_owned(),
    };
    ValueMatch::pattern(&pattern).map_err(|error| format!("{pattern:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::{Value, json};

    use super::*;
    use crate::routing::RequestHead;

    fn takes(from: &Value, port: u16, method: &str, uri: &str, header: Option<(&'static str, &'static str)>) -> bool {
        let from: Vec<HTTPRuleMatch> = serde_json::from_value(from.clone()).unwrap();
        let conditions = compile(&from, port, None).unwrap();
        let mut headers = HeaderMap::new();
        headers.extend(header.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())));
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let head = RequestHead { host: "web", method: &method, path, query, headers: &headers };
        conditions.iter().any(|(condition, _)| condition.takes(&head, 0))
    }

    #[test]
    fn conditions_are_those_of_istio() {
        let (old, new) = (Some(("version", "old-1")), Some(("version", "new-1")));
        for (from, taken, left) in [
            (json!([]), vec![("GET", "/", None)], vec![]),
            (json!([{"uri": {"exact": "/a"}}]), vec![("GET", "/a", None)], vec![("GET", "/ab", None)]),
            (
                json!([{"uri": {"prefix": "/a"}}]),
                vec![("GET", "/a", None), ("GET", "/ab", None)],
                vec![("GET", "/b", None)],
            ),
            (json!([{"uri": {"prefix": "/A"}, "ignoreUriCase": true}]), vec![("GET", "/ab", None)], vec![]),
            (json!([{"uri": {"regex": "/[ab]"}}]), vec![("GET", "/b", None)], vec![("GET", "/bc", None)]),
            (json!([{"method": {"exact": "POST"}}]), vec![("POST", "/", None)], vec![("GET", "/", None)]),
            (
                json!([{"headers": {"version": {"prefix": "new"}}}]),
                vec![("GET", "/", new)],
                vec![("GET", "/", old), ("GET", "/", None)],
            ),
            (json!([{"headers": {"version": {}}}]), vec![("GET", "/", old)], vec![("GET", "/", None)]),
            (
                json!([{"queryParams": {"v": {"exact": "2"}}}]),
                vec![("GET", "/?v=2", None)],
                vec![("GET", "/?v=1", None)],
            ),
            (
                json!([{"uri": {"exact": "/a"}}, {"uri": {"exact": "/b"}}]),
                vec![("GET", "/a", None), ("GET", "/b", None)],
                vec![],
            ),
            (json!([{"port": 80}]), vec![("GET", "/", None)], vec![]),
            (json!([{"port": 81}]), vec![], vec![("GET", "/", None)]),
            (json!([{"gateways": ["edge"]}]), vec![], vec![("GET", "/", None)]),
            (json!([{"gateways": ["edge", "mesh"]}]), vec![("GET", "/", None)], vec![]),
        ] {
            for (method, uri, header) in taken {
                assert!(takes(&from, 80, method, uri, header), "{from} takes {method} {uri} {header:?}");
            }
            for (method, uri, header) in left {
                assert!(!takes(&from, 80, method, uri, header), "{from} leaves {method} {uri} {header:?}");
            }
        }
    }

    #[test]
    fn a_condition_that_cannot_be_followed_takes_nothing_and_is_told() {
        for (from, told) in [
            (json!({"sourceLabels": {"app": "a"}}), "sourceLabels is not followed"),
            (json!({"sourceNamespace": "a"}), "sourceNamespace is not followed"),
            (json!({"authority": {"exact": "a"}}), "authority is not followed"),
            (json!({"method": {"regex": "a"}}), "only an exact method is followed"),
            (json!({"headers": {"no good": {}}}), "\"no good\" is no header name"),
        ] {
            let faults = compile(&[serde_json::from_value(from).unwrap()], 80, None).unwrap_err();
            assert_eq!((faults.told, faults.rest.len()), (vec![format!("{told}: it takes no request")], 0));
        }
    }
}
