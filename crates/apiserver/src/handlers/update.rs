//! Changing objects: PUT, and the loop that patches share.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value};
use store::{Mutation, Precondition, Revision};

use super::{
    admit::{Admission, Gate},
    charge::Charge,
    create::{self, Ownership},
    definitions, policies, receive, rules,
    write::{self, ATTEMPTS_MAX, Besides, Committed, Outcome},
};
use crate::{
    body::Body, codec, conversion, deletion, dispatch::Call, meta, options::WriteOptions, output::Payload,
    server::SERVICES, status::ApiError,
};

/// Answers a PUT.
pub(super) async fn update(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let object = sent(call, body, &options)?;
    let absent = || call.server.snapshot().get(&call.served.collection, &call.path()).is_none();
    let creates = call.subresource.is_empty() && call.served.strategy.allows_create_on_update();
    if creates && absent() {
        check_uid(call, meta::uid(&object), "")?;
        call.may_create()?;
        return create::create_object(call, object, &options, Ownership::Track).await?.respond(call);
    }
    let uid = meta::uid(&object).to_owned();
    let mut first = Some(object);
    let change = |old: &Value| {
        check_uid(call, &uid, meta::uid(old))?;
        // only a second attempt needs a second copy, and decoding again is what makes it
        let object = match first.take() {
            Some(object) => object,
            None => sent(call, body, &options)?,
        };
        write::check_version_named(call, &object)?;
        Ok(Change { object, ownership: Ownership::Track })
    };
    change_object(call, &options, Gate::Object, change).await?.respond(call)
}

/// Refuses the update of another object of the same name than the one that is meant.
fn check_uid(call: &Call, wanted: &str, live: &str) -> Result<(), ApiError> {
    if wanted.is_empty() || wanted == live {
        return Ok(());
    }
    let key = store::registry_key(&call.served.collection, &call.path());
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
         UID in precondition: {wanted}, UID in object meta: {live}"
    );
    Err(ApiError::conflict(call.group_resource(), &call.name, why))
}

/// The object in a PUT's body, pruned and with its defaults, and what is odd about it.
fn sent(call: &Call, body: &Bytes, options: &WriteOptions) -> Result<Value, ApiError> {
    let mut object = receive::object(call, body, options.field_validation)?;
    receive::check_address(call, &mut object)?;
    call.trail.names(&object);
    receive::default(&call.served, &mut object);
    Ok(object)
}

/// The wanted state, computed from the live one.
pub(super) struct Change {
    pub(super) object: Value,
    pub(super) ownership: Ownership,
}

/// Changes the object the call names: computes the wanted state from the live one, checks it, commits it, and does so
/// anew when another write came between, unless the wanted state names the version it was made from.
pub(super) async fn change_object(
    call: &Call,
    options: &WriteOptions,
    gate: Gate<'_>,
    mut change: impl FnMut(&Value) -> Result<Change, ApiError>,
) -> Result<Outcome, ApiError> {
    let served = &call.served;
    let path = call.path();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.server.snapshot();
        let Some(stored) = snapshot.get(&served.collection, &path) else {
            return Err(ApiError::not_found(call.group_resource(), &call.name));
        };
        let old = &*write::load(call, stored).await?;
        let Change { object: mut new, ownership } = change(old)?;
        let expected = write::expected(&new)?;
        if expected.is_some_and(|expected| expected != stored.revision) {
            return Err(ApiError::modified(call.group_resource(), &call.name));
        }
        meta::carry_over(&mut new, old);
        // before the server adds anything: what admission and allocation fill in is nobody's
        if ownership == Ownership::Track {
            write::track(call, options, Some(old), &mut new)?;
        }
        prepare(call, options, gate, &mut new, old).await?;
        let charge = Charge::of(call, &new, Some(old));
        let claim = match &*served.collection {
            SERVICES if call.subresource.is_empty() => Some(create::claim(call, &mut new, Some(old))?),
            _ => None,
        };
        meta::tidy(&mut new);
        call.warn(served.strategy.warnings(&new));
        if unchanged(&new, old) {
            return Ok(Outcome {
                object: Payload::Stored(conversion::read_one(call, stored.bytes.clone()).await?),
                created: false,
            });
        }
        if options.dry_run {
            if let Some(charge) = charge {
                charge.writes(call)?;
            }
            new["metadata"]["resourceVersion"] = stored.revision.0.to_string().into();
            return Ok(Outcome { object: Payload::Served(new), created: false });
        }
        let besides = Besides { charge: charge.as_ref(), claim: claim.as_ref(), owned: None };
        match save(call, &path, stored.revision, new, besides).await? {
            Committed::Done(object) => {
                if let Some(claim) = claim {
                    claim.confirm();
                }
                return Ok(Outcome {
                    object: Payload::Stored(conversion::read_one(call, object.bytes).await?),
                    created: false,
                });
            }
            Committed::Outdated if expected.is_some() => {
                return Err(ApiError::modified(call.group_resource(), &call.name));
            }
            Committed::Outdated => {}
        }
    }
    Err(ApiError::modified(call.group_resource(), &call.name))
}

