//! `jwt`: who issues tokens, and by which keys they are verified.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Uri, uri::PathAndQuery};
use identity::jwt::VerificationKey;
use kinds::envoy_gateway::{Jwt as Spec, JwtProvider, JwtSource, LocalJwks, RemoteJwks};
use reconcile::Key;

use super::{From, backends, header, invalid, known};
use crate::{
    controller::{duration, item::RouteKind, policies, verdict::Fault},
    routing::{Backend, Jwt, KeyServer, KeySource, Lenience, Provider, RemoteKeys, TokenPlace},
};

/// How long keys are good unless a policy says: Envoy Gateway's.
const LIFETIME: Duration = Duration::from_secs(300);

/// How long after a failure they are fetched again unless a policy says: Envoy's.
const PAUSE: Duration = Duration::from_secs(1);

/// The shortest of both: less would ask for each request.
const SHORTEST: Duration = Duration::from_millis(100);

/// The entry of a ConfigMap that is read.
const ENTRY: &str = "jwks";

pub(super) fn compile(from: &From<'_>, spec: &Spec) -> Result<Jwt, Fault> {
    known("spec.jwt.", &spec.unread)?;
    let mut providers: Vec<Provider> = Vec::new();
    for provider in &spec.providers {
        if providers.iter().any(|other| *other.name == *provider.name) {
            return Err(invalid(format!("provider name {} must be unique", provider.name)));
        }
        providers.push(compile_provider(from, provider)?);
    }
    let lenience = match (spec.fail_open, spec.optional) {
        (Some(true), _) => Lenience::Failed,
        (_, Some(true)) => Lenience::Missing,
        _ => Lenience::None,
    };
    Ok(Jwt { providers, lenience })
}

fn compile_provider(from: &From<'_>, provider: &JwtProvider) -> Result<Provider, Fault> {
    known("", &provider.unread)?;
    let name = &provider.name;
    let keys = match (&provider.remote_jwks, &provider.local_jwks) {
        (Some(remote), None) => KeySource::Remote(self::remote(from, remote)?),
        (None, Some(local)) => KeySource::Local(self::local(from, name, local)?),
        _ => {
            let message = format!("either remoteJWKS or localJWKS must be specified for jwt provider: {name}");
            return Err(invalid(message));
        }
    };
    let claims = provider.claim_to_headers.iter();
    let headers = claims.map(|claim| {
        let path = claim.claim.split('.').map(Into::into).collect();
        Ok((header("claimToHeaders", &claim.header)?, path))
    });
    Ok(Provider {
        name: name.as_str().into(),
        issuer: provider.issuer.as_deref().filter(|issuer| !issuer.is_empty()).map(Into::into),
        audiences: provider.audiences.iter().map(|audience| audience.as_str().into()).collect(),
        keys,
        places: provider.extract_from.as_ref().map_or_else(|| Ok(TokenPlace::usual()), places)?,
        headers: headers.collect::<Result<_, _>>()?,
        recompute: provider.recompute_route.unwrap_or(false),
    })
}

fn places(source: &JwtSource) -> Result<Vec<TokenPlace>, Fault> {
    let headers = source.headers.iter().map(|from| {
        let prefix = from.value_prefix.as_deref().unwrap_or("");
        Ok(TokenPlace::Header(header("extractFrom", &from.name)?, prefix.into()))
    });
    let parameters = source.params.iter().map(|name| Ok(TokenPlace::Parameter(name.as_str().into())));
    let cookies = source.cookies.iter().map(|name| Ok(TokenPlace::Cookie(name.as_str().into())));
    let places: Vec<_> = headers.chain(parameters).chain(cookies).collect::<Result<_, _>>()?;
    Ok(if places.is_empty() { TokenPlace::usual() } else { places })
}

fn local(from: &From<'_>, provider: &str, local: &LocalJwks) -> Result<Arc<[VerificationKey]>, Fault> {
    let text = match (local.type_.as_str(), &local.inline, &local.value_ref) {
        ("" | "Inline", Some(text), _) => text.clone(),
        ("ValueRef", _, Some(reference)) => {
            let key = Key::new(from.namespace, &reference.name);
            let map = from.seen.config_map(&key);
            let map = map.ok_or_else(|| invalid(format!("local JWKS ConfigMap {key} not found")))?;
            let data = map.data.as_ref();
            let entry = data.and_then(|data| data.get(ENTRY).or_else(|| data.values().next()));
            let missing =
                || invalid(format!("JWKS data not found in ConfigMap {key}, no {ENTRY:?} key and no other data found"));
            entry.ok_or_else(missing)?.clone()
        }
        ("ValueRef", ..) => {
            return Err(invalid(format!(
                "valueRef must be set for local JWKS provider: {provider} if type is ValueRef"
            )));
        }
        _ => {
            return Err(invalid(format!(
                "inline JWKS must be set for local JWKS provider: {provider} if type is Inline"
            )));
        }
    };
    let set =
        serde_json::from_str(&text).map_err(|error| invalid(format!("local JWKS of provider {provider}: {error}")))?;
    let keys = VerificationKey::from_jwks(&set);
    if keys.is_empty() {
        return Err(invalid(format!("local JWKS of provider {provider} has no key that could be used")));
    }
    Ok(keys.into())
}

fn remote(from: &From<'_>, remote: &RemoteJwks) -> Result<Arc<RemoteKeys>, Fault> {
    from.tell("spec.jwt.providers.remoteJWKS.", &remote.unread);
    let wrong = |what: &str| invalid(format!("invalid remote JWKS URI {:?}: {what}", remote.uri));
    let uri: Uri = remote.uri.parse().map_err(|_| wrong("it is none"))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("its scheme is neither http nor https")),
    };
    let authority = uri.authority().map(|authority| HeaderValue::try_from(authority.as_str()));
    let authority = authority.and_then(Result::ok).ok_or_else(|| wrong("it has no host"))?;
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let references = (&*remote.backend_refs, remote.backend_ref.as_ref());
    let shares = backends::shares(from, RouteKind::Http, references)?;
    let time = |field: &str, text: Option<&str>, usual| {
        let limit = duration::limit(text).map_err(|fault| invalid(format!("{field}: {}", fault.message)))?;
        Ok::<_, Fault>(limit.map_or(usual, |limit| limit.max(SHORTEST)))
    };
    let times = (
        time("cacheDuration", remote.cache_duration.as_deref(), LIFETIME)?,
        time("failedRefetchDuration", remote.failed_refetch_duration.as_deref(), PAUSE)?,
    );
    let server = match shares.is_empty() {
        false => KeyServer::Shares(shares),
        true => host(&uri, tls, &wrong)?,
    };
    // What is asked of whom, and how often: another policy that wants the same shares it.
    let place = format!("{} {references:?} {} {times:?}", remote.uri, from.namespace);
    Ok(from.seen.keys(&place, &|| RemoteKeys::new(server.clone(), (authority.clone(), target.clone()), times)))
}

/// Whoever the URI names.
fn host(uri: &Uri, tls: bool, wrong: &dyn Fn(&str) -> Fault) -> Result<KeyServer, Fault> {
    let name = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
    let name = name.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let backend = Backend::new(format!("{name}:{port}"));
    if tls {
        backend.set_wire(policies::trusting(name)?);
    }
    Ok(KeyServer::Host { name: name.into(), port, backend })
}
