//! What is particular about writing CustomResourceDefinitions: they establish themselves, and their deletion takes their
//! objects along.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use store::{Mutation, Precondition};

use super::{
    admit::Gate,
    delete,
    write::{self, ATTEMPTS_MAX, Committed},
};
use crate::{
    codec, convert::Form, crd, dispatch::Call, meta, options::DeleteOptions, resources::Served, server::SERVICES,
    status::ApiError,
};

/// Gives a definition about to be written the status it earns.
pub(super) fn prepare(call: &Call, object: &mut Value) {
    crd::establish(object, &taken(call, object), call.now);
    if !meta::is_terminating(object) {
        crd::hold_for_cleanup(object);
    }
}

/// The names that others hold in the group of a definition.
fn taken(call: &Call, object: &Value) -> crd::Taken {
    let table = call.server.registry.table();
    let (group, name) = (object["spec"]["group"].as_str().unwrap_or_default(), meta::name(object));
    let mut taken = crd::Taken::default();
    for other in table.definitions.values().filter(|other| other.group == group && other.name != name) {
        taken.add(&other.accepted);
    }
    let versions = table.group(group).into_iter().flat_map(|group| &group.versions);
    for served in versions.flat_map(|version| &version.resources).filter(|served| !served.is_custom()) {
        taken.add_builtin(&served.resource);
    }
    taken
}

/// Looks again at the definitions of a group that a name in use kept from being served, now that one has gone.
async fn reconsider(call: &Call, group: &str) -> Result<(), ApiError> {
    let table = call.server.registry.table();
    let Some(resource) = table.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else { return Ok(()) };
    for definition in table.definitions.values().filter(|other| other.group == group && other.disputed) {
        let own = call.about(resource, &definition.name);
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = call.server.snapshot();
            let Some(stored) = snapshot.get(crd::COLLECTION, &definition.name) else { break };
            let before = codec::stored(&stored.bytes)?;
            let mut object = before.clone();
            crd::establish(&mut object, &taken(call, &before), call.now);
            if object == before {
                break;
            }
            let precondition = Precondition::Revision(stored.revision);
            let mutation = Mutation::Put(codec::encode(&object));
            if let Committed::Done(_) = write::commit(&own, &definition.name, precondition, mutation).await? {
                break;
            }
        }
    }
    Ok(())
}

/// Deletes all objects of a definition whose deletion has begun, and the definition when none is left. Boxed, because a
/// deletion may end a definition, whose end is deletions.
pub(super) fn clean_up<'a>(call: &'a Call, name: &'a str) -> BoxFuture<'a, Result<(), ApiError>> {
    Box::pin(delete_objects_of(call, name))
}

async fn delete_objects_of(call: &Call, name: &str) -> Result<(), ApiError> {
    let table = call.server.registry.table();
    let Some(definition) = table.definitions.get(name) else { return Ok(()) };
    let own = |served: &&Arc<Served>| served.definition().is_some_and(|own| Arc::ptr_eq(own, definition));
    // a version that no webhook has to be asked about, where there is one: the webhook may be gone already
    if let Some(served) = table.iter().filter(own).min_by_key(|served| served.form == Form::Webhook) {
        let snapshot = call.server.snapshot();
        let paths = snapshot.range(&definition.collection, "", None).map(|(path, _)| path.clone()).collect();
        // as upstream, nobody is asked about objects whose definition goes
        for deleted in delete::delete_all(call, served, paths, &DeleteOptions::default(), Gate::Open).await {
            match deleted {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
    }
    finish(call, name).await
}

/// Frees what a deleted object held, and lets a definition go whose last object this was.
pub(super) async fn after_delete(call: &Call, object: &Value) -> Result<(), ApiError> {
    if &*call.served.collection == SERVICES {
        call.server.services.release(object);
    }
    let Some(definition) = call.served.definition() else { return Ok(()) };
    let terminating = call.server.registry.table().definitions.get(&definition.name).is_some_and(|d| d.terminating);
    if terminating { finish(call, &definition.name).await } else { Ok(()) }
}

/// Takes the cleanup finalizer off a terminating definition that has no objects left; with the last finalizer it goes.
async fn finish(call: &Call, name: &str) -> Result<(), ApiError> {
    let table = call.server.registry.table();
    let Some(definition_resource) = table.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
        return Ok(());
    };
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.server.snapshot();
        let Some(stored) = snapshot.get(crd::COLLECTION, name) else { return Ok(()) };
        let mut object = codec::stored(&stored.bytes)?;
        let collection = format!(
            "{}/{}",
            object["spec"]["group"].as_str().unwrap_or_default(),
            object["spec"]["names"]["plural"].as_str().unwrap_or_default()
        );
        if !meta::is_terminating(&object) || snapshot.count(&collection, "", None) > 0 {
            return Ok(());
        }
        if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != crd::CLEANUP_FINALIZER);
        }
        let gone = meta::finalizers(&object).is_empty();
        let encoded = codec::encode(&object);
        let mutation = if gone { Mutation::Delete(encoded) } else { Mutation::Put(encoded) };
        let own = call.about(definition_resource, name);
        match write::commit(&own, name, Precondition::Revision(stored.revision), mutation).await? {
            Committed::Done(_) if gone => {
                return reconsider(call, object["spec"]["group"].as_str().unwrap_or_default()).await;
            }
            Committed::Done(_) => return Ok(()),
            Committed::Outdated => {}
        }
    }
    Err(ApiError::internal(format!("the definition {name} changes faster than it can be finished")))
}
