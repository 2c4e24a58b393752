//! Changes of host and path on the way to the backend.

use kinds::gateway::HTTPUrlRewriteFilter;

use super::{headers::header_value, redirect::path_change};
use crate::{
    controller::verdict::Fault,
    routing::{HostChange, Rewrite},
};

pub(super) fn compile(from: &HTTPUrlRewriteFilter) -> Result<Rewrite, Fault> {
    let host = from.hostname.as_deref().map(header_value).transpose()?;
    let host = host.map(HostChange::Fixed);
    Ok(Rewrite { host, path: from.path.as_ref().map(path_change), conceals: false })
}
