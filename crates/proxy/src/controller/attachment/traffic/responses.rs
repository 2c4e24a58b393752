//! Answers in place of others.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use kinds::envoy_gateway::{CustomResponse, CustomResponseBody, ResponseMatch, ResponseOverride, ResponseRedirect};
use reconcile::Key;

use super::super::reading::{header, invalid, pairs, tell, text};
use crate::{
    controller::{lookup::Seen, verdict::Fault},
    routing::{Elsewhere, HeaderEdits, Instead, TextMatch, Whose},
};

/// The key of a ConfigMap that holds a body; the only one will do as well.
const BODY: &str = "response.body";

type Headers = Vec<(http::HeaderName, TextMatch)>;

pub(super) fn compile(
    seen: &Seen<'_>,
    namespace: &str,
    from: &[ResponseOverride],
    warnings: &mut Vec<String>,
) -> Result<Vec<Instead>, Fault> {
    from.iter().map(|from| compile_one(seen, namespace, from, warnings)).collect()
}

fn compile_one(
    seen: &Seen<'_>,
    namespace: &str,
    from: &ResponseOverride,
    warnings: &mut Vec<String>,
) -> Result<Instead, Fault> {
    tell(warnings, "responseOverride.", &from.unread);
    let whose = match from.source.as_deref() {
        None | Some("All") => Whose::All,
        Some("Local") => Whose::Own,
        Some("Backend") => Whose::Backends,
        Some(other) => return Err(invalid(format!("spec.responseOverride.source: {other} is not known"))),
    };
    let (statuses, headers) = matched(&from.r#match.clone().unwrap_or_default(), warnings)?;
    let mut instead = Instead {
        whose,
        statuses,
        headers,
        status: None,
        body: None,
        kind: None,
        edits: HeaderEdits::default(),
        elsewhere: from.redirect.as_ref().map(|from| redirect(from, warnings)).transpose()?,
    };
    if let Some(from) = &from.response {
        respond(seen, namespace, from, &mut instead, warnings)?;
    }
    Ok(instead)
}

fn matched(
    from: &ResponseMatch,
    warnings: &mut Vec<String>,
) -> Result<(Vec<std::ops::RangeInclusive<u16>>, Headers), Fault> {
    tell(warnings, "responseOverride.match.", &from.unread);
    let statuses = from.status_codes.iter().flatten().map(|from| match (from.r#type.as_deref(), &from.range) {
        (Some("Range"), Some(range)) => range.start.unwrap_or(0)..=range.end.unwrap_or(u16::MAX),
        _ => from.value.unwrap_or(0)..=from.value.unwrap_or(0),
    });
    let headers = from.response_headers.iter().flatten().map(|from| {
        let field = "responseOverride.match.responseHeaders";
        Ok((header(field, from.name.as_deref())?, text(field, &from.value.clone().unwrap_or_default())?))
    });
    Ok((statuses.collect(), headers.collect::<Result<_, Fault>>()?))
}

fn respond(
    seen: &Seen<'_>,
    namespace: &str,
    from: &CustomResponse,
    instead: &mut Instead,
    warnings: &mut Vec<String>,
) -> Result<(), Fault> {
    let field = "responseOverride.response";
    tell(warnings, &format!("{field}."), &from.unread);
    instead.status = from.status_code.map(|code| status(&format!("{field}.statusCode"), code)).transpose()?;
    instead.kind = match from.content_type.as_deref() {
        None => None,
        Some(kind) => Some(
            HeaderValue::try_from(kind)
                .map_err(|_| invalid(format!("spec.{field}.contentType: {kind:?} is no value of a header")))?,
        ),
    };
    if let Some(from) = &from.body {
        instead.body = Some(body(seen, namespace, from, warnings)?);
    }
    if let Some(edits) = &from.header {
        let field = format!("{field}.header");
        tell(warnings, &format!("{field}."), &edits.unread);
        let remove = edits.remove.iter().flatten().map(|name| header(&field, Some(name)));
        let remove = remove.collect::<Result<_, _>>()?;
        let (set, add) = (pairs(&field, edits.set.as_ref())?, pairs(&field, edits.add.as_ref())?);
        instead.edits = HeaderEdits { remove, set, add };
    }
    Ok(())
}

fn status(field: &str, code: u16) -> Result<StatusCode, Fault> {
    StatusCode::from_u16(code).map_err(|_| invalid(format!("spec.{field}: {code} is no status")))
}

fn body(
    seen: &Seen<'_>,
    namespace: &str,
    from: &CustomResponseBody,
    warnings: &mut Vec<String>,
) -> Result<Bytes, Fault> {
    let field = "responseOverride.response.body";
    tell(warnings, &format!("{field}."), &from.unread);
    let text = match (from.r#type.as_deref(), &from.value_ref) {
        (Some("ValueRef"), Some(reference)) => {
            let kind = reference.kind.as_deref().unwrap_or("");
            let key = Key::new(namespace, reference.name.as_deref().unwrap_or(""));
            if kind != "ConfigMap" {
                return Err(invalid(format!("spec.{field}.valueRef: only a ConfigMap can hold a body, not {kind}")));
            }
            let map = seen.config_map(&key);
            let map = map.ok_or_else(|| invalid(format!("spec.{field}.valueRef: ConfigMap {key} not found")))?;
            let data = map.data.clone().unwrap_or_default();
            let only = data.values().next().filter(|_| data.len() == 1);
            let found = data.get(BODY).or(only).cloned();
            found.ok_or_else(|| invalid(format!("spec.{field}.valueRef: ConfigMap {key} has no {BODY}")))?
        }
        _ => from.inline.clone().unwrap_or_default(),
    };
    if text.contains("%RE") {
        // Envoy writes what it knows of a request in the place of such words.
        warnings.push(format!("spec.{field}: command operators are sent as they are written"));
    }
    Ok(text.into())
}

fn redirect(from: &ResponseRedirect, warnings: &mut Vec<String>) -> Result<Elsewhere, Fault> {
    let field = "responseOverride.redirect";
    tell(warnings, &format!("{field}."), &from.unread);
    if from.path.as_ref().is_some_and(|path| path.replace_full_path.is_none()) {
        return Err(invalid(format!("spec.{field}.path: only replaceFullPath is supported")));
    }
    Ok(Elsewhere {
        status: status(&format!("{field}.statusCode"), from.status_code.unwrap_or(302))?,
        scheme: from.scheme.as_deref().map(Into::into),
        host: from.hostname.as_deref().map(Into::into),
        port: from.port,
        path: from.path.as_ref().and_then(|path| path.replace_full_path.as_deref()).map(Into::into),
    })
}
