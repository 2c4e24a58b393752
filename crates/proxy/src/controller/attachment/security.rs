//! SecurityPolicies: what requests have to pass.

use std::sync::Arc;

use http::StatusCode;
use kinds::{
    envoy_gateway::{PolicyTargets, SecurityCors, SecurityPolicy, SecurityPolicySpec},
    gateway::PolicyStatus,
};

use super::{Effect, Policy, TargetKind};
use crate::{
    controller::{duration, item::RouteKind, lookup::Seen, verdict::Fault},
    routing::{Cors, Guard, Guards},
};

impl Policy for SecurityPolicy {
    const PLURAL: &'static str = "securityPolicies";

    fn targets(&self) -> &PolicyTargets {
        &self.spec.targets
    }

    fn status(&self) -> Option<&PolicyStatus> {
        self.status.as_ref()
    }

    fn suits(&self, target: TargetKind) -> Result<(), Fault> {
        let spec = &self.spec;
        match target {
            TargetKind::Gateway | TargetKind::ListenerSet | TargetKind::Route(RouteKind::Http | RouteKind::Grpc) => {
                Ok(())
            }
            TargetKind::Route(RouteKind::Tcp) => {
                let more = spec.cors.is_some()
                    || spec.jwt.is_some()
                    || spec.api_key_auth.is_some()
                    || spec.basic_auth.is_some()
                    || spec.ext_auth.is_some();
                match more {
                    true => Err(invalid("only authorization is supported for TCP (routes/listeners)")),
                    false => Ok(()),
                }
            }
            TargetKind::Route(kind) => Err(invalid(format!("a SecurityPolicy cannot target a {}", kind.name()))),
        }
    }

    fn compile(&self, _seen: &Seen<'_>) -> Effect {
        let mut guards = Guards::default();
        let mut effect = Effect::default();
        match self.spec.cors.as_ref().map(cors).transpose() {
            Ok(cors) => guards.cors = cors,
            Err(fault) => effect.accepted = Err(fault),
        }
        if let Some(field) = unfollowed(&self.spec) {
            // Who asks for something to be checked is not served without it.
            effect.accepted = Err(invalid(format!("spec.{field} is not supported")));
        }
        if effect.accepted.is_err() {
            guards.steps = vec![Guard::Refuse(StatusCode::INTERNAL_SERVER_ERROR)];
        }
        effect.guards = Some(Arc::new(guards));
        effect
    }
}

/// A field that is there and cannot be followed.
fn unfollowed(spec: &SecurityPolicySpec) -> Option<&str> {
    let fields = [
        (spec.api_key_auth.is_some(), "apiKeyAuth"),
        (spec.authorization.is_some(), "authorization"),
        (spec.basic_auth.is_some(), "basicAuth"),
        (spec.ext_auth.is_some(), "extAuth"),
        (spec.jwt.is_some(), "jwt"),
    ];
    let known = fields.into_iter().find(|(there, _)| *there).map(|(_, name)| name);
    known.or_else(|| spec.unread.keys().next().map(String::as_str))
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
