//! From the rules of a GRPCRoute to rules of the table: a call is a POST to `/service/method`.

use std::sync::Arc;

use kinds::gateway::{GRPCMethodMatch, GRPCRoute, GRPCRouteMatch, GRPCRouteRule, ValueMatchType};

use super::{
    backends,
    compiled::{Compiled, Outcome},
    filters,
    http::{failing, headers, pattern},
    lookup::{Route, Seen, key_of},
    verdict::Fault,
};
use crate::routing::{Action, Owner, PathMatch, RequestMatch, Rule, Timeouts};

pub(crate) fn compile(seen: &Seen<'_>, route: &Route, object: &Arc<GRPCRoute>) -> Compiled {
    let owner = route.kind().owner(&key_of(route.meta()));
    let mut broken = Vec::new();
    let outcomes = object.spec.rules.iter().map(|rule| outcome(seen, route, &owner, rule, &mut broken));
    let outcomes = outcomes.collect();
    Compiled::of_requests(outcomes, broken)
}

fn outcome(seen: &Seen<'_>, route: &Route, owner: &Owner, rule: &GRPCRouteRule, broken: &mut Vec<Fault>) -> Outcome {
    let matches: Result<Vec<_>, _> = match &*rule.matches {
        [] => Ok(vec![RequestMatch::prefix("/")]),
        matches => matches.iter().map(condition).collect(),
    };
    let matches = match matches {
        Ok(matches) => matches,
        Err(fault) => return Outcome::Dropped(fault),
    };
    let compiled = filters::compile(seen, route, &rule.filters, broken).and_then(|filters| {
        let shares = backends::shares(seen, route, &rule.backend_refs, broken)?;
        let name = rule.name.as_deref().map(Into::into);
        let (action, timeouts) = (Action::Forward(shares), Timeouts::default());
        Ok(Rule { owner: owner.clone(), name, filters, action, timeouts })
    });
    match compiled {
        Ok(compiled) => Outcome::Served(matches, compiled),
        Err(fault) => Outcome::Failing(matches, failing(owner, rule.name.as_deref()), fault),
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
                condition.takes(&RequestHead { host: "h", method: &method, path, query: None, headers: &headers })
            };
            assert!(taken.iter().all(|path| takes(path)), "{from} takes {taken:?}");
            assert!(!refused.iter().any(|path| takes(path)), "{from} takes none of {refused:?}");
        }
        let bad = json!({"type": "RegularExpression", "method": "("});
        assert_eq!(method(&serde_json::from_value(bad).unwrap()).unwrap_err().reason, "UnsupportedValue");
    }
}
