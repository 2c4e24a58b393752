//! SecurityPolicies: what requests have to pass.
//!
//! Each kind of step is compiled by a file of its own, and they are put in the order of Envoy Gateway's filters. A policy of
//! which anything cannot be followed lets nothing pass: who asks for something to be checked is not served without it.

use std::{cell::RefCell, sync::Arc};

use http::{HeaderName, StatusCode};
use k8s_openapi::api::core::v1::Secret;
use kinds::{
    envoy_gateway::{self, PolicyTargets, SecurityCors, SecurityPolicy, SecurityPolicySpec, Unread},
    gateway::{PolicyStatus, Reference},
};
use reconcile::Key;

use super::{Effect, Policy, TargetKind};
use crate::{
    controller::{
        duration,
        item::RouteKind,
        lookup::{Referrer, Seen, is, namespace},
        verdict::Fault,
    },
    routing::{Cors, Guard, Guards},
};

mod api_key;
mod authorization;
mod backends;
mod basic;
mod external;
mod jwt;
mod origins;

impl Policy for SecurityPolicy {
    const PLURAL: &'static str = "securityPolicies";

    fn targets(&self) -> &PolicyTargets {
        &self.spec.targets
    }

    fn status(&self) -> Option<&PolicyStatus> {
        self.status.as_ref()
    }

    fn suits(&self, target: TargetKind) -> Result<(), Fault> {
        match target {
            TargetKind::Gateway | TargetKind::ListenerSet | TargetKind::Route(RouteKind::Http | RouteKind::Grpc) => {
                Ok(())
            }
            TargetKind::Route(RouteKind::Tcp) => suits_connections(&self.spec),
            TargetKind::Route(kind) => Err(invalid(format!("a SecurityPolicy cannot target a {}", kind.name()))),
        }
    }

    fn compile(&self, seen: &Seen<'_>) -> Effect {
        let from = From {
            seen,
            namespace: namespace(&self.metadata),
            warnings: RefCell::default(),
            fault: RefCell::default(),
        };
        let guards = guards(&from, &self.spec);
        let (guards, accepted) = match guards {
            Ok(guards) => (guards, from.fault.take().map_or(Ok(()), Err)),
            Err((cors, fault)) => {
                let steps = vec![Guard::Refuse(StatusCode::INTERNAL_SERVER_ERROR)];
                (Guards { cors, steps }, Err(fault))
            }
        };
        let warnings = from.warnings.into_inner();
        Effect { guards: Some(Arc::new(guards)), accepted, warnings, ..Effect::default() }
    }
}

/// Of a connection nothing is known but where it comes from.
fn suits_connections(spec: &SecurityPolicySpec) -> Result<(), Fault> {
    let more = spec.cors.is_some()
        || spec.csrf.is_some()
        || spec.jwt.is_some()
        || spec.api_key_auth.is_some()
        || spec.basic_auth.is_some()
        || spec.ext_auth.is_some();
    if more {
        return Err(invalid("only authorization is supported for TCP (routes/listeners)"));
    }
    for (number, rule) in spec.authorization.iter().flat_map(|authorization| &authorization.rules).enumerate() {
        let principal = rule.principal.as_ref();
        let what = match principal {
            Some(principal) if principal.jwt.is_some() => "JWT",
            Some(principal) if !principal.headers.is_empty() => "headers",
            _ if rule.operation.is_some() => "operation",
            _ => continue,
        };
        return Err(invalid(format!("rule {number}: {what} not supported for TCP")));
    }
    Ok(())
}

/// Where a policy is compiled from.
struct From<'a> {
    seen: &'a Seen<'a>,
    namespace: &'a str,
    warnings: RefCell<Vec<String>>,
    /// What is wrong, but is to let requests pass.
    fault: RefCell<Option<Fault>>,
}

