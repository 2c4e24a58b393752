//! Deleting one object, and collections.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Mutation, Precondition};

use super::{
    admit::{Admission, Gate},
    definitions, list, receive,
    write::{self, ATTEMPTS_MAX, Besides, Committed},
};
use crate::{
    body::Body,
    codec, conversion, crd,
    deletion::{self, Plan},
    dispatch::Call,
    meta,
    options::{DeleteOptions, ListOptions},
    output::{self, Payload},
    resources::Served,
    status::{ApiError, GroupResource},
};

/// Objects of a collection that are deleted at once; the store commits them in batches of about this size.
const DELETIONS_AT_ONCE: usize = 256;

/// Resources that answer a deletion with the object, as upstream's do; others answer with a status.
const ANSWER_WITH_OBJECT: [&str; 13] = [
    "core/namespaces",
    "core/persistentvolumeclaims",
    "core/persistentvolumes",
    "core/pods",
    "core/podtemplates",
    "core/resourcequotas",
    "core/serviceaccounts",
    "core/services",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/storageclasses",
    "storage.k8s.io/volumeattachments",
    "storage.k8s.io/volumeattributesclasses",
];

/// What a deletion left behind.
pub(super) enum Deleted {
    /// Nothing; what the last state was.
    Gone { last: Bytes, uid: String },
    /// The object, marked, until what holds it is over.
    Held(Payload),
}

fn options(call: &Call, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    let body = if body.is_empty() { None } else { Some(receive::decode(call, body)?.value) };
    DeleteOptions::parse(&call.query(), body.as_ref())
}

/// Answers a DELETE of one object.
pub(super) async fn delete(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = options(call, body)?;
    match delete_object(call, &options, Gate::Object).await? {
        // the older way to ask for the dependents to go first is also asked to wait
        Deleted::Held(object) if options.cascades => output::object(call, object, StatusCode::ACCEPTED),
        Deleted::Held(object) => output::object(call, object, StatusCode::OK),
        Deleted::Gone { last, .. } if ANSWER_WITH_OBJECT.contains(&&*call.served.collection) => {
            output::object(call, Payload::Stored(conversion::read_one(call, last).await?), StatusCode::OK)
        }
        Deleted::Gone { uid, .. } => output::encoded(call, &success(call, &uid), StatusCode::OK),
    }
}

