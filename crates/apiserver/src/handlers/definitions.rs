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
    codec, crd, dispatch::Call, meta, options::DeleteOptions, resources::Served, server::SERVICES, status::ApiError,
};

/// Completes a definition about to be written, and refuses one whose schemas do not compile.
pub(super) fn prepare(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let broken = crd::schema_errors(object);
    if !broken.is_empty() {
        let resource = &call.served.resource;
        return Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(object), broken));
    }
    let table = call.server.registry.table();
    let group = object["spec"]["group"].as_str().unwrap_or_default().to_owned();
    let name = meta::name(object).to_owned();
    let others = table.definitions.values().filter(|other| other.group == group && other.name != name);
    let mut taken: Vec<(String, String)> = others.flat_map(|other| crd::held_names(other)).collect();
    let builtin = table.group(&group).into_iter().flat_map(|group| &group.versions).flat_map(|v| &v.resources);
    for served in builtin.filter(|served| served.custom.is_none()) {
        taken.push(("resource".into(), served.resource.plural.clone()));
        taken.push(("kind".into(), served.resource.kind.clone()));
    }
    crd::establish(object, &taken, call.now);
    if !meta::is_terminating(object) {
        crd::hold_for_cleanup(object);
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
    let own = |served: &&Arc<Served>| served.custom.as_ref().is_some_and(|(own, _)| Arc::ptr_eq(own, definition));
    if let Some(served) = table.iter().find(own) {
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
    let Some((definition, _)) = &call.served.custom else { return Ok(()) };
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
            Committed::Done(_) => return Ok(()),
            Committed::Outdated => {}
        }
    }
    Err(ApiError::internal(format!("the definition {name} changes faster than it can be finished")))
}
