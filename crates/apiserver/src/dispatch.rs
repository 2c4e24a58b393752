//! The life of a request: who asks, for what, may they, and which handler answers.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use jiff::Timestamp;
use schema::selector::FieldSelector;
use strategy::User;

use crate::{
    aggregation,
    audit::{Arrival, Trail},
    authentication,
    authorization::{Attributes, Decision},
    backup,
    body::Body,
    discovery,
    flow::{Admitted, Gate},
    handlers,
    health::{self, Probe},
    impersonation,
    metrics::{Counted, Ending, Identified, Scope},
    negotiation::{self, Accepted, Offer},
    options::{self, Query},
    passage::{Passage, Span},
    path::{self, ResourcePath, Route},
    resources::Served,
    server::{ApiServer, Caller},
    status::{ApiError, GroupResource},
    warnings::Warnings,
};

/// How long a request may take that is not a watch or a connection; upstream's limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest a change may take: the webhooks that see it have as long together, and who waits longer has given up.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(34);

/// What begins the content type of server-side apply.
const APPLY: &str = "application/apply-patch+";

/// Where priority and fairness shows what it is doing.
const FLOW_DUMPS: &str = "/debug/api_priority_and_fairness/";

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
    warnings: Arc<Warnings>,
    /// What the audit is told about it.
    pub(crate) trail: Trail,
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
            warnings: self.warnings.clone(),
            trail: self.trail.clone(),
        }
    }

    /// Whether who may change objects may create one too, as a change of what does not exist does.
    pub(crate) fn may_create(&self) -> Result<(), ApiError> {
        let resource = &self.served.resource;
        let attributes = Attributes {
            user: &self.user,
            verb: "create",
            group: &resource.group,
            resource: &resource.plural,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: None,
        };
        self.server.authorize(&attributes, "", &self.trail)
    }

    /// Warns the client.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        for warning in warnings {
            self.warnings.add(warning);
        }
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
    /// Finds out who asks for what, whether they may, and has it answered.
    pub(crate) async fn route(
        self: Arc<Self>,
        parts: Parts,
        body: Body,
        caller: Caller,
        passage: &mut Passage,
    ) -> Result<Response<Body>, ApiError> {
        let started = Instant::now();
        // the parsed path borrows from a copy of the address, so that the parts may move into the call
        let uri = parts.uri.clone();
        let route = path::parse(uri.path());
        if let Route::Other(path) = route
            && let Some(answer) = self.open_to_all(path, &parts, &caller)
        {
            return Ok(answer);
        }
        let verb = match &route {
            Route::Resource(path) => Cow::Borrowed(verb(&parts, path)),
            _ => Cow::Owned(parts.method.as_str().to_ascii_lowercase()),
        };
        if let Some(oidc) = &self.authenticator.oidc
            && caller.user.is_none()
            && let Some(token) = authentication::bearer(&parts.headers)
        {
            oidc.prepare(&token, &self.outbound).await;
        }
        let mut note = None;
        let authenticated = self.authenticate(&parts.headers, &caller, passage.received, &mut note);
        let user = authenticated.as_ref().ok().and_then(Option::as_ref);
        let who = match &authenticated {
            Ok(Some(user)) => Identified::User(&user.name),
            Ok(None) => Identified::Nobody,
            Err(_) => Identified::Refused,
        };
        self.metrics.access.identified(who, started.elapsed());
        self.begin_trail(passage, &parts, &caller, &route, verb.clone(), user).await;
        if let Some((key, value)) = note {
            passage.trail.annotate(key, value);
        }
        let user = match authenticated {
            Ok(Some(user)) => user,
            refused => {
                passage.stranger = true;
                return Err(refused.err().unwrap_or_else(ApiError::unauthorized));
            }
        };
        let user = match impersonation::requested(&parts.headers)? {
            Some(wanted) => {
                let wanted = Arc::new(impersonation::impersonate(&self.authorizer, &user, wanted)?);
                passage.trail.impersonates(&wanted);
                wanted
            }
            None => user,
        };
        let fields = field_selector(&parts);
        // who lists one object by its name asks for no more than who gets it
        let selected = selected_name(&fields);
        let mut attributes = attributes(&user, &verb, &route, uri.path());
        if attributes.name.is_empty() {
            attributes.name = &selected;
        }
        let counted = counted(&attributes, &parts);
        let seat = match self.gate(&caller, &attributes, &parts, passage) {
            Some(gate) => {
                Some(gate.pass().await.inspect_err(|error| self.ended_early(&attributes, &route, counted, error))?)
            }
            None => None,
        };
        self.authorize(&attributes, &fields, &passage.trail)?;
        if let Some(remote) = self.aggregation.find(&route) {
            let limit = deadline(&parts, passage.span)?;
            return Ok(aggregation::carry(&self, &remote, &user, (parts, body), &caller, limit).await);
        }
        let Counted { applies, dry_run, scope, .. } = counted;
        let Route::Resource(path) = route else { return self.non_resource(route, &parts) };
        let subresource = path.subresource;
        let limit = deadline(&parts, passage.span)?;
        let call = self.call(path, parts, caller, user.clone(), passage)?;
        let limit = limit.map(|limit| if changes(call.verb) { limit.min(CHANGE_TIMEOUT) } else { limit });
        let (served, verb, warnings) = (call.served.clone(), call.verb, call.warnings.clone());
        if let Some(warning) = served.deprecation() {
            warnings.add(warning);
            passage.trail.annotate("k8s.io/deprecated", "true");
            self.metrics.uses_deprecated(&served.resource, subresource);
        }
        let counted = Counted { verb, applies, dry_run, subresource, scope };
        let handling = self.metrics.handling(verb);
        let answering = handlers::answer(call, body);
        let answer = match limit {
            Some(limit) => tokio::time::timeout(limit, answering).await.unwrap_or_else(|_| {
                let error = ApiError::timeout(verb);
                self.metrics.ended_early(&served.resource, counted, error.code);
                Err(error)
            }),
            None => answering.await,
        };
        drop(handling);
        if verb == "list" {
            // the body of a list is made as the client takes it
            passage.seat = seat.filter(Admitted::is_limited);
        }
        if self.authenticator.last_used.any() {
            self.mark_used_secrets(Timestamp::now()).await;
        }
        let code = answer.as_ref().map_or_else(|error| error.code, |response| response.status().as_u16());
        let bytes = answer.as_ref().ok().and_then(|response| response.body().size_hint().exact());
        served.metrics.observe(counted, Ending { code, took: started.elapsed(), bytes });
        let mut answer = answer.unwrap_or_else(|error| {
            let response = passage.failure(&error);
            passage.error = Some(Box::new(error));
            response
        });
        warnings.write(answer.headers_mut());
        Ok(answer)
    }

    /// Asks priority and fairness about a request, unless it is a component's or a session of its own.
    fn gate(&self, caller: &Caller, attributes: &Attributes<'_>, parts: &Parts, passage: &mut Passage) -> Option<Gate> {
        let watches = attributes.verb == "watch";
        if caller.is_component || (passage.span == Span::Long && !watches) {
            return None;
        }
        let objects = || match attributes.verb {
            _ if !attributes.name.is_empty() => 1,
            "list" => self.objects_of(attributes, parts),
            "watch" if parts.uri.query().is_some_and(|query| query.contains("sendInitialEvents=true")) => {
                self.objects_of(attributes, parts)
            }
            _ => 1,
        };
        let gate = self.flow.enter(attributes, objects)?;
        passage.flow = Some(gate.schema());
        Some(gate)
    }

    /// How many objects a list goes over.
    fn objects_of(&self, attributes: &Attributes<'_>, parts: &Parts) -> u64 {
        let table = self.registry.table();
        let served = table.group(attributes.group).and_then(|group| {
            group
                .versions
                .iter()
                .find_map(|version| table.find(attributes.group, &version.version, attributes.resource))
        });
        let Some(served) = served else { return 1 };
        let prefix = if attributes.namespace.is_empty() { String::new() } else { format!("{}/", attributes.namespace) };
        let stored = self.snapshot().count(&served.collection, &prefix, None) as u64;
        let limit = Query::parse(parts.uri.query()).get("limit").and_then(|limit| limit.parse().ok());
        stored.min(limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX))
    }

    /// Notes that a request was turned away to protect the server.
    fn ended_early(&self, attributes: &Attributes<'_>, route: &Route<'_>, counted: Counted<'_>, error: &ApiError) {
        if let Route::Resource(path) = route
            && let Some(served) = self.registry.find(attributes.group, path.version, attributes.resource)
        {
            self.metrics.ended_early(&served.resource, counted, error.code);
        }
    }

    async fn begin_trail(
        &self,
        passage: &mut Passage,
        parts: &Parts,
        caller: &Caller,
        route: &Route<'_>,
        verb: Cow<'static, str>,
        user: Option<&Arc<User>>,
    ) {
        if let Route::Resource(path) = route
            && (verb == "watch" || handlers::is_connect(path.subresource))
        {
            passage.span = Span::Long;
        }
        let Some(auditor) = &self.auditor else { return };
        let nobody = User::default();
        let attributes = attributes(user.map_or(&nobody, |user| user), &verb, route, parts.uri.path());
        let arrival = Arrival {
            id: &passage.id,
            uri: &parts.uri,
            headers: &parts.headers,
            peer: caller.peer,
            verb: verb.clone(),
            user,
            received: passage.received,
        };
        passage.trail = auditor.begin(arrival, &attributes).await;
    }

    /// The user behind a request, `None` when it carries no credentials; and what the audit is told about them.
    fn authenticate(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        now: Timestamp,
        note: &mut Option<(&'static str, String)>,
    ) -> Result<Option<Arc<User>>, ApiError> {
        if caller.is_front_proxy
            && now.as_second() < caller.until
            && let Some(user) = self.authenticator.request_header.user(headers)
        {
            return Ok(Some(Arc::new(user)));
        }
        // a connection may outlive its certificate
        if let Some(user) = caller.user.as_ref().filter(|_| now.as_second() < caller.until) {
            self.metrics.access.certified(caller.until, now.as_second());
            return Ok(Some(user.clone()));
        }
        let Some(token) = authentication::bearer(headers) else { return Ok(None) };
        match self.authenticator.token(&token, &self.audiences, &self.snapshot(), now) {
            Ok(found) => {
                *note = found.note;
                Ok(Some(found.user))
            }
            Err(error) => {
                tracing::debug!(peer = ?caller.peer, %error, "a bearer token was refused");
                Err(ApiError::unauthorized())
            }
        }
    }

    /// What load balancers and kubelets ask without credentials; nothing here says more than "ok" and the version.
    fn open_to_all(&self, path: &str, parts: &Parts, caller: &Caller) -> Option<Response<Body>> {
        for (prefix, probe) in [("/livez", Probe::Live), ("/readyz", Probe::Ready), ("/healthz", Probe::Healthy)] {
            if let Some(rest) = path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                let query = Query::parse(parts.uri.query());
                let stopping = caller.draining.is_cancelled();
                return Some(self.health.answer(probe, rest.trim_matches('/'), &query, stopping));
            }
        }
        matches!(path, "/version" | "/version/").then(discovery::version)
    }

    fn non_resource(&self, route: Route<'_>, parts: &Parts) -> Result<Response<Body>, ApiError> {
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(ApiError::no_such_resource());
        }
        let table = self.registry.table();
        match route {
            Route::CoreVersions => discovery::core_versions(&table, &parts.headers),
            Route::Groups => discovery::groups(&table, &self.aggregation.remotes(), &parts.headers),
            Route::Group(name) => discovery::group(&table, &self.aggregation.remotes(), name, &parts.headers),
            Route::Resources { group, version } => discovery::resources(&table, group, version, &parts.headers),
            Route::Resource(_) => Err(ApiError::no_such_resource()),
            Route::Other("/backup") => Ok(backup::answer(self.store.clone())),
            Route::Other("/metrics/slis") => Ok(health::text(StatusCode::OK, self.health.metrics())),
            Route::Other("/metrics") => Ok(self.metrics_text()),
            Route::Other("/openid/v1/jwks") => Ok(discovery::key_set(self.authenticator.signer())),
            Route::Other("/.well-known/openid-configuration") => {
                Ok(discovery::openid_configuration(self.authenticator.signer()))
            }
            Route::Other(path) if path.starts_with(FLOW_DUMPS) => match self.flow.dump(&path[FLOW_DUMPS.len()..]) {
                Some(dump) => Ok(health::text(StatusCode::OK, dump)),
                None => Err(ApiError::no_such_resource()),
            },
            Route::Other("/") => Ok(discovery::paths(&table)),
            Route::Other(path) => self.documents.answer(&table, &self.aggregation, path, &parts.headers),
        }
    }

    /// Understands an authorised request for a resource.
    fn call(
        self: &Arc<Self>,
        path: ResourcePath<'_>,
        parts: Parts,
        caller: Caller,
        user: Arc<User>,
        passage: &Passage,
    ) -> Result<Call, ApiError> {
        let verb = verb(&parts, &path);
        let served = self.registry.find(path.group, path.version, path.resource);
        let served = served.ok_or_else(ApiError::no_such_resource)?;
        check_scope(&served, &path)?;
        let offer = Offer {
            tables: served.resource.verbs != ["create"],
            messages: !served.resource.schema.is_empty() || path.subresource == "scale",
            stream: verb == "watch",
        };
        let accepted = match negotiation::accepted(&parts.headers, offer) {
            // what connects to a node or a pod is not negotiated with this server
            Err(_) if verb == "connect" || handlers::is_connect(path.subresource) => Accepted::PLAIN,
            accepted => accepted?,
        };
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
            now: passage.received,
            warnings: Arc::default(),
            trail: passage.trail.clone(),
            served,
        })
    }

    fn authorize(&self, attributes: &Attributes<'_>, fields: &str, trail: &Trail) -> Result<(), ApiError> {
        let began = Instant::now();
        // told to the audit only
        let mut why = trail.is_kept().then(String::new);
        let decision = self.authorizer.decide(attributes, fields, &mut why);
        self.metrics.access.authorized(matches!(decision, Decision::Allow), began.elapsed());
        let reason = match decision {
            Decision::Allow => {
                if let Some(why) = why {
                    trail.annotate("authorization.k8s.io/decision", "allow");
                    trail.annotate("authorization.k8s.io/reason", why);
                }
                return Ok(());
            }
            Decision::NoOpinion { reason } => reason,
        };
        trail.annotate("authorization.k8s.io/decision", "forbid");
        trail.annotate("authorization.k8s.io/reason", reason.as_str());
        let Attributes { user, verb, group, namespace, name, .. } = *attributes;
        if let Some(path) = attributes.path {
            let why = format!("User {:?} cannot {verb} path {path:?}{}", user.name, because(&reason));
            return Err(ApiError::forbidden(GroupResource { group: "", resource: "" }, "", why));
        }
        let resource = match attributes.subresource {
            "" => attributes.resource.to_owned(),
            subresource => format!("{}/{subresource}", attributes.resource),
        };
        let place = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let why = format!(
            "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}{}",
            user.name,
            because(&reason)
        );
        Err(ApiError::forbidden(GroupResource { group, resource: attributes.resource }, name, why))
    }
}

