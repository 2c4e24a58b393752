//! Admission as two steps of a write: what completes the object before the kind's rules, and what judges the outcome.
//!
//! The order is upstream's. [`Admission::mutate`]: built-in plug-ins, mutating webhooks (and both again where a webhook
//! changed something that another wants to see), the escalation check of access rules. After it the kind's strategy
//! prepares and validates. [`Admission::validate`]: built-in plug-ins, admission policies, validating webhooks; quota comes last, so that
//! nothing is counted that something else refuses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use store::Snapshot;
use strategy::user::GROUP_MASTERS;

use crate::{
    admission::{
        self, AdmissionError, AdmissionRequest, ObjectReader, Operation, RequestOptions, certificates,
        owner_references::{self, OwnerResource},
    },
    authorization::escalation,
    decoded::Decoded,
    dispatch::Call,
    metrics::Step,
    options::{DeleteOptions, WriteOptions},
    status::{ApiError, Cause, GroupResource, causes_of},
};

mod policies;
mod webhooks;

/// The store as admission reads it.
struct Reader<'a> {
    snapshot: &'a Snapshot,
    decoded: &'a Decoded,
}

impl ObjectReader for Reader<'_> {
    fn get(&self, collection: &str, path: &str) -> Option<Arc<Value>> {
        self.snapshot.get(collection, path).and_then(|object| self.decoded.get(collection, path, object))
    }

    fn list(&self, collection: &str, prefix: &str) -> Vec<Arc<Value>> {
        let objects = self.snapshot.range(collection, prefix, None);
        objects.filter_map(|(path, object)| self.decoded.get(collection, path, object)).collect()
    }
}

/// How often a refusal is looked at again that a controller is about to lift, and how long to wait in between: a second
/// in all, as upstream waits for the default account of a young namespace.
const TRANSIENT_RETRIES_MAX: usize = 10;
const TRANSIENT_WAIT: Duration = Duration::from_millis(100);

/// How a subresource shows an object whose clients exchange something else, as `scale` does.
pub(super) trait View: Sync {
    /// What clients of the subresource see of the object.
    fn show(&self, object: &Value) -> Value;
    /// Takes what they may set over into the object.
    fn take(&self, shown: &Value, object: &mut Value);
}

/// What of a change is admitted.
#[derive(Clone, Copy)]
pub(super) enum Gate<'a> {
    /// The object itself.
    Object,
    /// What a subresource shows of it; the call is the one the client made.
    Shown(&'a Call, &'a dyn View),
    /// Nothing: the request has been admitted in another form, or the server acts by itself.
    Open,
}

/// A request on its way through admission.
#[derive(Clone, Copy)]
pub(super) struct Admission<'a> {
    call: &'a Call,
    operation: Operation,
    old: Option<&'a Value>,
    options: RequestOptions<'a>,
    dry_run: bool,
}

impl<'a> Admission<'a> {
    /// Of a create.
    pub(super) fn create(call: &'a Call, options: &WriteOptions) -> Self {
        let query = RequestOptions::Write(call.parts.uri.query());
        Self { call, operation: Operation::Create, old: None, options: query, dry_run: options.dry_run }
    }

    /// Of an update or patch.
    pub(super) fn update(call: &'a Call, options: &WriteOptions, old: &'a Value) -> Self {
        Self { operation: Operation::Update, old: Some(old), ..Self::create(call, options) }
    }

    /// Of a deletion.
    pub(super) fn delete(call: &'a Call, options: &'a DeleteOptions, old: &'a Value) -> Self {
        let given = RequestOptions::Delete(options);
        Self { call, operation: Operation::Delete, old: Some(old), options: given, dry_run: options.dry_run }
    }

    /// Of a connection to something.
    pub(super) fn connect(call: &'a Call) -> Self {
        Self { call, operation: Operation::Connect, old: None, options: RequestOptions::None, dry_run: false }
    }

    /// Completes the object before the kind's own rules see it, or refuses. Gives the state that was decided on.
    pub(super) async fn mutate(&self, object: Option<&mut Value>) -> Result<Arc<Snapshot>, ApiError> {
        let began = Instant::now();
        let completed = self.complete(object).await;
        self.call.server.metrics.admission.step(Step::Admit, self.operation, completed.is_err(), began.elapsed());
        completed
    }

    async fn complete(&self, mut object: Option<&mut Value>) -> Result<Arc<Snapshot>, ApiError> {
        let names = self.names(object.as_deref());
        let request = self.request(&names);
        let server = &self.call.server;
        let mut snapshot = self.plug_ins(&request, object.as_deref_mut()).await?;
        if !server.webhooks.mutating().is_empty() && !webhooks::is_exempt(&request) {
            // boxed, so that the future of a write that nobody outside is asked about stays small
            let asking = Box::pin(self.ask_mutating(&request, &snapshot, object.as_deref_mut()));
            self.measured("MutatingAdmissionWebhook", Step::Admit, asking).await?;
            snapshot = server.snapshot();
        }
        if let Some(object) = object {
            escalation::check(&server.authorizer, &request, object).map_err(refused)?;
        }
        Ok(snapshot)
    }