impl From<'_> {
    fn referrer(&self) -> Referrer<'_> {
        Referrer { group: envoy_gateway::GROUP, kind: "SecurityPolicy", namespace: self.namespace }
    }

    /// Tells of fields that have no member and that nothing is less safe without.
    fn tell(&self, prefix: &str, unread: &Unread) {
        let told = unread.keys().map(|field| format!("{prefix}{field} is not supported and has no effect"));
        self.warnings.borrow_mut().extend(told);
    }

    /// A Secret that the policy may refer to.
    fn secret(&self, reference: &Reference) -> Result<(Key, Arc<Secret>), Fault> {
        let key = Key::new(reference.namespace.as_deref().unwrap_or(self.namespace), &reference.name);
        if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Secret")) {
            let kind = reference.kind.as_deref().unwrap_or_default();
            return Err(invalid(format!("secretRef {}: unsupported kind {kind}, only Secret", key.name)));
        }
        if !self.seen.is_granted(self.referrer(), ("", "Secret"), &key) {
            return Err(invalid(format!("secret {key} is not permitted by any ReferenceGrant")));
        }
        let secret = self.seen.secret(&key).ok_or_else(|| invalid(format!("secret {key} does not exist")))?;
        Ok((key, secret))
    }
}

/// The steps of a policy; or what pages of other origins may read of the refusals, and why there are none.
fn guards(from: &From<'_>, spec: &SecurityPolicySpec) -> Result<Guards, (Option<Arc<Cors>>, Fault)> {
    let cors = spec.cors.as_ref().map(cors).transpose().map_err(|fault| (None, fault))?;
    let steps = steps(from, spec).map_err(|fault| (cors.clone(), fault))?;
    Ok(Guards { cors, steps })
}

fn steps(from: &From<'_>, spec: &SecurityPolicySpec) -> Result<Vec<Guard>, Fault> {
    known("spec.", &spec.unread)?;
    let mut steps = Vec::new();
    if let Some(csrf) = &spec.csrf {
        steps.push(Guard::Origins(Arc::new(origins::compile(csrf)?)));
    }
    if let Some(external) = &spec.ext_auth {
        match external::compile(from, external).map_err(of("ExtAuth")) {
            Ok(compiled) => steps.push(Guard::External(Arc::new(compiled))),
            // So the field's description has it: what is not asked because nobody can be is not asked.
            Err(fault) if external.fail_open == Some(true) => {
                from.fault.replace(Some(fault));
            }
            Err(fault) => return Err(fault),
        }
    }
    if let Some(keys) = &spec.api_key_auth {
        steps.push(Guard::ApiKey(Arc::new(api_key::compile(from, keys).map_err(of("APIKeyAuth"))?)));
    }
    if let Some(basic) = &spec.basic_auth {
        steps.push(Guard::Basic(Arc::new(basic::compile(from, basic).map_err(of("BasicAuth"))?)));
    }
    if let Some(jwt) = &spec.jwt {
        steps.push(Guard::Jwt(Arc::new(jwt::compile(from, jwt).map_err(of("JWT"))?)));
    }
    if let Some(authorization) = &spec.authorization {
        let compiled = authorization::compile(authorization).map_err(of("Authorization"))?;
        steps.push(Guard::Authorization(Arc::new(compiled)));
    }
    Ok(steps)
}

/// Says of which part of a policy a fault is.
fn of(part: &'static str) -> impl Fn(Fault) -> Fault {
    move |fault| Fault { message: format!("{part}: {}", fault.message), ..fault }
}

/// Refuses fields that have no member.
fn known(prefix: &str, unread: &Unread) -> Result<(), Fault> {
    match unread.keys().next() {
        Some(field) => Err(invalid(format!("{prefix}{field} is not supported"))),
        None => Ok(()),
    }
}

fn header(field: &str, name: &str) -> Result<HeaderName, Fault> {
    HeaderName::try_from(name).map_err(|_| invalid(format!("{field}: {name:?} is no name of a header")))
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new("Invalid", message)
}

fn cors(from: &SecurityCors) -> Result<Arc<Cors>, Fault> {
    let cors = Cors::new(&from.allow_origins, &from.allow_methods, &from.allow_headers, &from.expose_headers);
    let cors = cors.with_credentials(from.allow_credentials.unwrap_or(false));
    let age = duration::limit(from.max_age.as_deref())
        .map_err(|fault| invalid(format!("spec.cors.maxAge: {}", fault.message)))?;
    let age = age.map(|age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
    Ok(Arc::new(match age {
        Some(age) => cors.with_max_age(age),
        None => cors,
    }))
}
