//! From the rules of an Ingress to rules of the table.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend, IngressRule};
use regex::Regex;

use super::{
    Context,
    annotations::Report,
    backends::{self, Port},
    canaries, owner,
    settings::Settings,
    traffic,
    values::{self, header_name, header_value},
};
use crate::{
    controller::lookup::{key_of, rank},
    routing::{
        Action, Captures, Cors, Filters, HeaderEdits, HostChange, PathChange, PathMatch, Rank, Redirect, RequestMatch,
        Rewrite, Rule, Share, Target, Template, ValueMatch,
    },
};

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What pages of other origins may, unless annotations say otherwise: ingress-nginx's defaults.
pub(super) const CORS_METHODS: [&str; 6] = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];
pub(super) const CORS_HEADERS: [&str; 9] = [
    "DNT",
    "Keep-Alive",
    "User-Agent",
    "X-Requested-With",
    "If-Modified-Since",
    "Cache-Control",
    "Content-Type",
    "Range",
    "Authorization",
];
pub(super) const CORS_MAX_AGE: u32 = 1_728_000;

/// A rule and the requests that it takes.
pub(super) struct Compiled {
    pub(super) host: Option<String>,
    pub(super) condition: RequestMatch,
    pub(super) rank: Rank,
    pub(super) rule: Arc<Rule>,
}

/// The rules of an Ingress.
pub(super) fn compile(context: &Context<'_>) -> Vec<Compiled> {
    let Some(spec) = &context.ingress.spec else { return Vec::new() };
    let rank = rank(&context.ingress.metadata);
    // After everything that others have for the same host and path.
    let last = Rank { created: i64::MAX, order: (usize::MAX, 0), ..rank.clone() };
    let mut compiled = Vec::new();
    let rules: Vec<_> = spec.rules.iter().flatten().collect();
    for (order, rule) in rules.iter().enumerate() {
        let host = host(rule);
        if let (Some(root), true) = (&context.settings.paths.app_root, rule.http.is_some()) {
            compiled.push(app_root(context, host.clone(), root, rank.clone()));
        }
        // One is for what leads to the root of an application, which comes first.
        compiled.extend(paths(context, rule, host, &Rank { order: (order + 1, 0), ..rank.clone() }));
    }
    let hosts: Vec<_> = rules.iter().filter_map(|rule| host(rule)).collect();
    if let Some(rule) = rules.first() {
        for alias in context.settings.aliases.iter().filter(|alias| !hosts.contains(alias)) {
            compiled.extend(paths(context, rule, Some(alias.clone()), &last));
        }
    }
    if context.settings.redirects.www {
        compiled.extend(hosts.iter().filter_map(|host| www(context, host, &hosts, last.clone())));
    }
    if let Some(backend) = &spec.default_backend {
        let rule = Arc::new(rule(context, backend, None));
        compiled.push(Compiled { host: None, condition: RequestMatch::prefix("/"), rank: last, rule });
    }
    compiled
}

pub(super) fn host(rule: &IngressRule) -> Option<String> {
    rule.host.as_ref().map(|host| host.to_ascii_lowercase()).filter(|host| !host.is_empty())
}

fn paths(context: &Context<'_>, rule: &IngressRule, host: Option<String>, rank: &Rank) -> Vec<Compiled> {
    let host_labels = host.as_ref().filter(|h| h.starts_with("*.")).map(|h| h.split('.').count());
    let mut compiled = Vec::new();
    for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
        let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let (condition, pattern) = match path_match(context, path, text) {
            Ok(matched) => matched,
            Err(error) => {
                context.report(Report::new("InvalidPath", format!("path {text:?} is no regular expression: {error}")));
                continue;
            }
        };
        let condition = RequestMatch { host_labels, path: condition, ..RequestMatch::prefix("/") };
        let rank = Rank { order: (rank.order.0, index), ..rank.clone() };
        let mut push = |condition: RequestMatch, rule: Rule| {
            compiled.push(Compiled { host: host.clone(), condition, rank: rank.clone(), rule: Arc::new(rule) });
        };
        let at = At {
            text: Some(text).filter(|_| !matches!(condition.path, PathMatch::Location { .. })),
            pattern: &pattern,
        };
        let main = self::rule(context, &path.backend, Some(at));
        for taker in canaries::of(context, rule.host.as_deref(), path) {
            let rule = self::rule(context, &taker.backend, Some(at));
            let canary = Some(canaries::of_session(taker, &main, &rule));
            push(RequestMatch { canary, ..condition.clone() }, rule);
        }
        push(condition, main);
    }
    compiled
}