/// What access rules and audit policies see of a request.
fn attributes<'a>(user: &'a User, verb: &'a str, route: &'a Route<'_>, path: &'a str) -> Attributes<'a> {
    let none =
        Attributes { user, verb, group: "", resource: "", subresource: "", namespace: "", name: "", path: Some(path) };
    match route {
        Route::Resource(asked) => Attributes {
            group: asked.group,
            resource: asked.resource,
            subresource: asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            path: None,
            ..none
        },
        _ => none,
    }
}

/// What the request is counted as.
fn counted<'a>(attributes: &Attributes<'a>, parts: &Parts) -> Counted<'a> {
    let Attributes { verb, subresource, name, namespace, .. } = *attributes;
    let applies = || text(&parts.headers, header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with(APPLY));
    Counted {
        verb,
        applies: verb == "patch" && applies(),
        dry_run: parts.uri.query().is_some_and(|query| query.contains("dryRun")),
        subresource,
        scope: Scope::of(verb, !name.is_empty(), !namespace.is_empty()),
    }
}

/// Whether a request changes objects.
fn changes(verb: &str) -> bool {
    matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection")
}

/// How long the answer may take: as long as the client says, and not longer than anybody may wait.
fn deadline(parts: &Parts, span: Span) -> Result<Option<Duration>, ApiError> {
    if span == Span::Long {
        return Ok(None);
    }
    // few requests name a limit, and looking for the word is cheaper than taking the query apart
    let named = parts.uri.query().filter(|query| query.contains("timeout"));
    let Some(query) = named else { return Ok(Some(REQUEST_TIMEOUT)) };
    let wanted = match Query::parse(Some(query)).get("timeout") {
        Some(text) => options::duration(text).map_err(|error| {
            ApiError::bad_request(format!("invalid timeout specified in the request URL - {error}"))
        })?,
        None => Duration::ZERO,
    };
    Ok(Some(if wanted.is_zero() { REQUEST_TIMEOUT } else { wanted.min(REQUEST_TIMEOUT) }))
}

/// The field selector of a request, empty for none.
fn field_selector(parts: &Parts) -> String {
    // few requests have one, and looking for the word is cheaper than taking the query apart
    match parts.uri.query().filter(|query| query.contains("fieldSelector")) {
        Some(query) => Query::parse(Some(query)).get("fieldSelector").unwrap_or_default().to_owned(),
        None => String::new(),
    }
}

/// The one name that a field selector lets through, empty when it lets through more.
fn selected_name(fields: &str) -> String {
    if fields.is_empty() {
        return String::new();
    }
    let selector = FieldSelector::parse(fields).unwrap_or_default();
    selector.requires_exact("metadata.name").unwrap_or_default().to_owned()
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