/// Commits the changed object; one whose deletion waited only for this change goes.
async fn save(
    call: &Call,
    path: &str,
    revision: Revision,
    mut new: Value,
    besides: Besides<'_>,
) -> Result<Committed, ApiError> {
    let served = &call.served;
    let precondition = Precondition::Revision(revision);
    if !(meta::is_terminating(&new) && deletion::may_go(&served.collection, &new)) {
        return write::put(call, path, precondition, new, besides).await;
    }
    conversion::write(call, &mut new).await?;
    let gone = write::commit(call, path, precondition, Mutation::Delete(codec::encode(&new))).await?;
    if matches!(gone, Committed::Done(_)) {
        definitions::after_delete(call, &new).await?;
    }
    Ok(gone)
}

/// Admission, the kind's own preparation, and validation.
async fn prepare(
    call: &Call,
    options: &WriteOptions,
    gate: Gate<'_>,
    new: &mut Value,
    old: &Value,
) -> Result<(), ApiError> {
    match gate {
        Gate::Open => prepare_and_check(call, options, new, old),
        Gate::Object => {
            let admission = Admission::update(call, options, old);
            let snapshot = admission.mutate(Some(new)).await?;
            prepare_and_check(call, options, new, old)?;
            admission.validate(&snapshot, Some(new)).await
        }
        Gate::Shown(asked, view) => {
            let shown_old = view.show(old);
            let admission = Admission::update(asked, options, &shown_old);
            let mut shown = view.show(new);
            let snapshot = admission.mutate(Some(&mut shown)).await?;
            view.take(&shown, new);
            prepare_and_check(call, options, new, old)?;
            admission.validate(&snapshot, Some(&view.show(new))).await
        }
    }
}

fn prepare_and_check(call: &Call, options: &WriteOptions, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let cx = write::context(call, options);
    let served = &call.served;
    served.strategy.prepare_update(&cx, new, old);
    if &*served.collection == crate::crd::COLLECTION && call.subresource.is_empty() {
        definitions::prepare(call, new);
    }
    if call.subresource.is_empty() {
        policies::prepare(call, new, Some(old))?;
    }
    rules::check(call, new, Some(old), served.strategy.validate_update(&cx, new, old))
}

/// Whether a write would change nothing but the time at which somebody claimed a field.
fn unchanged(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let is_same = |key: &str, a: &Value, b: &Value| if key == "metadata" { same_metadata(a, b) } else { a == b };
    new.len() == old.len()
        && new.iter().all(|(key, value)| old.get(key).is_some_and(|before| is_same(key, value, before)))
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    same_besides(&["resourceVersion", "managedFields"], new, old)
        && same_owners(new.get("managedFields"), old.get("managedFields"))
}

fn same_owners(new: Option<&Value>, old: Option<&Value>) -> bool {
    let (new, old) = (entries(new), entries(old));
    let same = |(new, old): (&Value, &Value)| match (new.as_object(), old.as_object()) {
        (Some(new), Some(old)) => same_besides(&["time"], new, old),
        _ => new == old,
    };
    new.len() == old.len() && new.iter().zip(old).all(same)
}

fn entries(fields: Option<&Value>) -> &[Value] {
    fields.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether two objects are the same but for some of their fields.
fn same_besides(ignored: &[&str], new: &Map<String, Value>, old: &Map<String, Value>) -> bool {
    let counts = |key: &&String| !ignored.contains(&key.as_str());
    new.keys().filter(counts).count() == old.keys().filter(counts).count()
        && new.iter().filter(|(key, _)| counts(key)).all(|(key, value)| old.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_write_that_only_claims_the_same_again_changes_nothing() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "4",
            "managedFields": [{"manager": "m", "time": "1", "fieldsV1": {"f:data": {}}}]}, "data": {"a": "b"}});
        let mut new = old.clone();
        new["metadata"]["managedFields"][0]["time"] = "2".into();
        new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert!(unchanged(&new, &old));
        new["metadata"]["managedFields"][0]["manager"] = "n".into();
        assert!(!unchanged(&new, &old));
        let mut relabelled = old.clone();
        relabelled["metadata"]["labels"] = json!({"x": "y"});
        assert!(!unchanged(&relabelled, &old));
    }
}
