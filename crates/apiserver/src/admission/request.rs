//! A request as admission reviews show it: what was exchanged, and with which options.

use kinds::GroupVersionKind;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation};
use crate::options::{DeleteOptions, Propagation, Query};

/// The options a request came with.
#[derive(Clone, Copy, Debug)]
pub enum RequestOptions<'a> {
    /// Those of a create, update or patch: the query.
    Write(Option<&'a str>),
    /// Those of a deletion.
    Delete(&'a DeleteOptions),
    /// It takes none.
    None,
}

impl<'a> AdmissionRequest<'a> {
    /// The name that failures show: the object's, or what it will be generated from.
    pub fn known_name(&self) -> &str {
        if self.name.is_empty() { self.generate_name } else { self.name }
    }

    /// The namespace that reviews show: a Namespace that exists is in itself.
    pub fn review_namespace(&self) -> &'a str {
        let namespaces = self.resource.group.is_empty() && self.resource.plural == "namespaces";
        if namespaces && self.operation != Operation::Create { self.name } else { self.namespace }
    }

    /// The kind that was sent, for example `Scale` for a write of `deployments/scale`.
    pub fn kind(&self) -> GroupVersionKind {
        let own = || GroupVersionKind {
            group: self.resource.group.clone(),
            version: self.resource.version.clone(),
            kind: self.resource.kind.clone(),
        };
        let Some(subresource) = self.subresource else { return own() };
        let known = self.resource.subresources.iter().find(|known| known.name == subresource);
        match (self.operation, self.resource.kind.as_str(), subresource) {
            // discovery names what is connected to, reviews what is asked of it
            (Operation::Connect, _, _) => {
                GroupVersionKind { group: String::new(), version: "v1".into(), kind: self.connect_kind(subresource) }
            }
            (Operation::Create | Operation::Update | Operation::Delete, _, _) => {
                known.map_or_else(own, |known| known.kind.clone())
            }
        }
    }

    fn connect_kind(&self, subresource: &str) -> String {
        let what = match subresource {
            "exec" => "Exec",
            "attach" => "Attach",
            "portforward" => "PortForward",
            "log" => "Log",
            _ => "Proxy",
        };
        format!("{}{what}Options", self.resource.kind)
    }

    /// The options as an object of `meta.k8s.io`, null when the request takes none.
    pub fn options(&self) -> Value {
        match self.options {
            RequestOptions::None => Value::Null,
            RequestOptions::Write(query) => {
                let query = Query::parse(query);
                let kind = if self.operation == Operation::Create { "CreateOptions" } else { "UpdateOptions" };
                let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
                if self.dry_run {
                    options["dryRun"] = json!(["All"]);
                }
                for field in ["fieldManager", "fieldValidation"] {
                    if let Some(value) = query.get(field) {
                        options[field] = value.into();
                    }
                }
                options
            }
            RequestOptions::Delete(given) => {
                let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
                if let Some(seconds) = given.grace_period_seconds {
                    options["gracePeriodSeconds"] = seconds.into();
                }
                let mut preconditions = json!({});
                for (field, value) in [("uid", &given.uid), ("resourceVersion", &given.resource_version)] {
                    if let Some(value) = value {
                        preconditions[field] = value.as_str().into();
                    }
                }
                if preconditions.as_object().is_some_and(|given| !given.is_empty()) {
                    options["preconditions"] = preconditions;
                }
                if let Some(propagation) = given.propagation {
                    options["propagationPolicy"] = match propagation {
                        Propagation::Orphan => "Orphan",
                        Propagation::Background => "Background",
                        Propagation::Foreground => "Foreground",
                    }
                    .into();
                }
                if given.dry_run {
                    options["dryRun"] = json!(["All"]);
                }
                options
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strategy::User;

    fn pods() -> std::sync::Arc<kinds::Resource> {
        kinds::builtin().iter().find(|row| row.group.is_empty() && row.plural == "pods").unwrap().clone()
    }

    fn request<'a>(
        resource: &'a kinds::Resource,
        subresource: &'a str,
        operation: Operation,
        user: &'a User,
        options: RequestOptions<'a>,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            operation,
            resource,
            subresource: Some(subresource).filter(|name| !name.is_empty()),
            namespace: "n",
            name: "",
            generate_name: "web-",
            user,
            old: None,
            options,
            dry_run: false,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_kind_is_that_of_what_was_sent() {
        let (pods, user) = (pods(), User::new("u", &[]));
        let kind = |subresource, operation| request(&pods, subresource, operation, &user, RequestOptions::None).kind();
        assert_eq!(kind("", Operation::Create).kind, "Pod");
        assert_eq!(kind("status", Operation::Update).kind, "Pod");
        let eviction = kind("eviction", Operation::Create);
        assert_eq!((eviction.group.as_str(), eviction.kind.as_str()), ("policy", "Eviction"));
        assert_eq!(kind("exec", Operation::Connect).kind, "PodExecOptions");
        assert_eq!(kind("proxy", Operation::Connect).kind, "PodProxyOptions");
    }

    #[test]
    fn options_are_objects_of_their_operation() {
        let (pods, user) = (pods(), User::new("u", &[]));
        let query = RequestOptions::Write(Some("fieldManager=kubectl&fieldValidation=Strict&pretty=true"));
        let options = request(&pods, "", Operation::Update, &user, query).options();
        let expected = json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl",
            "fieldValidation": "Strict"});
        assert_eq!(options, expected);
        let given = DeleteOptions { grace_period_seconds: Some(3), uid: Some("u".into()), ..DeleteOptions::default() };
        let request = request(&pods, "", Operation::Delete, &user, RequestOptions::Delete(&given));
        assert_eq!(request.options()["preconditions"], json!({"uid": "u"}));
        assert_eq!(request.known_name(), "web-");
    }
}
