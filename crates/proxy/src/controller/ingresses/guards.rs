//! What requests have to pass by annotations: where they come from, and who sends them.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use k8s_openapi::api::core::v1::Secret;

use super::{
    Context,
    annotations::Report,
    backends::elsewhere,
    rules::cors,
    settings::{Access, Basic},
    values::{Url, header_name, invalid, unserved},
};
use crate::routing::{
    AuthProtocol, AuthTarget, Authorization, AuthorizationRule, BasicAuth, External, Failure, Guard, Guards, HttpAuth,
    Passwords, Permission, Reading, Share, Template,
};

/// The key of a Secret that holds a file of passwords.
const FILE: &str = "auth";

/// How long a service that is asked may take: as long as a backend, unless annotations say otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What requests have to pass; `None` where anybody may come.
///
/// # Errors
/// When it cannot be asked: then nobody may.
pub(super) fn guards(context: &Context<'_>) -> Result<Option<Arc<Guards>>, Report> {
    let access = &context.settings.access;
    let mut steps: Vec<Guard> = sources(access).into_iter().collect();
    if access.basic.wanted {
        steps.push(Guard::Basic(Arc::new(basic(context, &access.basic)?)));
    }
    if let Some(url) = &access.external.url {
        if access.any && !steps.is_empty() {
            return Err(Report::refused("satisfy", unserved("who is asked at auth-url is asked in any case")));
        }
        steps.push(Guard::External(Arc::new(external(context, url)?)));
    }
    if steps.is_empty() {
        return Ok(None);
    }
    if access.any && access.external.url.is_none() {
        steps = vec![Guard::Any(steps.into())];
    }
    // Asked before the steps: browsers send no credentials with the question whether they may.
    Ok(Some(Arc::new(Guards { cors: cors(&context.settings), steps })))
}

/// Where requests may come from: not from what is denied, and where something is allowed only from there.
fn sources(access: &Access) -> Option<Guard> {
    let rule = |permission, networks: &[_]| {
        (!networks.is_empty()).then(|| AuthorizationRule {
            permission,
            networks: networks.to_vec(),
            ..Default::default()
        })
    };
    let (deny, allow) = (rule(Permission::Deny, &access.deny), rule(Permission::Allow, &access.allow));
    let default = if allow.is_some() { Permission::Deny } else { Permission::Allow };
    let rules: Vec<_> = deny.into_iter().chain(allow).collect();
    (!rules.is_empty()).then(|| Guard::Authorization(Arc::new(Authorization { rules, default })))
}

fn basic(context: &Context<'_>, basic: &Basic) -> Result<BasicAuth, Report> {
    let wrong = |why: String| Report::new("InvalidSecret", why);
    let Some(name) = &basic.secret else {
        return Err(wrong("auth-type basic: auth-secret does not name who may come".to_owned()));
    };
    let key = context.beside(name);
    let secret = context.seen.secret(&key).ok_or_else(|| wrong(format!("auth-secret {key}: not found")))?;
    let file = if basic.by_user { users(&secret) } else { file(&secret) };
    let passwords = file.and_then(|file| Passwords::parse(&file).map_err(|error| error.to_string()));
    let passwords = passwords.map_err(|why| wrong(format!("auth-secret {key}: {why}")))?;
    Ok(BasicAuth::new(Arc::new(passwords)).in_realm(basic.realm.as_deref().unwrap_or("")))
}

