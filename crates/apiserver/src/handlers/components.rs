//! ComponentStatuses: not kept anywhere, made from the health checks when somebody asks.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    body::Body,
    dispatch::Call,
    health,
    options::ListOptions,
    output::{self, ListMeta, Payload},
    selection::Selection,
    status::ApiError,
};

/// The components by the names clients know them by, and the health check of each.
const COMPONENTS: [(&str, &str); 3] =
    [("controller-manager", "controllers"), ("etcd-0", health::STORAGE), ("scheduler", "scheduler")];

/// Whether a call is about component statuses.
pub(super) fn concerns(call: &Call) -> bool {
    call.served.resource.group.is_empty() && call.served.resource.plural == "componentstatuses"
}

/// Answers a GET of one component's status, or of all.
pub(super) fn answer(call: &Arc<Call>) -> Result<Response<Body>, ApiError> {
    if call.verb == "get" {
        let known = COMPONENTS.iter().find(|(name, _)| *name == call.name);
        let Some((name, check)) = known else { return Err(ApiError::not_found(call.group_resource(), &call.name)) };
        return output::object(call, Payload::Stored(status(call, name, check)), StatusCode::OK);
    }
    let selection = Selection::parse(&call.served, &ListOptions::parse(&call.query())?, "")?;
    let all = COMPONENTS.iter().map(|(name, check)| (name, status(call, name, check)));
    let selected = all.filter(|(name, bytes)| selection.matches(&call.served, name, bytes)).map(|(_, bytes)| bytes);
    let meta = ListMeta { revision: call.server.snapshot().revision(), ..ListMeta::default() };
    output::list(call, selected.collect(), &meta)
}

fn status(call: &Call, name: &str, check: &str) -> Bytes {
    let condition = condition(call.server.health.check(check));
    let metadata = json!({"name": name, "creationTimestamp": null});
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": metadata, "conditions": [condition]})
        .to_string()
        .into()
}

fn condition(found: Option<Result<(), String>>) -> Value {
    let (healthy, message, error) = match found {
        Some(Ok(())) => ("True", "ok".to_owned(), None),
        Some(Err(why)) => ("False", why, None),
        None => ("Unknown", String::new(), Some("it does not run in this process")),
    };
    let mut condition = json!({"type": "Healthy", "status": healthy, "message": message});
    if let Some(error) = error {
        condition["error"] = error.into();
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_makes_a_condition() {
        assert_eq!(condition(Some(Ok(()))), json!({"type": "Healthy", "status": "True", "message": "ok"}));
        assert_eq!(condition(Some(Err("gone".into())))["status"], "False");
        assert_eq!(condition(None)["error"], "it does not run in this process");
    }
}
