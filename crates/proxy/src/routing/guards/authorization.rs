//! Who may do what: rules of which the first that a request fulfils decides.

use std::net::IpAddr;

use http::{HeaderName, Method, StatusCode};
use serde_json::Value;

use super::{
    super::{
        matching::{PathMatch, ValueMatch},
        path::forms,
        traffic::Network,
    },
    Claims, Entrant, Refusal,
    jwt::lookup,
};

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// The first that a request fulfils decides.
    pub rules: Vec<AuthorizationRule>,
    /// What is decided without one.
    pub default: Permission,
}

/// Whether a request passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// It does.
    Allow,
    /// It does not.
    #[default]
    Deny,
}

/// A rule: everything that it names must be so.
#[derive(Clone, Debug, Default)]
pub struct AuthorizationRule {
    /// What is decided.
    pub permission: Permission,
    /// The client's address is in one of these; anywhere when empty.
    pub networks: Vec<Network>,
    /// One of these methods; any when empty.
    pub methods: Vec<Method>,
    /// The path, and whether all others are meant.
    pub path: Option<(PathMatch, bool)>,
    /// Each of these headers has one of its values.
    pub headers: Vec<(HeaderName, Vec<ValueMatch>)>,
    /// The sender has such a token.
    pub token: Option<TokenCondition>,
}

/// A condition on a token.
#[derive(Clone, Debug)]
pub struct TokenCondition {
    /// Whose it is.
    pub provider: Box<str>,
    /// Each of these must hold.
    pub claims: Vec<ClaimCondition>,
    /// It must have every one of these scopes.
    pub scopes: Vec<Box<str>>,
}

/// A claim that has one of some values.
#[derive(Clone, Debug)]
pub struct ClaimCondition {
    /// The way to it, through objects.
    pub path: Vec<Box<str>>,
    /// Whether it is a list, one element of which must be one of the values.
    pub list: bool,
    /// The values.
    pub values: Vec<Box<str>>,
}

impl Authorization {
    /// Lets the addresses of some networks pass, and nobody else.
    pub fn only(networks: Vec<Network>) -> Self {
        let allow = AuthorizationRule { permission: Permission::Allow, networks, ..AuthorizationRule::default() };
        Authorization { rules: vec![allow], default: Permission::Deny }
    }

    /// Lets everybody pass but the addresses of some networks.
    pub fn except(networks: Vec<Network>) -> Self {
        let deny = AuthorizationRule { permission: Permission::Deny, networks, ..AuthorizationRule::default() };
        Authorization { rules: vec![deny], default: Permission::Allow }
    }

    pub(super) fn ask(&self, entrant: &Entrant<'_>) -> Result<(), Refusal> {
        match self.decide(|rule| rule.takes(entrant)) {
            Permission::Allow => Ok(()),
            Permission::Deny => Err(Refusal::new(StatusCode::FORBIDDEN, "RBAC: access denied")),
        }
    }

    /// Whether a connection passes of which nothing is known but its client's address.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        self.decide(|rule| rule.is_about_addresses() && rule.has(client)) == Permission::Allow
    }

    fn decide(&self, takes: impl Fn(&AuthorizationRule) -> bool) -> Permission {
        self.rules.iter().find(|rule| takes(rule)).map_or(self.default, |rule| rule.permission)
    }
}

impl AuthorizationRule {
    fn takes(&self, entrant: &Entrant<'_>) -> bool {
        let parts = &entrant.parts;
        self.has(entrant.client)
            && (self.methods.is_empty() || self.methods.contains(&parts.method))
            && self.takes_path(parts.uri.path())
            && self.headers.iter().all(|(name, values)| values.iter().any(|v| v.takes_header(&parts.headers, name)))
            && self.token.as_ref().is_none_or(|token| {
                let claims = entrant.token(&token.provider);
                claims.is_some_and(|claims| token.holds(claims))
            })
    }

    fn has(&self, client: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(client))
    }

    fn is_about_addresses(&self) -> bool {
        self.methods.is_empty() && self.path.is_none() && self.headers.is_empty() && self.token.is_none()
    }

    /// A backend may read a path in another way than it was sent. What is allowed must be so in every way, and what is
    /// refused is so in any.
    fn takes_path(&self, path: &str) -> bool {
        let Some((condition, invert)) = &self.path else { return true };
        let (base, deep) = forms(path);
        let takes = |form: &str| condition.takes(form) != *invert;
        let mut all = [Some(path), Some(&*base), deep.as_deref()].into_iter().flatten();
        match self.permission {
            Permission::Allow => all.all(takes),
            Permission::Deny => all.any(takes),
        }
    }
}

impl TokenCondition {
    fn holds(&self, claims: &Claims) -> bool {
        self.claims.iter().all(|claim| claim.holds(claims)) && self.scopes.iter().all(|scope| has_scope(claims, scope))
    }
}

/// Whether a token has a scope: among the words of `scope` or `scp`, or in a list there.
fn has_scope(claims: &Claims, scope: &str) -> bool {
    let mut values = ["scope", "scp"].iter().filter_map(|name| claims.get(*name));
    values.any(|value| match value {
        Value::String(words) => words.split(' ').any(|word| word == scope),
        Value::Array(list) => list.iter().any(|word| word.as_str() == Some(scope)),
        _ => false,
    })
}

impl ClaimCondition {
    fn holds(&self, claims: &Claims) -> bool {
        let is_one = |value: &Value| value.as_str().is_some_and(|text| self.values.iter().any(|one| **one == *text));
        match lookup(claims, &self.path) {
            Some(Value::Array(list)) if self.list => list.iter().any(is_one),
            Some(value) if !self.list => is_one(value),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
