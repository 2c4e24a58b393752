//! From the filters of a rule or a backendRef to what is changed on the way. One file per filter.

use kinds::{
    gateway::{FilterType, HTTPRouteFilter},
    gateway_extensions::ApiVersionFilterSpec,
};

use super::{
    extensions,
    lookup::{Route, Seen},
    verdict::Fault,
};
use crate::routing::{Filters, Rewrite, ValueMatch};

mod cors;
mod headers;
mod mirror;
mod redirect;
mod rewrite;

pub(crate) use headers::{compile as edits, header_name, header_value};

/// What filters amount to.
#[derive(Default)]
pub(crate) struct Filtered {
    /// What is changed.
    pub(crate) filters: Filters,
    /// Conditions on cookies that the requests must fulfil besides: all of one of these.
    pub(crate) cookies: Vec<Vec<(Box<str>, ValueMatch)>>,
    /// The versions among which requests choose.
    pub(crate) versions: Option<ApiVersionFilterSpec>,
    /// A rewrite that an extension asks for.
    pub(crate) rewrite: Option<Rewrite>,
}

/// Compiles filters. References that lead nowhere are told through `broken`; an error means that the rule asks for
/// something that is not served.
pub(crate) fn compile(
    seen: &Seen<'_>,
    route: &Route,
    filters: &[HTTPRouteFilter],
    broken: &mut Vec<Fault>,
) -> Result<Filtered, Fault> {
    let mut filtered = Filtered::default();
    for filter in filters {
        let compiled = &mut filtered.filters;
        match filter.type_ {
            FilterType::RequestHeaderModifier => {
                compiled.request = headers::compile(filter.request_header_modifier.as_ref())?;
            }
            FilterType::ResponseHeaderModifier => {
                compiled.response = headers::compile(filter.response_header_modifier.as_ref())?;
            }
            FilterType::RequestRedirect => {
                compiled.redirect = Some(redirect::compile(&filter.request_redirect.clone().unwrap_or_default())?);
            }
            FilterType::UrlRewrite => {
                compiled.rewrite = Some(rewrite::compile(&filter.url_rewrite.clone().unwrap_or_default())?);
            }
            FilterType::RequestMirror => {
                let mirror = filter.request_mirror.clone().unwrap_or_default();
                compiled.mirrors.extend(mirror::compile(seen, route, &mirror, broken));
            }
            FilterType::Cors => compiled.cors = Some(cors::compile(&filter.cors.clone().unwrap_or_default())),
            FilterType::ExtensionRef => {
                let reference = filter.extension_ref.clone().unwrap_or_default();
                extensions::compile(seen, route, &reference, &mut filtered, broken)?;
            }
        }
    }
    filtered.join()?;
    Ok(filtered)
}

impl Filtered {
    /// Brings together what may be said in two places.
    fn join(&mut self) -> Result<(), Fault> {
        let compiled = &mut self.filters;
        if let Some(more) = self.rewrite.take() {
            join(&mut compiled.rewrite, more)?;
        }
        if self.versions.is_some() && compiled.rewrite.as_ref().is_some_and(|rewrite| rewrite.path.is_some()) {
            let message = "an ApiVersionFilter and a rewrite of the path exclude each other";
            return Err(Fault::new("IncompatibleFilters", message));
        }
        if compiled.redirect.is_some() && compiled.rewrite.is_some() {
            let message = "a redirect and a rewrite exclude each other";
            return Err(Fault::new("IncompatibleFilters", message));
        }
        Ok(())
    }
}

/// Adds a rewrite to another, which may not be about the same part.
pub(crate) fn join(known: &mut Option<Rewrite>, more: Rewrite) -> Result<(), Fault> {
    let known = known.get_or_insert_default();
    if known.host.is_some() && more.host.is_some() || known.path.is_some() && more.path.is_some() {
        return Err(unsupported("cannot configure multiple urlRewrite filters for a single HTTPRouteRule"));
    }
    known.host = known.host.take().or(more.host);
    known.path = known.path.take().or(more.path);
    known.conceals |= more.conceals;
    Ok(())
}

/// A value that the API allows and the gateway does not serve.
pub(crate) fn unsupported(message: impl Into<String>) -> Fault {
    Fault::new("UnsupportedValue", message)
}