/// The condition on a path, and the pattern that catches parts of it for a rewrite. Where paths are regular expressions
/// those without special characters still are what their type says.
fn path_match(context: &Context<'_>, path: &HTTPIngressPath, text: &str) -> Result<(PathMatch, Regex), regex::Error> {
    let settings = &context.settings.paths;
    let special = text.bytes().any(|b| b"^$*+?()[]{}|\\".contains(&b));
    if special && (settings.regex || settings.rewrite.is_some()) {
        let condition = PathMatch::location(text)?;
        return Ok((condition, Regex::new(&format!("(?i)^(?:{text})"))?));
    }
    let condition = match path.path_type.as_str() {
        "Exact" => PathMatch::Exact(text.into()),
        // What the implementation makes of the third type is its own choice: a prefix.
        _ => PathMatch::prefix(text),
    };
    Ok((condition, Regex::new(&format!("^{}", regex::escape(text)))?))
}

/// A path that is matched.
#[derive(Clone, Copy)]
struct At<'a> {
    /// As it was written, unless it is a pattern.
    text: Option<&'a str>,
    /// Catches parts of it.
    pattern: &'a Regex,
}

/// A rule for a backend. A canary's differs in the backend only.
fn rule(context: &Context<'_>, backend: &IngressBackend, at: Option<At<'_>>) -> Rule {
    let settings = &context.settings;
    let port = backends::port(context, backend);
    let mut redirects = false;
    let action = if settings.closed {
        Action::Fail(StatusCode::SERVICE_UNAVAILABLE)
    } else if let Some((status, to)) = redirect(settings) {
        // As in nginx, which sends clients elsewhere before it asks who they are.
        redirects = true;
        Action::Redirect { status, to }
    } else {
        let target = port.as_ref().map_or(Target::Invalid, |port| backends::target(context, port));
        Action::Forward(vec![Share { weight: 1, target, filters: Filters::default() }])
    };
    Rule {
        filters: filters(context, port.as_ref(), at.map(|at| at.pattern)),
        traffic: Some(Arc::clone(&context.traffic)),
        session: traffic::session(context, at.and_then(|at| at.text)),
        pages: backends::pages(context, port.as_ref()),
        guards: context.guards.clone().filter(|_| !redirects),
        ..Rule::new(owner(&key_of(&context.ingress.metadata)), action)
    }
}

fn redirect(settings: &Settings) -> Option<(StatusCode, Template)> {
    let redirects = &settings.redirects;
    let temporal = redirects.temporal.clone().map(|to| (redirects.temporal_status.unwrap_or(StatusCode::FOUND), to));
    temporal.or_else(|| {
        let status = redirects.permanent_status.unwrap_or(StatusCode::MOVED_PERMANENTLY);
        Some((status, redirects.permanent.clone()?))
    })
}

fn filters(context: &Context<'_>, port: Option<&Port>, pattern: Option<&Regex>) -> Filters {
    let settings = &context.settings;
    let path = settings.paths.rewrite.as_deref().zip(pattern);
    let path = path.map(|(target, pattern)| PathChange::Captures(Captures::new(pattern.clone(), target)));
    let host = settings.upstream.host.as_deref().and_then(|host| upstream_host(context, host, port));
    let rewrite = (path.is_some() || host.is_some()).then_some(Rewrite {
        host: host.map(HostChange::Fixed),
        path,
        conceals: false,
    });
    let prefix = settings.forwarded_prefix.clone().map(|prefix| (X_FORWARDED_PREFIX, prefix));
    Filters {
        request: HeaderEdits { set: prefix.into_iter().collect(), ..HeaderEdits::default() },
        response: HeaderEdits { set: response_headers(context), ..HeaderEdits::default() },
        rewrite,
        redirect: None,
        // Guards say it where there are some.
        cors: if context.guards.is_some() { None } else { cors(settings) },
        mirrors: backends::mirror(context).into_iter().collect(),
        ..Filters::default()
    }
}

