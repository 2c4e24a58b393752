//! Conversion of custom resources between versions by their definition's webhook.
//!
//! Objects whose definition names a webhook are translated at the edges: [`read`] brings stored bytes into the version a
//! request speaks before anything else looks at them, [`write()`] brings an object into the version that is stored. For
//! all other resources both are one comparison, and [`Form`] does what there is to do.
//!
//! A stored revision is converted once for each version and kept with its definition, so that a change of the definition
//! forgets what the old webhook said.

use std::{collections::HashMap, sync::Arc, time::Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use schema::Schema;
use serde_json::Value;
use store::{Event, Object};

use crate::{
    codec,
    convert::Form,
    dispatch::Call,
    outbound::{ClientConfig, ReviewVersion},
    resources::Served,
    server::ApiServer,
    status::ApiError,
};

mod exchange;
#[cfg(test)]
mod tests;

/// Objects sent to a webhook at once: of the usual size of some KiB they make a review of a few MiB.
const OBJECTS_AT_ONCE: usize = 500;
/// Bytes of converted objects kept for one definition, stored forms included; when full, all are forgotten.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The webhook of a definition, and what it said.
pub(crate) struct Conversion {
    /// Name of the definition.
    name: String,
    client: Result<ClientConfig, String>,
    /// The newest version of reviews it and this server know.
    version: Option<ReviewVersion>,
    kept: Mutex<Kept>,
}

/// Converted objects by the stored form, which names object and revision, and the version asked for.
#[derive(Default)]
struct Kept {
    by_version: HashMap<String, HashMap<Bytes, Bytes>>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, version: &str, stored: Bytes, converted: Bytes) {
        let bytes = stored.len() + converted.len();
        if self.bytes + bytes > KEPT_BYTES_MAX {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.by_version.entry(version.to_owned()).or_default().insert(stored, converted);
    }
}

impl Conversion {
    /// Reads `spec.conversion`; `None` where only the name of the version changes.
    pub(crate) fn decode(name: &str, conversion: &Value) -> Option<Self> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        Some(Self {
            name: name.to_owned(),
            client: ClientConfig::decode(&webhook["clientConfig"]).map_err(|error| error.to_string()),
            version: versions.filter_map(Value::as_str).find_map(ReviewVersion::parse),
            kept: Mutex::default(),
        })
    }

    fn kept(&self, version: &str, stored: &Bytes) -> Option<Bytes> {
        self.kept.lock().by_version.get(version)?.get(stored).cloned()
    }

    /// Objects in another version, in their order. Those that are in it already are not sent.
    async fn convert(&self, server: &ApiServer, desired: &str, objects: &mut [Value]) -> Result<(), ApiError> {
        let mut wrong: Vec<&mut Value> = objects.iter_mut().filter(|object| object["apiVersion"] != desired).collect();
        for some in wrong.chunks_mut(OBJECTS_AT_ONCE) {
            let originals: Vec<&Value> = some.iter().map(|object| &**object).collect();
            let kind = exchange::kind(originals[0]);
            let failed = |why: String| ApiError::new(500, "", format!("conversion webhook for {kind} {why}"));
            let began = Instant::now();
            let asked = exchange::ask(&server.outbound, self, desired, &originals).await;
            let versions = (exchange::version_of(originals[0]), exchange::version(desired));
            server.metrics.converted(&self.name, versions, asked.is_ok(), began.elapsed());
            let converted = asked.map_err(failed)?;
            for (object, converted) in some.iter_mut().zip(converted) {
                **object = converted;
            }
        }
        Ok(())
    }
}

/// The webhook between the version `served` is and the one that is stored.
fn of(served: &Served) -> Option<&Conversion> {
    match served.form {
        Form::Webhook => served.definition().and_then(|definition| definition.conversion.as_ref()),
        Form::Stored | Form::Relabelled | Form::Event | Form::Autoscaler => None,
    }
}

