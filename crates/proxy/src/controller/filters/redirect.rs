//! Redirects.

use http::StatusCode;
use kinds::gateway::{HTTPPathModifier, HTTPRequestRedirectFilter, PathModifierType};

use super::unsupported;
use crate::{
    controller::verdict::Fault,
    routing::{PathChange, Redirect},
};

pub(super) fn compile(from: &HTTPRequestRedirectFilter) -> Result<Redirect, Fault> {
    let code = from.status_code.unwrap_or(302);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(StatusCode::is_redirection);
    let port = from.port.map(|port| u16::try_from(port).map_err(|_| unsupported(format!("port {port} is no port"))));
    Ok(Redirect {
        status: status.ok_or_else(|| unsupported(format!("{code} is no status of a redirect")))?,
        scheme: from.scheme.as_deref().map(Into::into),
        host: from.hostname.as_deref().map(Into::into),
        port: port.transpose()?,
        path: from.path.as_ref().map(path_change),
    })
}

pub(super) fn path_change(from: &HTTPPathModifier) -> PathChange {
    match from.type_ {
        PathModifierType::ReplaceFullPath => PathChange::Full(from.replace_full_path.as_deref().unwrap_or("/").into()),
        PathModifierType::ReplacePrefixMatch => {
            PathChange::Prefix(from.replace_prefix_match.as_deref().unwrap_or("/").into())
        }
    }
}
