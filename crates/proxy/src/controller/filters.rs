//! From the filters of a rule or a backendRef to what is changed on the way. One file per filter.

use kinds::gateway::{FilterType, HTTPRouteFilter};

use super::{
    lookup::{Route, Seen},
    verdict::Fault,
};
use crate::routing::Filters;

mod cors;
mod headers;
mod mirror;
mod redirect;
mod rewrite;

pub(crate) use headers::header_name;

/// Compiles filters. References that lead nowhere are told through `broken`; an error means that the rule asks for
/// something that is not served.
pub(crate) fn compile(
    seen: &Seen<'_>,
    route: &Route,
    filters: &[HTTPRouteFilter],
    broken: &mut Vec<Fault>,
) -> Result<Filters, Fault> {
    let mut compiled = Filters::default();
    for filter in filters {
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
            FilterType::ExtensionRef => return Err(unsupported("a filter of type ExtensionRef is not served")),
        }
    }
    if compiled.redirect.is_some() && compiled.rewrite.is_some() {
        let message = "a redirect and a rewrite exclude each other";
        return Err(Fault::new("IncompatibleFilters", message));
    }
    Ok(compiled)
}

/// A value that the API allows and the gateway does not serve.
pub(crate) fn unsupported(message: impl Into<String>) -> Fault {
    Fault::new("UnsupportedValue", message)
}
