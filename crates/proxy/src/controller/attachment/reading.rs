//! Reading what policies say: durations, sizes, headers, conditions, and which fields are not followed.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use kinds::{
    envoy_gateway::{HeaderPair, StringMatch, Unread},
    quantity,
};
use serde_json::{Value, json};

use crate::{
    controller::{duration, verdict::Fault},
    routing::TextMatch,
};

pub(super) fn invalid(message: impl Into<String>) -> Fault {
    Fault::new("Invalid", message)
}

/// Tells the fields of a part that have no member.
pub(super) fn tell(warnings: &mut Vec<String>, path: &str, unread: &Unread) {
    let fields = unread.iter().filter(|(name, value)| !is_filled_in(name, value));
    warnings.extend(fields.map(|(name, _)| format!("spec.{path}{name} is not supported and has no effect")));
}

/// Whether a field is as the definition fills it in, and so asks for nothing.
fn is_filled_in(name: &str, value: &Value) -> bool {
    match name {
        "alwaysEjectOneEndpoint" | "splitExternalLocalOriginErrors" => *value == json!(false),
        "consecutiveLocalOriginFailures" => *value == json!(5),
        "tableSize" => *value == json!(65_537),
        "maxAcceptPerSocketEvent" => *value == json!(1),
        _ => false,
    }
}

/// A duration, with its field told where it is none.
pub(super) fn limit(field: &str, text: Option<&str>) -> Result<Option<Duration>, Fault> {
    duration::limit(text).map_err(|fault| invalid(format!("spec.{field}: {}", fault.message)))
}

pub(super) fn header(field: &str, name: Option<&str>) -> Result<HeaderName, Fault> {
    let name = name.unwrap_or("");
    HeaderName::try_from(name).map_err(|_| invalid(format!("spec.{field}: {name:?} is no name of a header")))
}

/// A size in bytes, as a quantity, between two bounds.
pub(super) fn bytes(field: &str, value: Option<&Value>, (least, most): (u64, u64)) -> Result<Option<u64>, Fault> {
    let Some(value) = value else { return Ok(None) };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let bytes = quantity::units(&text).and_then(|bytes| u64::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| invalid(format!("spec.{field}: {text:?} is no number of bytes")))?;
    if !(least..=most).contains(&bytes) {
        return Err(invalid(format!("spec.{field}: {text} is out of range, must be between {least} and {most}")));
    }
    Ok(Some(bytes))
}

/// A condition on a text.
pub(super) fn text(field: &str, from: &StringMatch) -> Result<TextMatch, Fault> {
    let value = from.value.as_deref().unwrap_or("");
    Ok(match from.r#type.as_deref() {
        None | Some("Exact") => TextMatch::Exact(value.into()),
        Some("Prefix") => TextMatch::Prefix(value.into()),
        Some("Suffix") => TextMatch::Suffix(value.into()),
        Some("RegularExpression") => {
            TextMatch::pattern(value).map_err(|error| invalid(format!("spec.{field}: {error}")))?
        }
        Some(other) => return Err(invalid(format!("spec.{field}.type: {other} is not known"))),
    })
}

/// Conditions on a text.
pub(super) fn texts(field: &str, from: Option<&Vec<StringMatch>>) -> Result<Vec<TextMatch>, Fault> {
    from.into_iter().flatten().map(|from| text(field, from)).collect()
}

/// Headers and their values.
pub(super) fn pairs(field: &str, from: Option<&Vec<HeaderPair>>) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    let pair = |pair: &HeaderPair| {
        let value = pair.value.as_deref().unwrap_or("");
        let read = HeaderValue::try_from(value);
        let value = read.map_err(|_| invalid(format!("spec.{field}: {value:?} is no value of a header")))?;
        Ok((header(field, pair.name.as_deref())?, value))
    };
    from.into_iter().flatten().map(pair).collect()
}
