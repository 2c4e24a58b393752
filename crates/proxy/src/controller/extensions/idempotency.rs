//! Our IdempotencyFilter.

use std::{sync::Arc, time::Duration};

use http::{Method, header::AUTHORIZATION};
use kinds::gateway_extensions::{IdempotencyFilter, RedisServer};
use reconcile::Key;
use resilience::idempotency::{Duplicate, IdempotencyConfig, Keeper, RedisUrl};
use rustls::RootCertStore;

use crate::{
    answers::{Answers, RedisPlace},
    controller::{
        declared, duration,
        filters::{Filtered, header_name, unsupported},
        item::RouteKind,
        lookup::{Route, Seen, key_of, namespace},
        policies::system_roots,
        verdict::Fault,
    },
    routing::Once,
    server::verification,
};

pub(super) fn compile(
    seen: &Seen<'_>,
    route: &Route,
    filter: &IdempotencyFilter,
    into: &mut Filtered,
) -> Result<(), Fault> {
    if route.kind() != RouteKind::Http {
        return Err(unsupported("only requests of an HTTPRoute can be done once: answers to calls have trailers"));
    }
    if into.filters.once.is_some() {
        return Err(unsupported("only one IdempotencyFilter is supported per HTTPRouteRule"));
    }
    let callers = match &*filter.spec.caller_headers {
        [] => vec![AUTHORIZATION],
        named => named.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    };
    let keeper =
        Keeper::new(config(filter)?, answers(seen, filter)?).map_err(|error| unsupported(error.to_string()))?;
    let owner = route.kind().owner(&key_of(route.meta()));
    into.filters.once = Some(Arc::new(Once { keeper, owner, callers }));
    Ok(())
}

fn config(filter: &IdempotencyFilter) -> Result<IdempotencyConfig, Fault> {
    let (spec, default) = (&filter.spec, IdempotencyConfig::default());
    let methods = spec.methods.iter().map(|name| {
        Method::from_bytes(name.as_bytes()).map_err(|_| unsupported(format!("method {name:?} is no HTTP method")))
    });
    let methods: Vec<_> = methods.collect::<Result<_, _>>()?;
    let time = |text: &Option<String>, or: Duration| Ok::<_, Fault>(duration::limit(text.as_deref())?.unwrap_or(or));
    let bytes = |bytes: Option<i64>, or: usize| match bytes.map(usize::try_from) {
        None => Ok(or),
        Some(bytes) => bytes.map_err(|_| unsupported("a number of bytes is negative")),
    };
    let concurrent = spec.concurrent.clone().unwrap_or_default();
    let duplicate = match (concurrent.type_.as_deref(), default.duplicate) {
        (Some("Conflict"), _) => Duplicate::Conflict,
        (_, Duplicate::Wait(patience)) => Duplicate::Wait(time(&concurrent.timeout, patience)?),
        (_, Duplicate::Conflict) => Duplicate::Conflict,
    };
    Ok(IdempotencyConfig {
        methods: if methods.is_empty() { default.methods } else { methods },
        required: spec.required.unwrap_or(default.required),
        duplicate,
        request_bytes_max: bytes(spec.max_request_bytes, default.request_bytes_max)?,
        answer_bytes_max: bytes(spec.max_response_bytes, default.answer_bytes_max)?,
        keep: time(&spec.keep_for, default.keep)?,
        lease: time(&spec.timeout, default.lease)?,
    })
}

fn answers(seen: &Seen<'_>, filter: &IdempotencyFilter) -> Result<Answers, Fault> {
    let store = filter.spec.store.clone().unwrap_or_default();
    match (store.type_.as_deref().unwrap_or("Embedded"), &store.redis) {
        ("Embedded", _) => Ok(seen.stores().embedded()),
        ("Redis", Some(server)) => redis(seen, namespace(&filter.metadata), server),
        ("Redis", None) => Err(unsupported("redis must be set with type Redis, and only then")),
        (other, _) => Err(unsupported(format!("store.type {other} is not known"))),
    }
}

fn redis(seen: &Seen<'_>, own: &str, server: &RedisServer) -> Result<Answers, Fault> {
    let url = RedisUrl::parse(&server.url).map_err(|error| unsupported(format!("store.redis.url: {error}")))?;
    let (mut user, mut password) = (url.user, url.password);
    if let Some(reference) = &server.credentials {
        let key = Key::new(own, &reference.name);
        let told = |what: &str| unsupported(format!("store.redis.credentials: Secret {key} {what}"));
        let secret = seen.secret(&key).ok_or_else(|| told("not found"))?;
        let entry = |name: &str| {
            let bytes = secret.data.as_ref()?.get(name)?;
            String::from_utf8(bytes.0.trim_ascii().to_vec()).ok().filter(|text| !text.is_empty())
        };
        password = Some(entry("password").ok_or_else(|| told("has no password"))?);
        user = entry("username");
    }
    let (mut roots, mut name) = (RootCertStore::empty(), String::new());
    for reference in &server.ca_certificate_refs {
        let key = Key::new(own, &reference.name);
        let found = seen.roots(&key);
        roots.extend(found.map_err(|error| unsupported(format!("ConfigMap {key}: {error}")))?.roots.iter().cloned());
        let map = seen.config_map(&key);
        let version = map.as_ref().and_then(|map| map.metadata.resource_version.as_deref()).unwrap_or_default();
        name += &format!("{key} {version} ");
    }
    let tls = url.tls.then(|| if name.is_empty() { system_roots() } else { roots });
    let tls = tls.map(|roots| verification(roots, Vec::new())).transpose();
    let tls = tls.map_err(|error| unsupported(format!("store.redis: {error}")))?;
    let place = RedisPlace {
        address: declared::service_address(seen, &url.host),
        host: url.host,
        port: url.port,
        database: url.database,
        user,
        password,
        prefix: server.key_prefix.clone(),
        roots: tls.is_some().then_some(name),
    };
    Ok(seen.stores().redis(place, tls))
}
