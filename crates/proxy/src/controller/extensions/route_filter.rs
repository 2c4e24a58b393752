//! Envoy Gateway's HTTPRouteFilter.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use kinds::envoy_gateway::{
    CredentialInjection, DirectResponse, FilterMatch, HTTPRouteFilter, HostnameRewrite, PathRewrite, RegexSubstitution,
    UrlRewrite,
};
use reconcile::Key;

use crate::{
    controller::{
        bodies,
        filters::{Filtered, edits, header_name, header_value, join, unsupported},
        http::value_match,
        lookup::{Referrer, Seen, is, namespace},
        verdict::Fault,
    },
    routing::{Credential, Direct, HostChange, PathChange, Rewrite, Substitution, ValueMatch},
};

/// What the body of an answer is unless the filter says otherwise.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// Where the Secret has the credential.
const CREDENTIAL: &str = "credential";

pub(super) fn compile(seen: &Seen<'_>, filter: &HTTPRouteFilter, into: &mut Filtered) -> Result<(), Fault> {
    let spec = &filter.spec;
    if !spec.matches.is_empty() {
        if !into.cookies.is_empty() {
            return Err(unsupported("only one HTTPRouteFilter with matches is supported per HTTPRouteRule"));
        }
        into.cookies = spec.matches.iter().map(cookies).collect::<Result<_, _>>()?;
    }
    if let Some(from) = &spec.url_rewrite {
        join(&mut into.rewrite, rewrite(from)?)?;
    }
    let own = namespace(&filter.metadata);
    if let Some(from) = &spec.direct_response {
        into.filters.direct = Some(Arc::new(direct(seen, own, from)?));
    }
    if let Some(from) = &spec.credential_injection {
        into.filters.credential = Some(credential(seen, own, from)?);
    }
    Ok(())
}

fn cookies(from: &FilterMatch) -> Result<Vec<(Box<str>, ValueMatch)>, Fault> {
    from.cookies.iter().map(|cookie| Ok((cookie.name.as_str().into(), value_match(cookie)?))).collect()
}

fn rewrite(from: &UrlRewrite) -> Result<Rewrite, Fault> {
    Ok(Rewrite {
        host: from.hostname.as_ref().map(host).transpose()?,
        path: from.path.as_ref().map(path).transpose()?,
        conceals: from.append_x_forwarded_host == Some(false),
    })
}

fn host(from: &HostnameRewrite) -> Result<HostChange, Fault> {
    match (&*from.type_, &from.header, &from.path_regex) {
        ("Header", Some(name), _) => Ok(HostChange::Header(header_name(name)?)),
        ("Header", None, _) => Err(unsupported("Header must be set when rewrite path type is \"Header\"")),
        ("Backend", ..) => Ok(HostChange::Backend),
        ("PathRegex", _, Some(from)) => Ok(HostChange::Path(substitution(from)?)),
        (other, ..) => Err(unsupported(format!("urlRewrite.hostname of type {other:?} is not known"))),
    }
}

fn path(from: &PathRewrite) -> Result<PathChange, Fault> {
    match (&*from.type_, &from.replace_regex_match) {
        ("ReplaceRegexMatch", Some(from)) if !from.pattern.is_empty() => Ok(PathChange::Replaced(substitution(from)?)),
        ("ReplaceRegexMatch", _) => {
            Err(unsupported("ReplaceRegexMatch Pattern must be set when rewrite path type is \"ReplaceRegexMatch\""))
        }
        (other, _) => Err(unsupported(format!("urlRewrite.path of type {other:?} is not known"))),
    }
}

fn substitution(from: &RegexSubstitution) -> Result<Substitution, Fault> {
    Substitution::new(&from.pattern, &from.substitution)
        .map_err(|error| unsupported(format!("{:?} by {:?}: {error}", from.pattern, from.substitution)))
}

fn direct(seen: &Seen<'_>, own: &str, from: &DirectResponse) -> Result<Direct, Fault> {
    let code = from.status_code.unwrap_or(200);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    // An answer of 1xx would not be one.
    let status = status.filter(|status| !status.is_informational());
    let kind = from.content_type.as_deref().map_or(Ok(TEXT), header_value)?;
    let body = from.body.as_ref().map(|body| bodies::custom(seen, own, body)).transpose()?;
    Ok(Direct {
        status: status.ok_or_else(|| unsupported(format!("directResponse.statusCode: {code} is no status")))?,
        body: body.map(|body| (body, kind)),
        edits: edits(from.header.as_ref())?,
    })
}

fn credential(seen: &Seen<'_>, own: &str, from: &CredentialInjection) -> Result<Credential, Fault> {
    let reference = &from.credential.value_ref;
    if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Secret")) {
        return Err(unsupported("credential.valueRef: only a Secret can hold a credential"));
    }
    let key = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
    let referrer = Referrer { group: kinds::envoy_gateway::GROUP, kind: "HTTPRouteFilter", namespace: own };
    seen.permit(referrer, "Secret", &key).map_err(|fault| unsupported(fault.message))?;
    let secret = seen.secret(&key).ok_or_else(|| unsupported(format!("secret {key} does not exist")))?;
    let value = secret.data.as_ref().and_then(|data| data.get(CREDENTIAL)).map(|value| value.0.trim_ascii());
    let value = value.filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| unsupported(format!("credential key {CREDENTIAL} not found in secret {key}")))?;
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| unsupported(format!("credential key {CREDENTIAL} in secret {key} is no header value")))?;
    value.set_sensitive(true);
    Ok(Credential {
        header: from.header.as_deref().map_or(Ok(AUTHORIZATION), header_name)?,
        value,
        overwrite: from.overwrite.unwrap_or(false),
    })
}
