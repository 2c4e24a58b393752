//! The conditions of a GRPCRoute's rules: a call is a POST to `/service/method`.

use kinds::gateway::{GRPCMethodMatch, GRPCRouteMatch, GRPCRouteRule, ValueMatchType};

use super::{
    http::{headers, pattern},
    requests::{RequestRule, conditions},
    verdict::Fault,
};
use crate::routing::{PathMatch, RequestMatch};

/// What a rule has in common with those of other kinds.
pub(crate) fn rule(from: &GRPCRouteRule) -> RequestRule<'_> {
    RequestRule {
        name: from.name.as_deref(),
        matches: conditions(&from.matches, condition),
        filters: &from.filters,
        backends: &from.backend_refs,
        timeouts: None,
        retry: None,
        session: from.session_persistence.as_ref(),
    }
}

fn condition(from: &GRPCRouteMatch) -> Result<RequestMatch, Fault> {
    let path = from.method.as_ref().map_or(Ok(PathMatch::prefix("/")), method)?;
    Ok(RequestMatch { path, headers: headers(&from.headers)?, ..RequestMatch::prefix("/") })
}

/// The paths of the calls that a condition takes.
fn method(from: &GRPCMethodMatch) -> Result<PathMatch, Fault> {
    let (service, method) = (from.service.as_deref().unwrap_or(""), from.method.as_deref().unwrap_or(""));
    let any = |name: &str| if name.is_empty() { "[^/]+".to_owned() } else { name.to_owned() };
    match (from.type_.unwrap_or_default(), service, method) {
        (_, "", "") => Ok(PathMatch::prefix("/")),
        (ValueMatchType::Exact, service, "") => Ok(PathMatch::prefix(&format!("/{service}"))),
        (ValueMatchType::Exact, "", method) => pattern(&format!("/[^/]+/{}", regex::escape(method))),
        (ValueMatchType::Exact, service, method) => Ok(PathMatch::Exact(format!("/{service}/{method}").into())),
        (ValueMatchType::RegularExpression, service, method) => {
            pattern(&format!("/(?:{})/(?:{})", any(service), any(method)))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::routing::RequestHead;

    #[test]
    fn calls_are_taken_by_service_and_method() {
        for (from, taken, refused) in [
            (json!({}), vec!["/a.B/C", "/"], vec![]),
            (json!({"service": "a.B"}), vec!["/a.B/C", "/a.B/D"], vec!["/a.Bx/C", "/x.B/C"]),
            (json!({"service": "a.B", "method": "C"}), vec!["/a.B/C"], vec!["/a.B/D", "/a.B/C/"]),
            (json!({"method": "C"}), vec!["/a.B/C", "/x/C"], vec!["/a.B/Cx", "/C", "/a/b/C"]),
            (
                json!({"type": "RegularExpression", "service": "a\\.[AB]", "method": "C.*"}),
                vec!["/a.A/C", "/a.B/Cx"],
                vec!["/axA/C", "/a.A/D", "/a.C/C"],
            ),
            (json!({"type": "RegularExpression", "method": "C|D"}), vec!["/x/C", "/x/D"], vec!["/x/CD", "/x/y/D"]),
        ] {
            let path = method(&serde_json::from_value(from.clone()).unwrap()).unwrap();
            let condition = RequestMatch { path, ..RequestMatch::prefix("/") };
            let (method, headers) = (Method::POST, HeaderMap::new());
            let takes = |path: &str| {
                condition.takes(&RequestHead { host: "h", method: &method, path, query: None, headers: &headers }, 0)
            };
            assert!(taken.iter().all(|path| takes(path)), "{from} takes {taken:?}");
            assert!(!refused.iter().any(|path| takes(path)), "{from} takes none of {refused:?}");
        }
        let bad = json!({"type": "RegularExpression", "method": "("});
        assert_eq!(method(&serde_json::from_value(bad).unwrap()).unwrap_err().reason, "UnsupportedValue");
    }
}
