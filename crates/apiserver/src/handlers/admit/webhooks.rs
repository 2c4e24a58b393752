//! Asking the webhooks: one after the other those that may change the object, all at once those that judge it.

use std::{sync::Arc, time::Duration};

use futures::future;
use serde_json::{Value, json};
use store::Snapshot;
use tokio::time::Instant;

use super::{Admission, refused};
use crate::{
    admission::{AdmissionError, AdmissionRequest, Operation, expressions::Inputs},
    conversion,
    handlers::receive,
    matching::{Place, Siblings},
    meta,
    metrics::{Answer, Conditioned, Step},
    resources::Served,
    status::ApiError,
    webhooks::{self, Failure, Hook, Ruling, Sent},
};

/// How long all mutating webhooks together may hold a request up, as long as upstream lets a write take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(34);

/// Kinds of configurations that no webhook sees: a broken one must stay removable.
const EXEMPT: [&str; 6] = [
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// Whether no webhook is asked about requests like this.
pub(super) fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    request.resource.group == "admissionregistration.k8s.io" && EXEMPT.contains(&request.resource.plural.as_str())
}

/// The rounds of one request: which webhooks have to see the object again, and how long all that may take.
struct Rounds {
    /// 0, then 1.
    round: u8,
    end: Instant,
    /// Asked in the first round, and want to know of later changes.
    asked: Vec<usize>,
    /// To be asked in the second round.
    due: Vec<usize>,
    /// Some webhook changed the object, so that the plug-ins see it again.
    changed: bool,
}

impl Rounds {
    /// Everybody who was asked has an outdated view.
    fn require(&mut self) {
        self.due.append(&mut self.asked);
    }
}

