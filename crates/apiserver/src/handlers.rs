//! What each verb does: the table from (verb, subresource) to the function that answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Response;

use crate::{
    body::{self, Body},
    dispatch::Call,
    status::ApiError,
};

mod admit;
mod carried;
mod charge;
mod components;
mod connect;
mod create;
mod definitions;
mod delete;
mod eviction;
mod fresh;
mod list;
mod patch;
mod pods;
mod policies;
mod proxy;
mod read;
mod receive;
mod reviews;
mod rules;
mod scale;
mod services;
mod tokens;
mod update;
mod watch;
mod write;

pub use watch::FRAMES;

/// How long a body may take to arrive, against clients that trickle bytes; the largest needs 100 KiB a second.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether a subresource connects to a node, pod or service instead of exchanging objects.
pub(crate) fn is_connect(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers a call.
pub(crate) async fn answer(mut call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    if is_connect(&call.subresource) {
        return connect::answer(call, body).await;
    }
    if call.subresource.is_empty() && !call.served.resource.verbs.is_empty() && !supported(&call) {
        return Err(ApiError::method_not_allowed(call.group_resource(), call.verb));
    }
    if let Some(why) = strategy::path_segment(&call.name, false) {
        return Err(ApiError::bad_request(format!("Name parameter invalid: {:?}: {why}", call.name)));
    }
    let main = call.subresource.is_empty();
    if !main && !call.served.resource.subresources.iter().any(|known| known.name == call.subresource) {
        return Err(ApiError::no_such_resource());
    }
    let socket = match call.verb {
        "watch" if main => watch::socket(&mut call)?,
        _ => None,
    };
    let call = Arc::new(call);
    if matches!(call.verb, "get" | "list" | "watch") {
        fresh::for_read(&call).await?;
    }
    match call.verb {
        "get" | "list" if components::concerns(&call) => return components::answer(&call),
        "get" if main || call.subresource == "status" => return read::get(&call).await,
        "list" if main => return list::list(&call).await,
        "watch" if main => {
            let answer = watch::watch(&call).await?;
            return Ok(match socket {
                Some(socket) => socket.answer(answer, &call.server.tunnels, call.caller.draining.clone()),
                None => answer,
            });
        }
        _ => {}
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, body::read(body)).await;
    let body = read.map_err(|_| ApiError::new(408, "Timeout", "the request body did not arrive in time"))??;
    call.trail.request(&body);
    let rest = call.server.writes.clone();
    carried::Carried::new(change(call, body), rest).await
}

/// Boxed, so that the future of a mere read stays small.
fn change(call: Arc<Call>, body: Bytes) -> BoxFuture<'static, Result<Response<Body>, ApiError>> {
    Box::pin(async move {
        let judged_at = call.server.store.revision();
        match change_once(&call, &body).await {
            Err(error) if fresh::is_outdated(&call, judged_at, &error).await? => change_once(&call, &body).await,
            answer => answer,
        }
    })
}

async fn change_once(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    match (call.verb, call.subresource.is_empty()) {
        ("delete", true) => delete::delete(call, body).await,
        ("deletecollection", true) => delete::delete_collection(call, body).await,
        _ if services::concerns(call) => services::take_turn(call, || store(call, body)).await,
        _ => store(call, body).await,
    }
}

async fn store(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let (verb, subresource) = (call.verb, call.subresource.as_str());
    if verb == "create" && subresource.is_empty() && call.name.is_empty() {
        let group = call.served.resource.group.as_str();
        return match (group, call.served.resource.plural.as_str()) {
            ("authorization.k8s.io" | "authentication.k8s.io", _) => reviews::create(call, body).await,
            ("", "bindings") => pods::bind(call, body).await,
            _ => create::create(call, body).await,
        };
    }
    match (verb, subresource) {
        ("update", "scale") => scale::update(call, body).await,
        ("patch", "scale") => scale::patch(call, body).await,
        ("get", "scale") => scale::get(call).await,
        ("create", "binding") => pods::bind(call, body).await,
        ("create", "eviction") => eviction::create(call, body).await,
        ("create", "token") => tokens::create(call, body).await,
        ("get", _) => read::get(call).await,
        ("update", _) => update::update(call, body).await,
        ("patch", _) => patch::patch(call, body).await,
        (verb, _) => Err(ApiError::method_not_allowed(call.group_resource(), verb)),
    }
}

fn supported(call: &Call) -> bool {
    let placed = match call.verb {
        // a POST to an object's own path is no create
        "create" => call.name.is_empty(),
        "update" | "patch" => !call.name.is_empty(),
        _ => true,
    };
    placed && call.served.resource.verbs.iter().any(|known| known == call.verb)
}
