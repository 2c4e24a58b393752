//! The life of a request: who asks, for what, may they, and which handler answers.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use http::{HeaderMap, Method, Request, Response, header, request::Parts};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    authentication,
    authorization::{Attributes, Decision},
    body::Body,
    discovery, handlers,
    health::Probe,
    impersonation,
    negotiation::{self, Accepted, Encoding},
    options::Query,
    path::{self, ResourcePath, Route},
    resources::Served,
    server::{ApiServer, Caller},
    status::{ApiError, GroupResource},
    user::User,
};

/// A request for a resource, understood and authorised.
pub(crate) struct Call {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) caller: Caller,
    pub(crate) user: Arc<User>,
    pub(crate) served: Arc<Served>,
    pub(crate) verb: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    pub(crate) rest: String,
    pub(crate) parts: Parts,
    pub(crate) accepted: Accepted,
    pub(crate) now: Timestamp,
    /// What the client is warned about, besides what the handler itself finds.
    warnings: Mutex<Vec<String>>,
}

impl Call {
    /// The decoded query.
    pub(crate) fn query(&self) -> Query<'_> {
        Query::parse(self.parts.uri.query())
    }

    /// What failures name.
    pub(crate) fn group_resource(&self) -> GroupResource<'_> {
        GroupResource::from(&*self.served.resource)
    }

    /// The store path of the object asked for.
    pub(crate) fn path(&self) -> String {
        self.served.path(&self.namespace, &self.name)
    }

    /// The same request, about another object.
    pub(crate) fn about(&self, served: &Arc<Served>, path: &str) -> Self {
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        Self {
            server: self.server.clone(),
            caller: self.caller.clone(),
            user: self.user.clone(),
            served: served.clone(),
            verb: self.verb,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: String::new(),
            rest: String::new(),
            parts: Request::new(()).into_parts().0,
            accepted: self.accepted,
            now: self.now,
            warnings: Mutex::default(),
        }
    }

    /// Warns the client.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.lock().extend(warnings);
    }

    /// Takes the warnings, each once.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for warning in std::mem::take(&mut *self.warnings.lock()) {
            if !seen.contains(&warning) {
                seen.push(warning);
            }
        }
        seen
    }

    /// A header's text.
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        text(&self.parts.headers, name)
    }

    /// The subresource, `None` for the object itself.
    pub(crate) fn subresource(&self) -> Option<&str> {
        Some(self.subresource.as_str()).filter(|name| !name.is_empty())
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl ApiServer {
    /// Answers one request.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<Body>, caller: Caller) -> Response<Body> {
        let (parts, body) = request.into_parts();
        match self.route(parts, body, caller).await {
            Ok(response) => response,
            Err(error) => error.to_response(),
        }
    }

    async fn route(self: Arc<Self>, parts: Parts, body: Body, caller: Caller) -> Result<Response<Body>, ApiError> {
        let started = Instant::now();
        // the parsed path borrows from a copy of the address, so that the parts may move into the call
        let uri = parts.uri.clone();
        let call = match path::parse(uri.path()) {
            Route::Resource(resource) => self.call(resource, parts, caller)?,
            route => return self.non_resource(route, &parts, &caller),
        };
        let (served, verb) = (call.served.clone(), call.verb);
        self.metrics.inflight.fetch_add(1, Relaxed);
        let answer = handlers::answer(call, body).await;
        self.metrics.inflight.fetch_sub(1, Relaxed);
        let code = answer.as_ref().map_or_else(|error| error.code, |response| response.status().as_u16());
        served.metrics.observe(verb, code, started.elapsed());
        answer
    }

    /// The user behind a request, `None` when it carries no credentials.
    fn authenticate(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Option<Arc<User>>, ApiError> {
        if let Some(user) = &caller.user {
            return Ok(Some(user.clone()));
        }
        let Some(token) = authentication::bearer(headers) else { return Ok(None) };
        match self.authenticator.token(&token, &self.audiences, &self.snapshot(), now) {
            Ok((user, _)) => Ok(Some(Arc::new(user))),
            Err(error) => {
                self.metrics.unauthenticated.fetch_add(1, Relaxed);
                tracing::debug!(peer = ?caller.peer, %error, "a bearer token was refused");
                Err(ApiError::unauthorized())
            }
        }
    }

    /// The user, who must be known, after impersonation.
    fn identify(&self, headers: &HeaderMap, caller: &Caller, now: Timestamp) -> Result<Arc<User>, ApiError> {
        let Some(user) = self.authenticate(headers, caller, now)? else {
            self.metrics.unauthenticated.fetch_add(1, Relaxed);
            return Err(ApiError::unauthorized());
        };
        match impersonation::requested(headers)? {
            Some(wanted) => impersonation::impersonate(&self.authorizer, &user, wanted).map(Arc::new),
            None => Ok(user),
        }
    }

    fn non_resource(&self, route: Route<'_>, parts: &Parts, caller: &Caller) -> Result<Response<Body>, ApiError> {
        let path = parts.uri.path();
        let query = Query::parse(parts.uri.query());
        // load balancers and kubelets probe without credentials; nothing here says more than "ok" and the version
        for (prefix, probe) in [("/livez", Probe::Live), ("/readyz", Probe::Ready), ("/healthz", Probe::Healthy)] {
            if let Some(rest) = path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                return Ok(self.health.answer(probe, rest.trim_matches('/'), &query, caller.draining.is_cancelled()));
            }
        }
        if path == "/version" || path == "/version/" {
            return Ok(discovery::version());
        }
        let user = self.identify(&parts.headers, caller, Timestamp::now())?;
        let verb = parts.method.as_str().to_ascii_lowercase();
        let attributes = Attributes {
            user: &user,
            verb: &verb,
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: Some(path),
        };
        if let Decision::NoOpinion { reason } = self.authorizer.authorize(&attributes) {
            let why = format!("User {:?} cannot {verb} path {path:?}{}", user.name, because(&reason));
            return Err(ApiError::forbidden(GroupResource { group: "", resource: "" }, "", why));
        }
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(ApiError::no_such_resource());
        }
        let table = self.registry.table();
        match route {
            Route::CoreVersions => discovery::core_versions(&table, &parts.headers),
            Route::Groups => discovery::groups(&table, &parts.headers),
            Route::Group(name) => discovery::group(&table, name),
            Route::Resources { group, version } => discovery::resources(&table, group, version),
            Route::Resource(_) => Err(ApiError::no_such_resource()),
            Route::Other("/metrics") => Ok(self.metrics_text()),
            Route::Other("/openid/v1/jwks") => Ok(discovery::json_response(&self.authenticator.signer().jwks())),
            Route::Other("/.well-known/openid-configuration") => {
                Ok(discovery::openid_configuration(self.authenticator.signer().issuer()))
            }
            Route::Other("/") => Ok(discovery::paths(&table)),
            Route::Other(path) => self.documents.answer(&table, path, &parts.headers),
        }
    }

    /// Identifies, authorises and understands a request for a resource.
    fn call(self: &Arc<Self>, path: ResourcePath<'_>, parts: Parts, caller: Caller) -> Result<Call, ApiError> {
        let now = Timestamp::now();
        let user = self.identify(&parts.headers, &caller, now)?;
        let verb = verb(&parts, &path);
        self.authorize(&user, verb, &path)?;
        let served = self.registry.find(path.group, path.version, path.resource);
        let served = served.ok_or_else(ApiError::no_such_resource)?;
        check_scope(&served, &path)?;
        let accepted = match negotiation::accepted(&parts.headers) {
            // what connects to a node or a pod is not negotiated with this server
            Err(_) if verb == "connect" || handlers::is_connect(path.subresource) => Accepted::PLAIN,
            accepted => accepted?,
        };
        if accepted.encoding == Encoding::Protobuf && served.resource.schema.is_empty() {
            return Err(ApiError::not_acceptable(negotiation::PRODUCED_AS_TEXT));
        }
        Ok(Call {
            server: self.clone(),
            caller,
            user,
            verb,
            namespace: path.namespace.into_owned(),
            name: path.name.into_owned(),
            subresource: path.subresource.to_owned(),
            rest: path.rest.to_owned(),
            parts,
            accepted,
            now,
            warnings: Mutex::default(),
            served,
        })
    }

    fn authorize(&self, user: &User, verb: &str, path: &ResourcePath<'_>) -> Result<(), ApiError> {
        let attributes = Attributes {
            user,
            verb,
            group: path.group,
            resource: path.resource,
            subresource: path.subresource,
            namespace: &path.namespace,
            name: &path.name,
            path: None,
        };
        match self.authorizer.authorize(&attributes) {
            Decision::Allow => Ok(()),
            Decision::NoOpinion { reason } => {
                let resource = match path.subresource {
                    "" => path.resource.to_owned(),
                    subresource => format!("{}/{subresource}", path.resource),
                };
                let place = match &*path.namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let why = format!(
                    "User {:?} cannot {verb} resource {resource:?} in API group {:?} {place}{}",
                    user.name,
                    path.group,
                    because(&reason)
                );
                Err(ApiError::forbidden(GroupResource { group: path.group, resource: path.resource }, &path.name, why))
            }
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// The verb access rules and metrics know the request by.
fn verb(parts: &Parts, path: &ResourcePath<'_>) -> &'static str {
    let collection = path.name.is_empty();
    match parts.method {
        Method::GET | Method::HEAD => {
            let watched = || {
                let query = Query::parse(parts.uri.query());
                path.watch || query.all("watch").next().is_some_and(|value| value != "false" && value != "0")
            };
            // a subresource such as a log may have parameters of its own; only objects are watched
            if path.subresource.is_empty() && (collection || path.watch || parts.uri.query().is_some()) && watched() {
                "watch"
            } else if collection {
                "list"
            } else {
                "get"
            }
        }
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "connect",
    }
}

/// A namespaced object has a namespace in its path, others have none.
fn check_scope(served: &Served, path: &ResourcePath<'_>) -> Result<(), ApiError> {
    let named = !path.name.is_empty();
    let namespaced = served.resource.namespaced;
    // `namespaces` itself carries its name where others carry their namespace
    if (namespaced && named && path.namespace.is_empty()) || (!namespaced && !path.namespace.is_empty()) {
        return Err(ApiError::no_such_resource());
    }
    Ok(())
}
