//! Deleting one object, and collections.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Encoded, Mutation, Precondition, Revision};

use super::{
    admit::{Admission, Gate},
    definitions, list, receive,
    write::{self, ATTEMPTS_MAX, Besides, Committed},
};
use crate::{
    body::Body,
    codec, conversion,
    convert::Form,
    crd,
    deletion::{self, NAMESPACES, Plan},
    dispatch::Call,
    meta,
    options::{DeleteOptions, ListOptions},
    outline,
    output::{self, Payload},
    resources::Served,
    server::SERVICES,
    status::{ApiError, GroupResource},
};

/// Objects of a collection that are decided on, and then written, together; some five milliseconds of work.
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
    let body = if body.is_empty() { None } else { Some(receive::delete_options(call, body)?) };
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

/// A deletion, decided on by one state of the object.
enum Decision {
    /// There is nothing to write.
    Settled(Deleted),
    /// The object goes, if it still is the one that was looked at.
    Remove { revision: Revision, last: Encoded, object: Arc<Value> },
    /// It is marked, on the same condition.
    Mark { revision: Revision, marked: Value },
}

/// Deletes the object the call names.
pub(super) async fn delete_object(call: &Call, options: &DeleteOptions, gate: Gate<'_>) -> Result<Deleted, ApiError> {
    for _ in 0..ATTEMPTS_MAX {
        let decision = decide(call, options, gate).await?;
        if let Some(deleted) = carry_out(call, decision).await? {
            return Ok(deleted);
        }
    }
    Err(ApiError::modified(call.group_resource(), &call.name))
}

/// Whether a deletion can be decided on by the outline of an object: nobody wants to see the whole of it.
fn takes_outline(call: &Call, stored: &store::Object) -> bool {
    let (served, server) = (&call.served, &call.server);
    // a namespace is held by a list further in, a Service gives back addresses, a definition takes its objects along
    let is_plain = !matches!(&*served.collection, NAMESPACES | SERVICES | crd::COLLECTION);
    let is_watched = !server.webhooks.mutating().is_empty()
        || !server.webhooks.validating().is_empty()
        || !server.policies.bound().is_empty();
    is_plain && !is_watched && served.form == Form::Stored && !served.is_custom() && served.is_settled(stored)
}

async fn decide(call: &Call, options: &DeleteOptions, gate: Gate<'_>) -> Result<Decision, ApiError> {
    let served = &call.served;
    let snapshot = call.server.snapshot();
    let Some(stored) = snapshot.get(&served.collection, &call.path()) else {
        return Err(ApiError::not_found(call.group_resource(), &call.name));
    };
    let is_outline = takes_outline(call, stored);
    let object =
        if is_outline { Arc::new(outline::of_deletion(&stored.bytes)?) } else { write::load(call, stored).await? };
    check_preconditions(call, options, &object)?;
    if !matches!(gate, Gate::Open) {
        let admission = Admission::delete(call, options, &object);
        let snapshot = admission.mutate(None).await?;
        admission.validate(&snapshot, None).await?;
    }
    let plan = |object: &Value| {
        let grace = served.strategy.grace_period_seconds(object, options.grace_period_seconds);
        let propagation = served.strategy.default_propagation();
        deletion::plan(&served.collection, object, options, grace, propagation, call.now)
    };
    let planned = match plan(&object) {
        Plan::Mark(_) if is_outline => plan(&*write::load(call, stored).await?),
        planned => planned,
    };
    let revision = stored.revision;
    Ok(match planned {
        Plan::Nothing => {
            let stored = conversion::read_one(call, stored.bytes.clone()).await?;
            Decision::Settled(Deleted::Held(Payload::Stored(stored)))
        }
        Plan::Remove if options.dry_run => {
            Decision::Settled(Deleted::Gone { last: stored.bytes.clone(), uid: meta::uid(&object).to_owned() })
        }
        Plan::Mark(marked) if options.dry_run => Decision::Settled(Deleted::Held(Payload::Served(marked))),
        Plan::Remove => {
            // the last state is the stored one, whatever version the request speaks
            let last = match codec::again(&stored.bytes) {
                Some(last) => last,
                None => codec::encode(&codec::stored(&stored.bytes)?),
            };
            Decision::Remove { revision, last, object }
        }
        Plan::Mark(mut marked) => {
            on_mark(call, &mut marked);
            Decision::Mark { revision, marked }
        }
    })
}

