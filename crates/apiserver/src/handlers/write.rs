//! What every write shares: options, ownership of fields, the commit, and the answer.

use std::{sync::Arc, time::Instant};

use http::{Response, StatusCode};
use schema::apply::{ApplyError, Manager, Operation};
use serde_json::Value;
use store::{CommitError, Key, Mutation, Precondition, Revision, Write};
use strategy::{
    self, WriteContext,
    field_error::{FieldErrors, Path},
};

use super::{
    charge::{self, Charge},
    fresh, services,
};
use crate::{
    addresses::{self, ADDRESSES},
    allocation::Claim,
    body::Body,
    codec, conversion,
    convert::Form,
    dispatch::Call,
    meta,
    options::{WriteKind, WriteOptions},
    output::{self, Payload},
    server::SERVICES,
    status::{ApiError, Cause, causes_of},
    written,
};

/// How often a write that did not name a version is tried again when another write was faster.
pub(super) const ATTEMPTS_MAX: usize = 32;

/// The media type of a configuration to apply.
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// A finished write.
pub(super) struct Outcome {
    pub(super) object: Payload,
    pub(super) created: bool,
}

impl Outcome {
    /// The answer of a create (201), or of a change (200).
    pub(super) fn respond(self, call: &Call) -> Result<Response<Body>, ApiError> {
        let status = if self.created { StatusCode::CREATED } else { StatusCode::OK };
        output::object(call, self.object, status)
    }
}

/// Reads the options of the request.
pub(super) fn options(call: &Call) -> Result<WriteOptions, ApiError> {
    let kind = match call.verb {
        "update" => WriteKind::Update,
        "patch" if call.header(http::header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with(APPLY)) => {
            WriteKind::Apply
        }
        "patch" => WriteKind::Patch,
        _ => WriteKind::Create,
    };
    WriteOptions::parse(kind, &call.query(), call.header(http::header::USER_AGENT).unwrap_or_default())
}

/// What the kind's rules may know.
pub(super) fn context<'a>(call: &'a Call, options: &WriteOptions) -> WriteContext<'a> {
    WriteContext {
        now: call.now,
        resource: &call.served.resource,
        subresource: call.subresource(),
        user: &call.user,
        dry_run: options.dry_run,
    }
}

/// Who owns the fields that this request sets.
pub(super) fn manager(call: &Call, options: &WriteOptions, operation: Operation) -> Manager {
    let has_status = strategy::has_status(&call.served.resource);
    let strategy = call.served.strategy;
    Manager {
        name: options.field_manager.clone(),
        operation,
        api_version: call.served.api_version.clone(),
        subresource: call.subresource.clone(),
        time: meta::time(call.now),
        reset: if has_status { strategy.resets(&call.subresource) } else { &[] },
        only: strategy.accepts_only(&call.subresource),
    }
}

/// Moves the ownership of fields after a create or update.
pub(super) fn track(call: &Call, options: &WriteOptions, old: Option<&Value>, new: &mut Value) -> Result<(), ApiError> {
    let manager = manager(call, options, Operation::Update);
    schema::apply::track_update(call.served.schema(), old, new, &manager).map_err(apply_failed)
}

/// A failure of server-side apply in the API's terms.
pub(super) fn apply_failed(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(conflicts) => {
            let cause = |conflict: &schema::apply::Conflict| Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {}", conflict.manager),
                field: conflict.path.clone(),
            };
            let causes = conflicts.0.iter().map(cause).collect();
            ApiError::apply_conflict(conflicts.to_string(), causes)
        }
        other @ (ApplyError::ManagedFields | ApplyError::Invalid(_)) => ApiError::bad_request(other.to_string()),
    }
}

/// What a commit came to.
pub(super) enum Committed {
    /// It is durable, visible and announced.
    Done(store::Object),
    /// The precondition does not hold (any more).
    Outdated,
}

/// What a transaction holds besides the tree of the object.
#[derive(Clone, Copy, Default)]
pub(super) struct Besides<'a> {
    /// What it adds to what the namespace's quotas count.
    pub(super) charge: Option<&'a Charge>,
    /// Addresses that a Service takes and gives up.
    pub(super) claim: Option<&'a Claim>,
    /// The object's managed fields, where they are not in it.
    pub(super) owned: Option<&'a [u8]>,
}