/// A service that is asked as nginx asks: with every header of the request, and without its body.
fn external(context: &Context<'_>, url: &Url) -> Result<External, Report> {
    let settings = &context.settings.access.external;
    let refused = |refusal| Report::refused("auth-url", refusal);
    let backend = elsewhere(context, url).map_err(refused)?;
    let target = if url.target.is_empty() { "/" } else { &url.target };
    let text = |text: &str| Template::parse(text, &|_| None);
    let target = text(target).map_err(|error| refused(invalid(error.to_string())))?;
    let default_port = if url.tls { 443 } else { 80 };
    let host = if url.port == default_port { url.host.clone() } else { format!("{}:{}", url.host, url.port) };
    let host = HeaderValue::try_from(host).map_err(|error| refused(invalid(error.to_string())))?;
    let mut sets = Vec::new();
    let told = [
        ("x-original-url", "$scheme://$http_host$request_uri"),
        ("x-original-method", "$request_method"),
        ("x-sent-from", "nginx-ingress-controller"),
        ("x-real-ip", "$remote_addr"),
        ("x-forwarded-for", "$remote_addr"),
    ];
    for (name, value) in told {
        sets.extend(text(value).ok().map(|value| (HeaderName::from_static(name), value)));
    }
    let come_back = settings.come_back.clone().or_else(|| text("$request_uri").ok());
    sets.extend(come_back.map(|value| (HeaderName::from_static("x-auth-request-redirect"), value)));
    sets.extend(headers(context, settings.headers.as_deref()));
    let sign_in = settings.sign_in.as_deref().map(|to| sign_in(to, settings.sign_in_parameter.as_deref()));
    let sign_in = sign_in.map(|to| text(&to)).transpose();
    let protocol = AuthProtocol::Http(HttpAuth {
        method: Some(settings.method.clone().unwrap_or(Method::GET)),
        target: AuthTarget::At(target),
        host: Some(host),
        sets,
        all_headers: true,
        to_backend: settings.to_backend.clone(),
        reading: Reading::Nginx { sign_in: sign_in.map_err(|error| refused(invalid(error.to_string())))? },
    });
    let failure = Failure::Refuse(StatusCode::INTERNAL_SERVER_ERROR);
    let shares = vec![Share::new(backend, 1)];
    Ok(External { shares, protocol, headers: None, body_max: None, timeout: TIMEOUT, failure, recompute: false })
}

/// Where those go to say who they are, and what it is told about where they come from.
fn sign_in(to: &str, parameter: Option<&str>) -> String {
    let parameter = parameter.unwrap_or("rd");
    let query = to.split_once('?').map(|(_, query)| query);
    let told =
        |query: &str| query.split('&').any(|pair| pair.split_once('=').is_some_and(|(name, _)| name == parameter));
    match query {
        Some(query) if told(query) => to.to_owned(),
        Some(_) => format!("{to}&{parameter}=$scheme://$http_host$escaped_request_uri"),
        None => format!("{to}?{parameter}=$scheme://$http_host$escaped_request_uri"),
    }
}

/// The headers in a ConfigMap, with parts of the request in their values.
fn headers(context: &Context<'_>, name: Option<&str>) -> Vec<(HeaderName, Template)> {
    let Some(key) = name.map(|name| context.beside(name)) else { return Vec::new() };
    let refused = |refusal| context.report(Report::refused("auth-proxy-set-headers", refusal));
    let Some(map) = context.seen.config_map(&key) else {
        refused(invalid(format!("ConfigMap {key} not found")));
        return Vec::new();
    };
    let read = map.data.iter().flatten().filter_map(|(name, value)| {
        let template = Template::parse(value, &|_| None).map_err(|error| invalid(format!("{value:?}: {error}")));
        let both = header_name(name).and_then(|name| Ok((name, template?)));
        both.map_err(refused).ok()
    });
    read.collect()
}

/// A file of names and passwords.
fn file(secret: &Secret) -> Result<String, String> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(FILE));
    text(&bytes.ok_or_else(|| format!("has no {FILE}"))?.0)
}

/// Names as keys and passwords as their values.
fn users(secret: &Secret) -> Result<String, String> {
    let mut file = String::new();
    for (name, password) in secret.data.iter().flatten() {
        let _ = writeln!(file, "{name}:{}", text(&password.0)?.trim());
    }
    Ok(file)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "is no text".to_owned())
}