/// Writes what was decided; `None` when the object changed meanwhile.
async fn carry_out(call: &Call, decision: Decision) -> Result<Option<Deleted>, ApiError> {
    match decision {
        Decision::Settled(deleted) => Ok(Some(deleted)),
        Decision::Remove { revision, last, object } => {
            let precondition = Precondition::Revision(revision);
            let committed = write::commit(call, &call.path(), precondition, Mutation::Delete(last)).await?;
            let Committed::Done(last) = committed else { return Ok(None) };
            definitions::after_delete(call, &object).await?;
            Ok(Some(Deleted::Gone { last: last.bytes, uid: meta::uid(&object).to_owned() }))
        }
        Decision::Mark { revision, marked } => {
            let precondition = Precondition::Revision(revision);
            let committed = write::put(call, &call.path(), precondition, marked, Besides::default()).await?;
            let Committed::Done(object) = committed else { return Ok(None) };
            if &*call.served.collection == crd::COLLECTION {
                definitions::clean_up(call, &call.name).await?;
            }
            Ok(Some(Deleted::Held(Payload::Stored(conversion::read_one(call, object.bytes).await?))))
        }
    }
}

/// What some kinds write into an object whose deletion begins.
fn on_mark(call: &Call, marked: &mut Value) {
    match &*call.served.collection {
        "core/namespaces" => marked["status"]["phase"] = "Terminating".into(),
        crd::COLLECTION => crd::mark_terminating(marked, call.now),
        _ => {}
    }
}

/// Refuses the deletion of another state or object than the one that is meant.
pub(super) fn check_preconditions(call: &Call, options: &DeleteOptions, object: &Value) -> Result<(), ApiError> {
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

/// One of many deletions. It owns what it needs, so that the streams of them borrow nothing.
struct Deletion {
    call: Call,
    options: Arc<DeleteOptions>,
    gate: Gate<'static>,
}

/// A deletion that was decided on, or why it is refused.
type Decided = (Deletion, Result<Decision, ApiError>);

impl Deletion {
    fn decide(self) -> BoxFuture<'static, Decided> {
        Box::pin(async move {
            let decision = decide(&self.call, &self.options, self.gate).await;
            (self, decision)
        })
    }

    fn carry_out((deletion, decision): Decided) -> BoxFuture<'static, Result<Deleted, ApiError>> {
        Box::pin(async move {
            let Self { call, options, gate } = deletion;
            match carry_out(&call, decision?).await? {
                Some(deleted) => Ok(deleted),
                // somebody came between: it is decided anew, by itself
                None => delete_object(&call, &options, gate).await,
            }
        })
    }
}

/// Deletes the objects at these paths; the results are in their order.
///
/// Deciding and writing take turns, some hundred objects at a time: so the writes of a turn come to the store together,
/// which makes few commits of them, while the next turn is decided on. One object after the other would have nearly
/// every deletion synced, published and told to watchers by itself.
pub(super) async fn delete_all(
    call: &Call,
    served: &Arc<Served>,
    paths: Vec<Arc<str>>,
    options: &DeleteOptions,
    gate: Gate<'static>,
) -> Vec<Result<Deleted, ApiError>> {
    let options = Arc::new(options.clone());
    let mut results = Vec::with_capacity(paths.len());
    let mut decided: Vec<Decided> = Vec::new();
    let mut turns = paths.chunks(DELETIONS_AT_ONCE);
    loop {
        let turn = turns.next().unwrap_or_default();
        let deletions: Vec<Deletion> = turn
            .iter()
            .map(|path| Deletion { call: call.about(served, path), options: options.clone(), gate })
            .collect();
        let writing = stream::iter(decided).map(Deletion::carry_out).buffered(DELETIONS_AT_ONCE).collect::<Vec<_>>();
        let deciding = stream::iter(deletions).map(Deletion::decide).buffered(DELETIONS_AT_ONCE).collect();
        let (written, next) = futures::join!(writing, deciding);
        results.extend(written);
        decided = next;
        if decided.is_empty() {
            return results;
        }
    }
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
