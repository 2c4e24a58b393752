//! Admission policies: which of them concern a request, what they see of it, and what follows.

use std::sync::Arc;

use serde_json::Value;
use store::Snapshot;

use super::Admission;
use crate::{
    admission::{AdmissionRequest, ObjectReader as _, expressions::Inputs},
    matching::{Place, Siblings},
    policies::{self, Bound, ParamSource, Verdict},
    resources::Served,
    status::{ApiError, Cause, GroupResource},
    webhooks::{Sent, request_object},
};

impl Admission<'_> {
    /// Asks the policies that are in force.
    pub(super) async fn judge_by_policies(
        &self,
        request: &AdmissionRequest<'_>,
        snapshot: &Snapshot,
        object: Option<&Value>,
    ) -> Result<(), ApiError> {
        let bound = Arc::clone(&self.call.server.policies.bound());
        let table = self.call.server.registry.table();
        let siblings = Siblings::new(&table, &self.call.served);
        let (place, reader) = (Place::of(request), self.reader(snapshot));
        let mut verdict = Verdict::new(&self.call.server.metrics.admission);
        for bound in &*bound {
            let policy = &bound.policy;
            match policy.matcher.concerns(&place, &siblings, &reader, object, self.old) {
                Ok(None) => {}
                Ok(Some(served)) => {
                    let concerned = Concerned { bound, served, place: &place, siblings: &siblings, snapshot };
                    self.judge_by(&concerned, request, object, &mut verdict).await;
                }
                Err(error) => verdict.misconfigured(policy, None, &error.to_string()),
            }
        }
        self.call.warn(verdict.warnings);
        for (key, value) in verdict.annotations {
            self.call.trail.annotate(key, value);
        }
        match verdict.denied {
            None => Ok(()),
            Some((message, reason)) => {
                let (code, reason) = reason.code();
                let resource = GroupResource::from(request.resource);
                let mut error = ApiError::forbidden(resource, request.known_name(), &message);
                (error.code, error.reason) = (code, reason.into());
                error.details.get_or_insert_default().causes.push(Cause { message, ..Cause::default() });
                Err(error)
            }
        }
    }

    /// Asks one policy by each of its bindings that concern the request.
    async fn judge_by(
        &self,
        concerned: &Concerned<'_>,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        verdict: &mut Verdict<'_>,
    ) {
        let Concerned { bound, served, place, siblings, snapshot } = concerned;
        let policy = &bound.policy;
        let kind = match policies::param_kind(policy, siblings.table()) {
            Ok(kind) => kind,
            Err(why) => return verdict.misconfigured(policy, None, &why),
        };
        let converted = match self.converted(served, request, object).await {
            Ok(converted) => converted,
            Err(error) => {
                return verdict.misconfigured(policy, None, &format!("failed to convert object version: {error}"));
            }
        };
        let reader = self.reader(snapshot);
        let (shown, old) = match &converted {
            None => (object, self.old),
            Some((object, old)) => (object.as_ref(), old.as_ref()),
        };
        let described = request_object(&Sent { request, served, object: shown, old });
        let is_namespace = request.resource.group.is_empty() && request.resource.plural == "namespaces";
        let namespace = Some(request.namespace).filter(|name| !name.is_empty() && !is_namespace);
        let namespace = namespace.and_then(|name| reader.get("core/namespaces", name));
        let source = ParamSource { kind, reader: &reader, namespace: request.namespace };
        for binding in &bound.bindings {
            let wanted = binding.matcher.as_ref().map(|own| own.concerns(place, siblings, &reader, object, self.old));
            let params = match wanted {
                Some(Ok(None)) => continue,
                Some(Err(error)) => Err(error.to_string()),
                Some(Ok(Some(_))) | None => policies::params(binding, &source),
            };
            match params {
                Err(why) => verdict.misconfigured(policy, Some(binding), &why),
                Ok(params) => {
                    for params in &params {
                        let inputs = Inputs {
                            operation: self.operation,
                            object: shown,
                            old,
                            request: &described,
                            namespace: namespace.as_deref(),
                            params: params.as_deref(),
                        };
                        policies::judge(policy, binding, &inputs, verdict);
                    }
                }
            }
        }
    }
}

/// A policy and the request it concerns, in the version it wants to see.
struct Concerned<'a> {
    bound: &'a Bound,
    served: Arc<Served>,
    place: &'a Place<'a>,
    siblings: &'a Siblings<'a>,
    snapshot: &'a Snapshot,
}
