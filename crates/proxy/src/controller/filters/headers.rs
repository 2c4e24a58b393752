//! Header changes.

use http::{HeaderName, HeaderValue};
use kinds::gateway::{HTTPHeader, HTTPHeaderFilter};

use super::unsupported;
use crate::{controller::verdict::Fault, routing::HeaderEdits};

pub(crate) fn compile(from: Option<&HTTPHeaderFilter>) -> Result<HeaderEdits, Fault> {
    let Some(from) = from else { return Ok(HeaderEdits::default()) };
    let pairs = |headers: &[HTTPHeader]| {
        headers.iter().map(|h| Ok((header_name(&h.name)?, header_value(&h.value)?))).collect::<Result<_, Fault>>()
    };
    let remove = from.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?;
    Ok(HeaderEdits { remove, set: pairs(&from.set)?, add: pairs(&from.add)? })
}

pub(crate) fn header_name(name: &str) -> Result<HeaderName, Fault> {
    HeaderName::try_from(name).map_err(|_| unsupported(format!("{name:?} is no header name")))
}

pub(crate) fn header_value(value: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::try_from(value).map_err(|_| unsupported(format!("{value:?} is no header value")))
}