fn success(call: &Call, uid: &str) -> Value {
    let mut details = json!({"name": call.name, "kind": call.served.resource.plural, "uid": uid});
    if !call.served.resource.group.is_empty() {
        details["group"] = call.served.resource.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Deletes the object the call names.
pub(super) async fn delete_object(call: &Call, options: &DeleteOptions, gate: Gate<'_>) -> Result<Deleted, ApiError> {
    let served = &call.served;
    let path = call.path();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.server.snapshot();
        let Some(stored) = snapshot.get(&served.collection, &path) else {
            return Err(ApiError::not_found(call.group_resource(), &call.name));
        };
        let object = write::load(call, stored).await?;
        check_preconditions(call, options, &object)?;
        if !matches!(gate, Gate::Open) {
            let admission = Admission::delete(call, options, &object);
            let snapshot = admission.mutate(None).await?;
            admission.validate(&snapshot, None).await?;
        }
        let strategy = served.strategy;
        let grace = strategy.grace_period_seconds(&object, options.grace_period_seconds);
        let plan =
            deletion::plan(&served.collection, &object, options, grace, strategy.default_propagation(), call.now);
        match plan {
            Plan::Nothing => {
                return Ok(Deleted::Held(Payload::Stored(conversion::read_one(call, stored.bytes.clone()).await?)));
            }
            Plan::Remove if options.dry_run => {
                return Ok(Deleted::Gone { last: stored.bytes.clone(), uid: meta::uid(&object).to_owned() });
            }
            Plan::Mark(marked) if options.dry_run => return Ok(Deleted::Held(Payload::Served(marked))),
            Plan::Remove => {
                // the last state is the stored one, whatever version the request speaks
                let last = match codec::again(&stored.bytes) {
                    Some(last) => last,
                    None => codec::encode(&codec::stored(&stored.bytes)?),
                };
                let mutation = Mutation::Delete(last);
                let committed = write::commit(call, &path, Precondition::Revision(stored.revision), mutation).await?;
                if let Committed::Done(last) = committed {
                    definitions::after_delete(call, &object).await?;
                    return Ok(Deleted::Gone { last: last.bytes, uid: meta::uid(&object).to_owned() });
                }
            }
            Plan::Mark(mut marked) => {
                on_mark(call, &mut marked);
                let precondition = Precondition::Revision(stored.revision);
                if let Committed::Done(object) =
                    write::put(call, &path, precondition, marked, Besides::default()).await?
                {
                    if &*served.collection == crd::COLLECTION {
                        definitions::clean_up(call, &call.name).await?;
                    }
                    return Ok(Deleted::Held(Payload::Stored(conversion::read_one(call, object.bytes).await?)));
                }
            }
        }
    }
    Err(ApiError::modified(call.group_resource(), &call.name))
}

/// What some kinds write into an object whose deletion begins.
fn on_mark(call: &Call, marked: &mut Value) {
    match &*call.served.collection {
        "core/namespaces" => marked["status"]["phase"] = "Terminating".into(),
        crd::COLLECTION => crd::mark_terminating(marked, call.now),
        _ => {}
    }
}

fn check_preconditions(call: &Call, options: &DeleteOptions, object: &Value) -> Result<(), ApiError> {
    let resource = &call.served.resource;
    let refused = |why: String| {
        // upstream names the kind where others name the resource
        let subject = GroupResource { group: &resource.group, resource: &resource.kind };
        Err(ApiError::conflict(subject, &call.name, why))
    };
    let live = meta::uid(object);
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != live) {
        return refused(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({live}). \
             The object might have been deleted and then recreated"
        ));
    }
    let live = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    match options.resource_version.as_deref().filter(|wanted| *wanted != live) {
        Some(wanted) => refused(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({live}). \
             The object might have been modified"
        )),
        None => Ok(()),
    }
}

fn delete_owned(
    call: Call,
    options: DeleteOptions,
    gate: Gate<'static>,
) -> BoxFuture<'static, Result<Deleted, ApiError>> {
    Box::pin(async move { delete_object(&call, &options, gate).await })
}

/// Deletes the objects at these paths, many at once; the results are in their order.
pub(super) async fn delete_all(
    call: &Call,
    served: &Arc<Served>,
    paths: Vec<Arc<str>>,
    options: &DeleteOptions,
    gate: Gate<'static>,
) -> Vec<Result<Deleted, ApiError>> {
    // each deletion owns what it needs, so that the stream of them borrows nothing
    let each: Vec<(Call, DeleteOptions)> =
        paths.iter().map(|path| (call.about(served, path), options.clone())).collect();
    let deletions = each.into_iter().map(|(call, options)| delete_owned(call, options, gate));
    stream::iter(deletions).buffered(DELETIONS_AT_ONCE).collect().await
}

/// Answers a DELETE of a collection: every selected object goes the way of a single deletion.
pub(super) async fn delete_collection(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = options(call, body)?;
    let selected = list::select(call, &ListOptions::parse(&call.query())?).await?;
    let paths = selected.iter().map(|(path, _)| path.clone()).collect();
    let results = delete_all(call, &call.served, paths, &options, Gate::Object).await;
    let mut items = Vec::with_capacity(results.len());
    for (result, (_, object)) in results.into_iter().zip(&selected) {
        match result {
            Ok(Deleted::Held(Payload::Stored(bytes))) => items.push(bytes),
            Ok(_) => items.push(conversion::read_one(call, object.bytes.clone()).await?),
            // somebody else was faster: gone is gone
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let revision = call.server.store.revision();
    output::list(call, items, &output::ListMeta { revision, ..output::ListMeta::default() })
}