/// Gives a converted object the form of its type, as one that comes from a client gets it.
fn complete(schema: &Schema, object: &mut Value) {
    // what does not fit stays visible: reading must not fail for it
    schema::prune(schema, object);
    schema::default(schema, object);
}

/// Stored objects in the version the call speaks.
pub(crate) async fn read(call: &Call, mut stored: Vec<Bytes>) -> Result<Vec<Bytes>, ApiError> {
    let Some(conversion) = of(&call.served) else { return Ok(stored) };
    let desired = &call.served.api_version;
    let mut missing = Vec::new();
    for (index, bytes) in stored.iter_mut().enumerate() {
        match conversion.kept(desired, bytes) {
            Some(converted) => *bytes = converted,
            None => missing.push((index, codec::stored(bytes)?)),
        }
    }
    let (at, mut objects): (Vec<usize>, Vec<Value>) = missing.into_iter().unzip();
    // boxed: only a webhook makes this wait, and most futures should not carry the room for it
    Box::pin(conversion.convert(&call.server, desired, &mut objects)).await?;
    let mut kept = conversion.kept.lock();
    for (index, mut object) in at.into_iter().zip(objects) {
        complete(call.served.schema(), &mut object);
        let converted = Bytes::from(object.to_string());
        let stored = std::mem::replace(&mut stored[index], converted.clone());
        kept.insert(desired, stored, converted);
    }
    Ok(stored)
}

/// One stored object in the version the call speaks.
pub(crate) async fn read_one(call: &Call, stored: Bytes) -> Result<Bytes, ApiError> {
    if of(&call.served).is_none() {
        return Ok(stored);
    }
    let mut read = read(call, vec![stored]).await?;
    read.pop().ok_or_else(|| ApiError::internal("a conversion returned no object"))
}

/// Stored objects in the version the call speaks, with their revisions.
pub(crate) async fn objects(call: &Call, mut stored: Vec<Object>) -> Result<Vec<Object>, ApiError> {
    let converted = read(call, stored.iter().map(|object| object.bytes.clone()).collect()).await?;
    for (object, bytes) in stored.iter_mut().zip(converted) {
        object.bytes = bytes;
    }
    Ok(stored)
}

/// Events in the version the call speaks.
pub(crate) async fn events(call: &Call, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, ApiError> {
    if of(&call.served).is_none() {
        return Ok(events);
    }
    let states = events.iter().flat_map(|event| std::iter::once(&event.object).chain(&event.previous));
    let mut converted = read(call, states.map(|state| state.bytes.clone()).collect()).await?.into_iter();
    let mut next = |state: &Object| Object { bytes: converted.next().unwrap_or_default(), ..state.clone() };
    let convert = |event: &Arc<Event>| {
        let object = next(&event.object);
        let previous = event.previous.as_ref().map(&mut next);
        Arc::new(Event { key: event.key.clone(), object, previous, deleted: event.deleted, frame: Default::default() })
    };
    Ok(events.iter().map(convert).collect())
}

/// Brings an object of the call's version into the form that is stored.
pub(crate) async fn write(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let served = &call.served;
    served.form.to_stored(object, &served.stored_api_version);
    let (Some(conversion), Some(definition)) = (of(served), served.definition()) else { return Ok(()) };
    let objects = std::slice::from_mut(object);
    Box::pin(conversion.convert(&call.server, &served.stored_api_version, objects)).await?;
    if let Some(version) = definition.stored() {
        complete(version.document.schema(), object);
    }
    Ok(())
}

/// An object of one version in another version of the same resource.
pub(crate) async fn between(call: &Call, from: &Served, to: &Served, object: &mut Value) -> Result<(), ApiError> {
    from.form.to_stored(object, &from.stored_api_version);
    // one of the two may be the stored version, which needs no webhook by itself
    if let Some(conversion) = of(from).or_else(|| of(to)) {
        let objects = std::slice::from_mut(object);
        Box::pin(conversion.convert(&call.server, &to.api_version, objects)).await?;
        complete(to.schema(), object);
    }
    to.form.to_served(object, &to.api_version);
    Ok(())
}
