//! Creating objects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use schema::apply::Operation;
use serde_json::Value;
use store::Precondition;

use super::{
    admit::Admission,
    charge::Charge,
    definitions, policies, receive, rules,
    write::{self, Besides, Committed, Outcome},
};
use crate::{
    addresses,
    allocation::{Claim, Refusal},
    body::Body,
    conversion,
    convert::Form,
    dispatch::Call,
    meta,
    options::WriteOptions,
    output::Payload,
    resources::Served,
    server::SERVICES,
    status::{ApiError, causes_of},
    written,
};

/// How often a generated name is drawn anew when it is taken; upstream tries as often.
const NAMES_TRIED_MAX: usize = 8;

/// Answers a POST to a collection.
pub(super) async fn create(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut object = receive::object(call, body, options.field_validation)?;
    receive::check_address(call, &mut object)?;
    call.trail.names(&object);
    if write::expected(&object)?.is_some() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    create_object(call, object, &options, Ownership::Track).await?.respond(call)
}

/// Whether the fields' owner is still to be written down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Everything the object sets is the request's.
    Track,
    /// Server-side apply has written it already.
    Applied,
}

/// Stores a pruned object that is not there yet.
pub(super) async fn create_object(
    call: &Call,
    mut object: Value,
    options: &WriteOptions,
    ownership: Ownership,
) -> Result<Outcome, ApiError> {
    let served = &call.served;
    refuse_while_terminating(call)?;
    receive::default(served, &mut object);
    meta::begin(&mut object, call.now);
    // before the server adds anything: what admission and allocation fill in is nobody's
    let owned = match ownership {
        Ownership::Track => own(call, options, &mut object)?,
        Ownership::Applied => None,
    };
    let admission = Admission::create(call, options);
    let snapshot = admission.mutate(Some(&mut object)).await?;
    let base = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    let generated = meta::name(&object).is_empty() && !base.is_empty();
    if generated {
        object["metadata"]["name"] = generate_name(&base).into();
        call.trail.name(meta::name(&object));
    }
    let cx = write::context(call, options);
    served.strategy.prepare_create(&cx, &mut object);
    if &*served.collection == crate::crd::COLLECTION {
        definitions::prepare(call, &mut object);
    }
    policies::prepare(call, &mut object, None)?;
    rules::check(call, &object, None, served.strategy.validate_create(&cx, &object))?;
    admission.validate(&snapshot, Some(&object)).await?;
    let charge = Charge::of(call, &object, None);
    let claim = match &*served.collection {
        SERVICES => Some(claim(call, &mut object, None)?),
        _ => None,
    };
    meta::tidy(&mut object);
    call.warn(name_warning(served, &object));
    call.warn(served.strategy.warnings(&object));
    if options.dry_run {
        if let Some(charge) = charge {
            charge.writes(call)?;
        }
        if snapshot.get(&served.collection, &served.path(&call.namespace, meta::name(&object))).is_some() {
            return Err(ApiError::already_exists(call.group_resource(), meta::name(&object)));
        }
        return Ok(Outcome { object: Payload::Served(object), created: true });
    }
    let besides = Besides { charge: charge.as_ref(), claim: claim.as_ref(), owned: owned.as_deref() };
    let stored = insert(call, object, generated.then_some(&*base), besides).await?;
    if let Some(claim) = claim {
        claim.confirm();
    }
    Ok(Outcome { object: Payload::Stored(conversion::read_one(call, stored.bytes).await?), created: true })
}

/// Notes who owns what of a new object: in the object where anybody looks at its tree before or after it is stored, else as
/// JSON that goes into the stored bytes.
fn own(call: &Call, options: &WriteOptions, object: &mut Value) -> Result<Option<Vec<u8>>, ApiError> {
    let (server, served) = (&call.server, &call.served);
    let is_seen = options.dry_run
        || served.form != Form::Stored
        || written::is_kept(&served.collection, object, 0)
        || !server.webhooks.mutating().is_empty()
        || !server.webhooks.validating().is_empty()
        || !server.policies.bound().is_empty();
    if !is_seen {
        let manager = write::manager(call, options, Operation::Update);
        if let Some(owned) = schema::apply::of_new(served.schema(), object, &manager) {
            return Ok(Some(owned));
        }
    }
    write::track(call, options, None, object)?;
    Ok(None)
}

fn generate_name(base: &str) -> String {
    strategy::generate_name(base, rand::random::<u8>)
}

fn refuse_while_terminating(call: &Call) -> Result<(), ApiError> {
    match call.served.definition() {
        Some(definition) if definition.terminating => {
            let name = &definition.name;
            let why = format!("create not allowed while custom resource definition {name} is terminating");
            Err(ApiError::new(405, "MethodNotAllowed", why))
        }
        _ => Ok(()),
    }
}

/// What the client is warned about in the name of an object that goes on in names of pods.
fn name_warning(served: &Served, object: &Value) -> Option<String> {
    let becomes = served.strategy.name_becomes()?;
    let why = schema::names::dns1123_label(meta::name(object));
    let why = (!why.is_empty()).then(|| why.join(" "))?;
    let consequence = "which can result in surprising behavior; a DNS label is recommended";
    Some(format!("metadata.name: this is used in {becomes}, {consequence}: [{why}]"))
}

/// Commits a new object; `base` is what its name was generated from, if it was.
async fn insert(
    call: &Call,
    mut object: Value,
    base: Option<&str>,
    besides: Besides<'_>,
) -> Result<store::Object, ApiError> {
    for _ in 0..NAMES_TRIED_MAX {
        let name = meta::name(&object).to_owned();
        let path = call.served.path(&call.namespace, &name);
        let again = base.is_some().then(|| object.clone());
        match (write::put(call, &path, Precondition::Absent, object, besides).await?, again) {
            (Committed::Done(stored), _) => return Ok(stored),
            (Committed::Outdated, None) => return Err(ApiError::already_exists(call.group_resource(), &name)),
            (Committed::Outdated, Some(mut again)) => {
                again["metadata"]["name"] = generate_name(base.unwrap_or_default()).into();
                object = again;
            }
        }
    }
    Err(ApiError::already_exists(call.group_resource(), base.unwrap_or_default()))
}

/// Claims the addresses and ports a Service needs beyond what it holds.
pub(super) fn claim(call: &Call, service: &mut Value, old: Option<&Value>) -> Result<Claim, ApiError> {
    let snapshot = call.server.snapshot();
    let is_held = |address| addresses::is_held(&snapshot, address);
    let claim = call.server.services.allocate(service, old, &is_held);
    claim.map_err(|refusal| match refusal {
        Refusal::Fields(errors) => {
            ApiError::invalid("", &call.served.resource.kind, meta::name(service), causes_of(&errors))
        }
        Refusal::Failed(message) => ApiError::internal(message),
    })
}