/// The host that backends are told.
fn upstream_host(context: &Context<'_>, text: &str, port: Option<&Port>) -> Option<HeaderValue> {
    let known = |name: &str| match name {
        "namespace" => Some(context.namespace().to_owned()),
        "service_name" => Some(port?.service.name.clone()),
        "service_port" => Some(port?.number.to_string()),
        _ => None,
    };
    let fixed = Template::parse(text, &known).ok().and_then(|host| host.fixed().map(str::to_owned));
    let read = match fixed {
        Some(host) => header_value(&host),
        // What happens anyway.
        None if text == "$host" || text == "$http_host" => return None,
        None => Err(values::unserved("only $namespace, $service_name and $service_port can stand in it")),
    };
    read.map_err(|refusal| context.report(Report::refused("upstream-vhost", refusal))).ok()
}

/// The headers of answers that a ConfigMap lists.
fn response_headers(context: &Context<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(name) = &context.settings.response_headers else { return Vec::new() };
    let key = context.beside(name);
    let Some(map) = context.seen.config_map(&key) else {
        context.report(Report::refused("custom-headers", values::invalid(format!("ConfigMap {key} not found"))));
        return Vec::new();
    };
    let mut headers = HeaderMap::new();
    for (name, value) in map.data.iter().flatten() {
        match header_name(name).and_then(|name| Ok((name, header_value(value)?))) {
            Ok((name, value)) => drop(headers.insert(name, value)),
            Err(refusal) => context.report(Report::refused("custom-headers", refusal)),
        }
    }
    headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect()
}

pub(super) fn cors(settings: &Settings) -> Option<Arc<Cors>> {
    let from = Some(&settings.cors).filter(|cors| cors.enabled)?;
    let or = |given: &Option<Vec<String>>, default: &[&str]| {
        given.clone().unwrap_or_else(|| default.iter().map(|name| (*name).to_owned()).collect())
    };
    let (methods, headers) = (or(&from.methods, &CORS_METHODS), or(&from.headers, &CORS_HEADERS));
    let cors = Cors::new(&or(&from.origins, &["*"]), &methods, &headers, &from.expose);
    let cors = cors.with_credentials(from.credentials.unwrap_or(true));
    Some(Arc::new(cors.with_max_age(from.max_age.unwrap_or(CORS_MAX_AGE))))
}

/// A rule that answers with a redirect of which only this differs from the request.
fn redirecting(context: &Context<'_>, redirect: Redirect) -> Arc<Rule> {
    let anyway = redirect.status;
    let status = context.settings.redirects.status.filter(|_| anyway == SAME.status).unwrap_or(anyway);
    let redirect = Redirect { status, ..redirect };
    let filters = Filters { redirect: Some(redirect), ..Filters::default() };
    let owner = owner(&key_of(&context.ingress.metadata));
    Arc::new(Rule { filters, ..Rule::new(owner, Action::Forward(Vec::new())) })
}

const SAME: Redirect =
    Redirect { status: StatusCode::PERMANENT_REDIRECT, scheme: None, host: None, port: None, path: None };

/// Sends clear requests to HTTPS.
pub(super) fn to_secure(context: &Context<'_>) -> Arc<Rule> {
    redirecting(context, Redirect { scheme: Some("https".into()), ..SAME })
}

/// Requests that came over TLS to whoever sent them here.
pub(super) fn secured_before(condition: RequestMatch) -> RequestMatch {
    let header = (X_FORWARDED_PROTO, ValueMatch::Exact("https".into()));
    RequestMatch { headers: [condition.headers, vec![header]].concat(), ..condition }
}

/// The redirect of the root to where the application is.
fn app_root(context: &Context<'_>, host: Option<String>, root: &str, rank: Rank) -> Compiled {
    let path = Some(PathChange::Full(root.into()));
    let rule = redirecting(context, Redirect { status: StatusCode::FOUND, path, ..SAME });
    let condition = RequestMatch { path: PathMatch::Exact("/".into()), ..RequestMatch::prefix("/") };
    Compiled { host, condition, rank, rule }
}

/// The redirect from the name with `www.` to the one without, or the other way round.
fn www(context: &Context<'_>, host: &str, hosts: &[String], rank: Rank) -> Option<Compiled> {
    if host.starts_with("*.") {
        return None;
    }
    let other = host.strip_prefix("www.").map_or_else(|| format!("www.{host}"), str::to_owned);
    if hosts.contains(&other) {
        return None;
    }
    let rule = redirecting(context, Redirect { host: Some(host.into()), ..SAME });
    Some(Compiled { host: Some(other), condition: RequestMatch::prefix("/"), rank, rule })
}
