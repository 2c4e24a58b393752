//! `basicAuth`: names and passwords, out of a Secret.

use std::sync::Arc;

use kinds::envoy_gateway::BasicAuth as Spec;

use super::{From, header, invalid, known};
use crate::{
    controller::verdict::Fault,
    routing::{BasicAuth, Passwords},
};

/// The entry of the Secret.
const FILE: &str = ".htpasswd";

pub(super) fn compile(from: &From<'_>, spec: &Spec) -> Result<BasicAuth, Fault> {
    known("spec.basicAuth.", &spec.unread)?;
    let (key, secret) = from.secret(&spec.users)?;
    let file = secret.data.as_ref().and_then(|data| data.get(FILE)).filter(|file| !file.0.is_empty());
    let file = file.ok_or_else(|| invalid(format!("users secret not found in secret {key}: it has no {FILE}")))?;
    let text = std::str::from_utf8(&file.0).map_err(|_| invalid(format!("secret {key}: {FILE} is no text")))?;
    let passwords = Passwords::parse(text).map_err(|error| invalid(format!("secret {key}: {error}")))?;
    let forward = spec.forward_username_header.as_deref();
    let forward = forward.map(|name| header("spec.basicAuth.forwardUsernameHeader", name)).transpose()?;
    Ok(BasicAuth::new(Arc::new(passwords)).forwarding(forward))
}