/// Commits one change.
pub(super) async fn commit(
    call: &Call,
    path: &str,
    precondition: Precondition,
    mutation: Mutation,
) -> Result<Committed, ApiError> {
    let collection = &call.served.collection;
    let deletes = matches!(mutation, Mutation::Delete(_));
    let key = Key { collection: collection.clone(), path: Arc::from(path) };
    let mut writes = vec![Write { key, precondition, mutation }];
    if deletes && &**collection == SERVICES {
        writes.extend(addresses::writes_of_deletion(&call.server.snapshot(), path));
    }
    commit_all(call, path, writes, deletes).await
}

/// Commits one transaction; one that frees space goes on when the disk is full.
async fn commit_all(call: &Call, path: &str, writes: Vec<Write>, frees: bool) -> Result<Committed, ApiError> {
    let outcome = transact(call, writes, frees).await;
    settle(call, path, outcome)
}

/// Commits one transaction, and notes what that takes where it is another server that commits.
async fn transact(call: &Call, writes: Vec<Write>, frees: bool) -> Result<store::Committed, CommitError> {
    let store = &call.server.store;
    if !store.is_shared() {
        return if frees { store.commit_freeing(writes).await } else { store.commit(writes).await };
    }
    let operation = match writes.first() {
        Some(Write { mutation: Mutation::Delete(_), .. }) => "delete",
        Some(Write { precondition: Precondition::Absent, .. }) => "create",
        _ => "update",
    };
    let began = Instant::now();
    let outcome = match &call.caller.tenure {
        Some(tenure) => store.commit_during(tenure, writes).await,
        None if frees => store.commit_freeing(writes).await,
        None => store.commit(writes).await,
    };
    let failed = !matches!(outcome, Ok(_) | Err(CommitError::Precondition { .. }));
    call.server.metrics.asked_etcd(operation, &call.served.resource, failed, began.elapsed());
    outcome
}

/// What a transaction came to whose first write is of the object at `path`.
fn settle(call: &Call, path: &str, outcome: Result<store::Committed, CommitError>) -> Result<Committed, ApiError> {
    match outcome {
        Ok(committed) => {
            call.server.committed(&call.served.collection, path);
            let object = committed.objects.into_iter().next();
            object.map(Committed::Done).ok_or_else(|| ApiError::internal("a commit returned no object"))
        }
        Err(CommitError::Precondition { key, .. }) if &*key.collection == ADDRESSES => {
            let why = "its address changed hands meanwhile; please try again";
            Err(ApiError::conflict(call.group_resource(), &call.name, why))
        }
        Err(CommitError::Precondition { .. }) => Ok(Committed::Outdated),
        Err(error) => Err(not_committed(&error)),
    }
}

/// A transaction that did not happen, in the API's terms.
fn not_committed(error: &CommitError) -> ApiError {
    match error {
        CommitError::Closed | CommitError::Deposed | CommitError::Refused(_) | CommitError::Unavailable(_) => {
            ApiError::unavailable(error.to_string())
        }
        CommitError::Full(_) => ApiError::new(507, "InsufficientStorage", error.to_string()),
        CommitError::Unknown(_) => ApiError::new(504, "Timeout", error.to_string()),
        CommitError::Precondition { .. } | CommitError::Invalid(_) | CommitError::Log(_) | CommitError::Seal { .. } => {
            ApiError::internal(error)
        }
    }
}

/// Commits a put of an object in its served form, and what goes with it.
pub(super) async fn put(
    call: &Call,
    path: &str,
    precondition: Precondition,
    mut object: Value,
    besides: Besides<'_>,
) -> Result<Committed, ApiError> {
    conversion::write(call, &mut object).await?;
    if call.served.form == Form::Relabelled {
        // it has the defaults of the version it was written in
        call.served.settle(&mut object);
    }
    let encoded = codec::encode_owned(&object, besides.owned);
    let is_kept =
        call.served.form == Form::Stored && written::is_kept(&call.served.collection, &object, encoded.bytes.len());
    // beginning and carrying on a deletion leads to one
    let frees = meta::is_terminating(&object);
    let key = Key { collection: call.served.collection.clone(), path: Arc::from(path) };
    let mut writes = vec![Write { key, precondition, mutation: Mutation::Put(encoded) }];
    if let Some(claim) = besides.claim {
        let name = meta::name(&object);
        writes.extend(addresses::writes(&call.server.snapshot(), claim, &call.namespace, name, call.now));
    }
    // the tree is many times the size of its bytes, and the commit takes a while
    let tree = is_kept.then_some(object);
    let committed = match besides.charge {
        charge if services::concerns(call) => put_allocated(call, path, writes, charge).await,
        Some(charge) => put_charged(call, path, writes, charge).await,
        None => commit_all(call, path, writes, frees).await,
    }?;
    if let (Committed::Done(stored), Some(tree)) = (&committed, tree) {
        call.server.written.keep(&call.served.collection, path, stored.revision, precondition, tree);
    }
    Ok(committed)
}

