//! `authorization`: who may do what.

use http::Method;
use kinds::{
    envoy_gateway::{
        Authorization as Spec, AuthorizationAction, AuthorizationRule as Rule, JwtClaim, JwtPrincipal, OperationPath,
    },
    gateway::PathMatchType,
};

use super::{header, invalid, known};
use crate::{
    controller::verdict::Fault,
    routing::{
        Authorization, AuthorizationRule, ClaimCondition, Network, PathMatch, Permission, TokenCondition, ValueMatch,
    },
};

pub(super) fn compile(spec: &Spec) -> Result<Authorization, Fault> {
    let rules = spec.rules.iter().enumerate();
    let rules = rules.map(|(number, from)| {
        rule(from).map_err(|fault| Fault { message: format!("rule {number}: {}", fault.message), ..fault })
    });
    Ok(Authorization {
        rules: rules.collect::<Result<_, _>>()?,
        default: permission(spec.default_action.unwrap_or_default()),
    })
}

fn permission(action: AuthorizationAction) -> Permission {
    match action {
        AuthorizationAction::Allow => Permission::Allow,
        AuthorizationAction::Deny => Permission::Deny,
    }
}

fn rule(from: &Rule) -> Result<AuthorizationRule, Fault> {
    known("", &from.unread)?;
    let mut rule = AuthorizationRule { permission: permission(from.action), ..AuthorizationRule::default() };
    if let Some(operation) = &from.operation {
        let method =
            |name: &String| Method::try_from(name.as_str()).map_err(|_| invalid(format!("{name:?} is no method")));
        rule.methods = operation.methods.iter().map(method).collect::<Result<_, _>>()?;
        rule.path = operation.path.as_ref().map(path).transpose()?;
    }
    let Some(principal) = &from.principal else { return Ok(rule) };
    known("principal.", &principal.unread)?;
    for range in &principal.client_cidrs {
        // What an address alone would mean is not told: an address that was to be a range would let nobody else in.
        let network = Network::parse(range).filter(|_| range.contains('/'));
        rule.networks.push(network.ok_or_else(|| invalid(format!("invalid ClientCIDR {range:?}")))?);
    }
    for condition in &principal.headers {
        let values = condition.values.iter().map(|value| ValueMatch::Exact(value.as_str().into()));
        rule.headers.push((header("principal.headers", &condition.name)?, values.collect()));
    }
    rule.token = principal.jwt.as_ref().map(token);
    Ok(rule)
}

fn path(from: &OperationPath) -> Result<(PathMatch, bool), Fault> {
    let (value, wrong) = (&from.value, |error| invalid(format!("operation.path: {error}")));
    let condition = match from.type_.unwrap_or(PathMatchType::PathPrefix) {
        PathMatchType::Exact => PathMatch::Exact(value.as_str().into()),
        PathMatchType::PathPrefix => PathMatch::prefix(value),
        PathMatchType::RegularExpression => PathMatch::pattern(value).map_err(wrong)?,
    };
    Ok((condition, from.invert.unwrap_or(false)))
}

fn token(from: &JwtPrincipal) -> TokenCondition {
    let claim = |claim: &JwtClaim| ClaimCondition {
        path: claim.name.split('.').map(Into::into).collect(),
        list: claim.value_type.as_deref() == Some("StringArray"),
        values: claim.values.iter().map(|value| value.as_str().into()).collect(),
    };
    TokenCondition {
        provider: from.provider.as_str().into(),
        claims: from.claims.iter().map(claim).collect(),
        scopes: from.scopes.iter().map(|scope| scope.as_str().into()).collect(),
    }
}
