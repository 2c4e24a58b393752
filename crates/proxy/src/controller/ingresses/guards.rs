//! What requests have to pass by annotations: where they come from, and who sends them.

use std::{fmt::Write as _, sync::Arc};

use k8s_openapi::api::core::v1::Secret;

use super::{
    Context,
    annotations::Report,
    rules::cors,
    settings::{Access, Basic},
};
use crate::routing::{Authorization, AuthorizationRule, BasicAuth, Guard, Guards, Passwords, Permission};

/// The key of a Secret that holds a file of passwords.
const FILE: &str = "auth";

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
    if steps.is_empty() {
        return Ok(None);
    }
    if access.any {
        steps = vec![Guard::Any(steps.into())];
    } else if let Some(last @ Guard::Basic(_)) = steps.last_mut() {
        // It keeps its place behind all others: where a request comes from is asked first, as nginx does, and one that
        // another route's guards have let pass up to here is asked for a password as well.
        *last = Guard::Any([last.clone()].into());
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