/// Commits a Service together with the count of allocations, which only this server's turn may have changed.
async fn put_allocated(
    call: &Call,
    path: &str,
    mut writes: Vec<Write>,
    charge: Option<&Charge>,
) -> Result<Committed, ApiError> {
    let (server, key) = (&call.server, writes[0].key.clone());
    writes.push(server.allocation_turns.write());
    let _turn = match charge {
        Some(charge) => {
            let turn = server.quota_turns.take(&call.namespace).await;
            writes.extend(charge.writes(call)?);
            Some(turn)
        }
        None => None,
    };
    let outcome = transact(call, writes, false).await;
    match &outcome {
        Ok(committed) => server.allocation_turns.written(committed.revision),
        // whatever it was judged by, it is judged anew by what is there now
        Err(CommitError::Precondition { key: lost, .. }) if *lost != key => {
            server.allocation_turns.lost();
            let why = "another server changed what it was judged by; please try again";
            return Err(ApiError::conflict(call.group_resource(), &call.name, why));
        }
        Err(_) => {}
    }
    settle(call, path, outcome)
}

async fn put_charged(call: &Call, path: &str, object: Vec<Write>, charge: &Charge) -> Result<Committed, ApiError> {
    let key = object[0].key.clone();
    let _turn = call.server.quota_turns.take(&call.namespace).await;
    for _ in 0..charge::ATTEMPTS_MAX {
        let mut writes = object.clone();
        writes.extend(charge.writes(call)?);
        match transact(call, writes, false).await {
            // a recount came between, or a charge by another server, which is to be seen before the next attempt
            Err(CommitError::Precondition { key: lost, .. }) if lost != key && &*lost.collection != ADDRESSES => {
                fresh::latest(call).await?;
            }
            outcome => return settle(call, path, outcome),
        }
    }
    Err(ApiError::conflict(call.group_resource(), &call.name, "the namespace's quotas keep changing; please try again"))
}

/// An object of the store in its served form, carrying its revision; it lives at the call's path.
pub(super) async fn load(call: &Call, object: &store::Object) -> Result<Arc<Value>, ApiError> {
    let served = &call.served;
    if served.form == Form::Stored
        && served.is_settled(object)
        && let Some(tree) = call.server.written.get(&served.collection, &call.path(), object.revision)
    {
        return Ok(tree);
    }
    let mut value = codec::stored(&conversion::read_one(call, object.bytes.clone()).await?)?;
    if !call.served.is_settled(object) {
        call.served.settle(&mut value);
    }
    call.served.form.to_served(&mut value, &call.served.api_version);
    Ok(Arc::new(value))
}

/// The revision an update insists on, from the object it sends.
pub(super) fn expected(object: &Value) -> Result<Option<Revision>, ApiError> {
    match object["metadata"]["resourceVersion"].as_str() {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(|revision| Some(Revision(revision))).map_err(|_| {
            let message = format!("metadata.resourceVersion: Invalid value: {text:?}: must be an unsigned integer");
            ApiError::bad_request(message)
        }),
    }
}

/// Refuses an update that does not say which version it was made from where the kind's updates must.
pub(super) fn check_version_named(call: &Call, object: &Value) -> Result<(), ApiError> {
    let resource = &call.served.resource;
    if strategy::allows_unconditional_update(resource) || expected(object)?.is_some() {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    errors.invalid(&Path::new("metadata").child("resourceVersion"), 0, "must be specified for an update");
    // upstream names the resource where others name the kind
    Err(ApiError::invalid(&resource.group, &resource.plural, &call.name, causes_of(&errors)))
}