    /// The built-in plug-ins that complete objects. A refusal that a controller is about to lift is waited for.
    async fn plug_ins(
        &self,
        request: &AdmissionRequest<'_>,
        mut object: Option<&mut Value>,
    ) -> Result<Arc<Snapshot>, ApiError> {
        let mut retries = 0;
        loop {
            let snapshot = self.call.server.snapshot();
            let admitted = admission::mutate(&self.reader(&snapshot), request, object.as_deref_mut());
            match admitted {
                Ok(()) => return Ok(snapshot),
                Err(AdmissionError::Forbidden { transient: true, .. }) if retries < TRANSIENT_RETRIES_MAX => {
                    retries += 1;
                    tokio::time::sleep(TRANSIENT_WAIT).await;
                }
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// Judges the object that is about to be stored (a deletion has none), by the state [`Admission::mutate`] gave.
    pub(super) async fn validate(&self, snapshot: &Snapshot, object: Option<&Value>) -> Result<(), ApiError> {
        let began = Instant::now();
        let judged = self.judge(snapshot, object).await;
        self.call.server.metrics.admission.step(Step::Validate, self.operation, judged.is_err(), began.elapsed());
        judged
    }

    async fn judge(&self, snapshot: &Snapshot, object: Option<&Value>) -> Result<(), ApiError> {
        let names = self.names(object);
        let (request, reader) = (self.request(&names), self.reader(snapshot));
        admission::validate(&reader, &request, object).map_err(refused)?;
        if let Some(object) = object {
            let authorizer = &self.call.server.authorizer;
            certificates::check(authorizer, &request, object).map_err(refused)?;
            if !request.user.is_in(GROUP_MASTERS) {
                owner_references::check(authorizer, &request, object, |group, version, kind| {
                    self.served_as(group, version, kind)
                })
                .map_err(refused)?;
            }
            let notes = self.call.server.pod_security.validate(&reader, &request, object).map_err(refused)?;
            self.call.warn(notes.warnings);
            for (key, value) in notes.audit {
                self.call.trail.annotate(key, value);
            }
        }
        if !self.call.server.policies.bound().is_empty() && !webhooks::is_exempt(&request) {
            let judging = Box::pin(self.judge_by_policies(&request, snapshot, object));
            self.measured("ValidatingAdmissionPolicy", Step::Validate, judging).await?;
        }
        if !self.call.server.webhooks.validating().is_empty() && !webhooks::is_exempt(&request) {
            let asking = Box::pin(self.ask_validating(&request, snapshot, object));
            self.measured("ValidatingAdmissionWebhook", Step::Validate, asking).await?;
        }
        Ok(())
    }

    /// Notes what a plug-in takes.
    async fn measured(
        &self,
        plug_in: &str,
        step: Step,
        running: impl Future<Output = Result<(), ApiError>>,
    ) -> Result<(), ApiError> {
        let began = Instant::now();
        let outcome = running.await;
        let metrics = &self.call.server.metrics.admission;
        metrics.plug_in(plug_in, step, self.operation, outcome.is_err(), began.elapsed());
        outcome
    }

    fn reader<'b>(&'b self, snapshot: &'b Snapshot) -> Reader<'b> {
        Reader { snapshot, decoded: &self.call.server.decoded }
    }

    /// The resources that a kind is served as.
    fn served_as(&self, group: &str, version: &str, kind: &str) -> Vec<OwnerResource> {
        let table = self.call.server.registry.table();
        let rows = table.iter().map(|served| &served.resource);
        rows.filter(|row| row.kind == kind && row.group == group && row.version == version)
            .map(|row| OwnerResource { plural: row.plural.clone(), namespaced: row.namespaced })
            .collect()
    }

    /// Name of the object, and what it is generated from while it has none.
    fn names(&self, object: Option<&Value>) -> (String, String) {
        let text = |field: &str| {
            let known = object.or(self.old).and_then(|object| object["metadata"][field].as_str());
            known.unwrap_or_default().to_owned()
        };
        if !self.call.name.is_empty() {
            return (self.call.name.clone(), String::new());
        }
        let name = text("name");
        let base = if name.is_empty() { text("generateName") } else { String::new() };
        (name, base)
    }

    fn request<'b>(&'b self, (name, generate_name): &'b (String, String)) -> AdmissionRequest<'b> {
        AdmissionRequest {
            operation: self.operation,
            resource: &self.call.served.resource,
            subresource: self.call.subresource(),
            namespace: &self.call.namespace,
            name,
            generate_name,
            user: &self.call.user,
            old: self.old,
            options: self.options,
            dry_run: self.dry_run,
            now: self.call.now,
        }
    }
}

fn refused(error: AdmissionError) -> ApiError {
    match error {
        AdmissionError::NotFound { group_resource, name } => ApiError::not_found(split(&group_resource), &name),
        AdmissionError::Forbidden { group_resource, name, reason, causes, transient } => {
            let mut refused = ApiError::forbidden(split(&group_resource), &name, reason);
            let details = refused.details.get_or_insert_default();
            let cause = |cause: kinds::k8s::apimachinery::pkg::apis::meta::v1::StatusCause| Cause {
                reason: cause.reason.unwrap_or_default(),
                message: cause.message.unwrap_or_default(),
                field: cause.field.unwrap_or_default(),
            };
            details.causes = causes.into_iter().map(cause).collect();
            details.retry_after_seconds = transient.then_some(1);
            refused
        }
        AdmissionError::Conflict { group_resource, name, reason } => {
            ApiError::conflict(split(&group_resource), &name, reason)
        }
        AdmissionError::Invalid { kind, name, errors } => ApiError::invalid("", &kind, &name, causes_of(&errors)),
    }
}

/// Takes `deployments.apps` apart.
fn split(group_resource: &str) -> GroupResource<'_> {
    let (resource, group) = group_resource.split_once('.').unwrap_or((group_resource, ""));
    GroupResource { group, resource }
}