impl Admission<'_> {
    /// Asks the mutating webhooks, and a second time those that missed something.
    pub(super) async fn ask_mutating(
        &self,
        request: &AdmissionRequest<'_>,
        snapshot: &Arc<Snapshot>,
        mut object: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        let hooks = Arc::clone(&self.call.server.webhooks.mutating());
        let end = Instant::now() + REQUEST_TIMEOUT;
        let mut again = Rounds { round: 0, end, asked: Vec::new(), due: Vec::new(), changed: false };
        self.round(&mut again, &hooks, request, snapshot, object.as_deref_mut()).await?;
        if !again.changed {
            return Ok(());
        }
        let before = object.as_deref().cloned();
        let snapshot = self.plug_ins(request, object.as_deref_mut()).await?;
        if before.as_ref() != object.as_deref() {
            again.require();
        }
        if again.due.is_empty() {
            return Ok(());
        }
        again.round = 1;
        self.round(&mut again, &hooks, request, &snapshot, object).await
    }

    async fn round(
        &self,
        again: &mut Rounds,
        hooks: &[Arc<Hook>],
        request: &AdmissionRequest<'_>,
        snapshot: &Snapshot,
        mut object: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        let table = self.call.server.registry.table();
        let siblings = Siblings::new(&table, &self.call.served);
        let (place, reader) = (Place::of(request), self.reader(snapshot));
        for (index, hook) in hooks.iter().enumerate() {
            if again.round > 0 && !again.due.contains(&index) {
                continue;
            }
            let concerned = hook.matcher.concerns(&place, &siblings, &reader, object.as_deref(), self.old);
            let Some(served) = concerned.map_err(refused)? else { continue };
            if !self.holds(hook, Step::Admit, &served, request, object.as_deref()).await? {
                continue;
            }
            let left = again.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = "Timeout: request did not complete within requested timeout - context deadline exceeded";
                return Err(ApiError::new(504, "Timeout", why));
            }
            let began = Instant::now();
            let asked = self.ask_to_mutate(hook, &served, request, object.as_deref_mut(), left).await;
            self.count(hook, Step::Admit, asked.as_ref().err(), began.elapsed());
            let changed = matches!(asked, Ok(Some(_)));
            let key = format!("round_{}_index_{index}", again.round);
            if let Ok(Some(patch)) = &asked
                && self.call.trail.takes_request()
            {
                let what = json!({"configuration": &*hook.configuration, "webhook": hook.name, "patch": patch,
                    "patchType": "JSONPatch"});
                self.call.trail.annotate(format!("patch.webhook.admission.k8s.io/{key}"), what.to_string());
            }
            let what = json!({"configuration": &*hook.configuration, "webhook": hook.name, "mutated": changed});
            self.call.trail.annotate(format!("mutation.webhook.admission.k8s.io/{key}"), what.to_string());
            if changed {
                again.changed = true;
                again.require();
            }
            if hook.reinvoked {
                again.asked.push(index);
            }
            match asked {
                Ok(_) => {}
                Err(failure) => {
                    self.fail(hook, failure, &format!("failed-open.mutation.webhook.admission.k8s.io/{key}"))?
                }
            }
        }
        Ok(())
    }

    /// Whether the webhook's match conditions hold. Where they cannot be evaluated, its failure policy decides.
    async fn holds(
        &self,
        hook: &Hook,
        step: Step,
        served: &Arc<Served>,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<bool, ApiError> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let converted = self.converted(served, request, object).await?;
        let (object, old) = match &converted {
            None => (object, self.old),
            Some((object, old)) => (object.as_ref(), old.as_ref()),
        };
        let described = webhooks::request_object(&Sent { request, served, object, old });
        let operation = self.operation;
        let inputs = Inputs { operation, object, old, request: &described, namespace: None, params: None };
        let began = Instant::now();
        let outcome = hook.conditions.evaluate(&inputs);
        let holds = outcome.as_ref().ok().copied();
        let conditioned = (Conditioned::Webhook, hook.name.as_str());
        self.call.server.metrics.admission.conditions(conditioned, step, self.operation, holds, began.elapsed());
        match outcome {
            Ok(holds) => Ok(holds),
            Err(_) if hook.fails_open => Ok(false),
            Err(why) => Err(refused(AdmissionError::forbidden(request, why))),
        }
    }

    /// Asks one webhook and does what it wants; gives the patch where that changed the object.
    async fn ask_to_mutate(
        &self,
        hook: &Hook,
        served: &Arc<Served>,
        request: &AdmissionRequest<'_>,
        object: Option<&mut Value>,
        left: Duration,
    ) -> Result<Option<Value>, Failure> {
        let internal = Failure::Internal;
        let converted = self.converted(served, request, object.as_deref()).await.map_err(internal)?;
        let (shown, shown_old) = match &converted {
            None => (object.as_deref(), self.old),
            Some((object, old)) => (object.as_ref(), old.as_ref()),
        };
        let sent = Sent { request, served, object: shown, old: shown_old };
        let ruling = webhooks::ask(&self.call.server.outbound, hook, &sent, true, left).await?;
        self.note(hook, &ruling);
        let Some(patch) = ruling.patch else { return Ok(None) };
        let (Some(shown), Some(object)) = (shown.cloned(), object) else {
            return Err(internal(ApiError::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        let mut patched = shown;
        schema::patch::json(&mut patched, &patch).map_err(|error| internal(ApiError::internal(error)))?;
        if is_own_kind(request) {
            complete(served, &mut patched).map_err(internal)?;
            // identity and age are the server's
            meta::carry_over(&mut patched, object);
            if patched["metadata"]["namespace"].as_str().unwrap_or_default() != self.call.namespace {
                return Err(internal(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                )));
            }
            if converted.is_some() {
                let own = &self.call.served;
                conversion::between(self.call, served, own, &mut patched).await.map_err(internal)?;
            }
        }
        let changed = patched != *object;
        *object = patched;
        Ok(changed.then_some(patch))
    }

    /// Asks the validating webhooks, all at once.
    pub(super) async fn ask_validating(
        &self,
        request: &AdmissionRequest<'_>,
        snapshot: &Snapshot,
        object: Option<&Value>,
    ) -> Result<(), ApiError> {
        let hooks = Arc::clone(&self.call.server.webhooks.validating());
        let table = self.call.server.registry.table();
        let siblings = Siblings::new(&table, &self.call.served);
        let (place, reader) = (Place::of(request), self.reader(snapshot));
        let mut concerned = Vec::new();
        for (index, hook) in hooks.iter().enumerate() {
            let wanted = hook.matcher.concerns(&place, &siblings, &reader, object, self.old);
            if let Some(served) = wanted.map_err(refused)?
                && self.holds(hook, Step::Validate, &served, request, object).await?
            {
                let converted = self.converted(&served, request, object).await?;
                concerned.push((index, hook, served, converted));
            }
        }
        let asked = concerned.iter().map(|(_, hook, served, converted)| {
            let (object, old) = match converted {
                None => (object, self.old),
                Some((object, old)) => (object.as_ref(), old.as_ref()),
            };
            let sent = Sent { request, served, object, old };
            async move {
                let began = Instant::now();
                let asked = webhooks::ask(&self.call.server.outbound, hook, &sent, false, REQUEST_TIMEOUT).await;
                self.count(hook, Step::Validate, asked.as_ref().err(), began.elapsed());
                asked
            }
        });
        let answers = future::join_all(asked).await;
        let mut outcome = Ok(());
        for (answer, (index, hook, ..)) in answers.into_iter().zip(&concerned) {
            let passed = match answer {
                Ok(ruling) => {
                    self.note(hook, &ruling);
                    Ok(())
                }
                Err(failure) => {
                    let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                    self.fail(hook, failure, &key)
                }
            };
            outcome = outcome.and(passed);
        }
        outcome
    }

    /// Counts how asking a webhook ended.
    fn count(&self, hook: &Hook, step: Step, failure: Option<&Failure>, took: Duration) {
        let answer = match failure {
            None => Answer::Allowed,
            Some(Failure::Call(_, code)) if hook.fails_open => Answer::FailedOpen(*code),
            Some(Failure::Call(_, code)) => Answer::Unreachable(*code),
            Some(Failure::Refused(error, _)) => Answer::Refused(error.code),
            Some(Failure::Internal(_)) => Answer::Internal,
        };
        self.call.server.metrics.admission.asked(&hook.name, step, self.operation, answer, took);
    }

    /// Lets the request go on where the webhook's failure policy says so.
    fn fail(&self, hook: &Hook, failure: Failure, key: &str) -> Result<(), ApiError> {
        match failure {
            Failure::Call(why, _) if hook.fails_open => {
                tracing::warn!(webhook = hook.name, why, "failing open");
                self.call.trail.annotate(key.to_owned(), hook.name.as_str());
                Ok(())
            }
            Failure::Refused(error, said) => {
                self.note(hook, &said);
                Err(error)
            }
            failure @ (Failure::Call(..) | Failure::Internal(_)) => Err(failure.into_error()),
        }
    }

    fn note(&self, hook: &Hook, ruling: &Ruling) {
        self.call.warn(ruling.warnings.iter().cloned());
        for (key, value) in &ruling.annotations {
            self.call.trail.annotate(format!("{}/{key}", hook.name), value.as_str());
        }
    }

    /// The objects in the version a webhook wants to see; `None` when that is the request's own.
    pub(super) async fn converted(
        &self,
        served: &Arc<Served>,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<(Option<Value>, Option<Value>)>, ApiError> {
        let own = &self.call.served;
        if served.api_version == own.api_version || !is_own_kind(request) {
            return Ok(None);
        }
        let (mut object, mut old) = (object.cloned(), self.old.cloned());
        for object in object.iter_mut().chain(&mut old) {
            conversion::between(self.call, own, served, object).await?;
        }
        Ok(Some((object, old)))
    }
}

/// Whether what is reviewed is an object of the resource, not something sent to one of its subresources.
fn is_own_kind(request: &AdmissionRequest<'_>) -> bool {
    request.operation != Operation::Connect && request.kind().kind == request.resource.kind
}

/// Brings a patched object back into the form of its type: unknown fields go, defaults are filled in.
fn complete(served: &Served, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::internal("the patch does not leave an object"));
    }
    // the kind is no webhook's to change
    object["apiVersion"] = served.api_version.as_str().into();
    object["kind"] = served.resource.kind.as_str().into();
    if let Some(problem) = schema::prune(served.schema(), object).iter().find(|problem| problem.is_fatal()) {
        return Err(ApiError::internal(problem));
    }
    meta::of(object);
    receive::default(served, object);
    Ok(())
}
