//! Query parameters and the option objects of `meta.k8s.io` they stand for.

use std::{borrow::Cow, time::Duration};

use serde_json::Value;

use crate::{path, status::ApiError};

/// The decoded query of a request.
#[derive(Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses `a=b&c=d`.
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (plus(k), plus(v))).collect())
    }

    /// The first value of a parameter, `None` when absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> + 'b {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    fn boolean(&self, name: &str) -> bool {
        // upstream: present without a value is true, and only these two say no
        self.0.iter().find(|(key, _)| key == name).is_some_and(|(_, value)| !matches!(&**value, "false" | "0"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| ApiError::bad_request(format!("{name}: invalid number {text:?}"))))
            .transpose()
    }
}

fn plus(text: &str) -> Cow<'_, str> {
    if text.contains('+') { Cow::Owned(path::decode(&text.replace('+', " ")).into_owned()) } else { path::decode(text) }
}

/// Units of Go's durations with their length in nanoseconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// A duration as Go writes it, `1m30s`; a negative one is none at all.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut nanoseconds = 0.0;
    let mut rest = unsigned;
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, length) = known.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        nanoseconds += number * length;
        rest = next;
    }
    if nanoseconds > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if text.starts_with('-') { Duration::ZERO } else { Duration::from_nanos(nanoseconds as u64) })
}

/// How `resourceVersion` of a list is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResourceVersionMatch {
    /// The newest state, or any not older than the version given.
    NotOlderThan,
    /// That very state.
    Exact,
}

/// `metav1.ListOptions`.
#[derive(Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: Option<String>,
    pub(crate) field_selector: Option<String>,
    pub(crate) watch: bool,
    pub(crate) allow_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Option<ResourceVersionMatch>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: Option<String>,
}

impl ListOptions {
    /// Reads and checks the options of a list, watch or collection delete.
    pub(crate) fn parse(query: &Query<'_>) -> Result<Self, ApiError> {
        let text = |name: &str| query.get(name).map(str::to_owned);
        let options = Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch: query.boolean("watch"),
            allow_bookmarks: query.boolean("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|value| value != "false" && value != "0"),
            resource_version: match query.get("resourceVersion") {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "resourceVersion: Invalid value: {text:?}: must be an unsigned integer"
                    ))
                })?),
            },
            version_match: match query.get("resourceVersionMatch") {
                None => None,
                Some("NotOlderThan") => Some(ResourceVersionMatch::NotOlderThan),
                Some("Exact") => Some(ResourceVersionMatch::Exact),
                Some(other) => {
                    return Err(invalid(format!(
                        "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                    )));
                }
            },
            timeout_seconds: query.number("timeoutSeconds")?,
            limit: query
                .number::<i64>("limit")?
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|limit| *limit > 0),
            continue_token: text("continue"),
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.watch {
            return match (self.send_initial_events, self.version_match) {
                (Some(_), Some(ResourceVersionMatch::NotOlderThan)) | (None, None) => Ok(()),
                (Some(_), _) => Err(invalid(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                )),
                (None, Some(_)) => {
                    Err(invalid("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch"))
                }
            };
        }
        if self.send_initial_events.is_some() {
            return Err(invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
        }
        if self.version_match.is_some() && self.resource_version.is_none() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if self.version_match.is_some() && self.continue_token.is_some() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if self.version_match == Some(ResourceVersionMatch::Exact) && self.resource_version == Some(0) {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        if self.continue_token.is_some() && self.resource_version.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        Ok(())
    }
}

fn invalid(what: impl Into<String>) -> ApiError {
    ApiError::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {}", what.into()))
}

/// What happens to fields the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped, with a warning each.
    Warn,
    /// Refused.
    Strict,
}

/// The options that create, update and patch share.
#[derive(Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
}

/// Longest field manager, as upstream.
const FIELD_MANAGER_MAX: usize = 128;

impl WriteOptions {
    /// Reads the options; the field manager defaults to the first part of the user agent.
    pub(crate) fn parse(query: &Query<'_>, user_agent: &str) -> Result<Self, ApiError> {
        let field_manager = match query.get("fieldManager") {
            Some(name) if name.chars().count() > FIELD_MANAGER_MAX => {
                return Err(ApiError::bad_request(format!(
                    "fieldManager: Too long: may not be more than {FIELD_MANAGER_MAX} bytes"
                )));
            }
            Some(name) if name.chars().any(char::is_control) => {
                return Err(ApiError::bad_request(format!(
                    "fieldManager: Invalid value: {name:?}: should only contain printable characters"
                )));
            }
            Some(name) => name.to_owned(),
            None => default_manager(user_agent),
        };
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"))?,
            field_manager,
            field_validation: match query.get("fieldValidation") {
                None | Some("Warn") => FieldValidation::Warn,
                Some("Ignore") => FieldValidation::Ignore,
                Some("Strict") => FieldValidation::Strict,
                Some(other) => {
                    return Err(ApiError::bad_request(format!(
                        "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                    )));
                }
            },
            force: query.get("force").map(|value| value != "false" && value != "0"),
        })
    }
}

fn default_manager(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown".into() } else { name.chars().take(FIELD_MANAGER_MAX).collect() }
}

fn dry_run<'a>(mut values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    values.try_fold(false, |_, value| match value {
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""))),
    })
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the options from the body, if any, and the query.
    pub(crate) fn parse(query: &Query<'_>, body: Option<&Value>) -> Result<Self, ApiError> {
        let null = Value::Null;
        let body = body.unwrap_or(&null);
        if let Some(kind) = body["kind"].as_str().filter(|kind| *kind != "DeleteOptions") {
            return Err(ApiError::bad_request(format!("decoded object cannot be converted to DeleteOptions: {kind}")));
        }
        let text = |name: &str| body[name].as_str().or_else(|| query.get(name)).map(str::to_owned);
        let orphan = body["orphanDependents"].as_bool().or_else(|| query.get("orphanDependents").map(|v| v == "true"));
        let body_dry_run = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let grace_period_seconds = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => query.number("gracePeriodSeconds")?,
        };
        let options = Self {
            // a negative period counts as the shortest graceful one
            grace_period_seconds: grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            propagation: match (text("propagationPolicy").as_deref(), orphan) {
                (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
                (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
                (Some("Foreground"), None) => Some(Propagation::Foreground),
                (None, None) => None,
                (Some(other), None) => {
                    return Err(ApiError::bad_request(format!(
                        "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
                    )));
                }
                (Some(_), Some(_)) => {
                    return Err(ApiError::bad_request("orphanDependents and deletionPropagation cannot be both set"));
                }
            },
            uid: body["preconditions"]["uid"].as_str().map(str::to_owned),
            resource_version: body["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
            dry_run: dry_run(query.all("dryRun").chain(body_dry_run))?,
        };
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(query: &str) -> Result<ListOptions, ApiError> {
        ListOptions::parse(&Query::parse(Some(query)))
    }

    #[test]
    fn durations_read_as_go_reads_them() {
        let millis = |text: &str| duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("1.5h"), Ok(5_400_000));
        assert_eq!(millis("+10ms"), Ok(10));
        assert_eq!(millis("0"), Ok(0));
        assert_eq!(millis("-5s"), Ok(0));
        assert_eq!(millis("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(millis("5x").unwrap_err(), "time: unknown unit \"x\" in duration \"5x\"");
        for bad in ["", "-", "s", ".s", "1..2s", "9999999999999h"] {
            assert_eq!(millis(bad).unwrap_err(), format!("time: invalid duration {bad:?}"));
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("labelSelector=app%3Dweb%2Cx+in+%28a%29&watch&dryRun=All&command=a&command=b"));
        assert_eq!(query.get("labelSelector"), Some("app=web,x in (a)"));
        assert!(query.boolean("watch"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn contradicting_list_options_are_refused() {
        assert_eq!(list("resourceVersionMatch=Exact").unwrap_err().code, 422);
        assert_eq!(list("resourceVersionMatch=Exact&resourceVersion=0").unwrap_err().code, 422);
        assert_eq!(list("sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(list("watch=1&sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(list("resourceVersion=x").unwrap_err().code, 400);
        assert_eq!(list("continue=abc&resourceVersion=3").unwrap_err().code, 400);
        assert!(list("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").is_ok());
    }

    #[test]
    fn the_field_manager_comes_from_the_user_agent() {
        let options = WriteOptions::parse(&Query::parse(None), "kubectl/v1.36.0 (linux/amd64)").unwrap();
        assert_eq!(options.field_manager, "kubectl");
        assert_eq!(options.field_validation, FieldValidation::Warn);
        assert_eq!(WriteOptions::parse(&Query::parse(Some("dryRun=Some")), "").unwrap_err().code, 400);
    }

    #[test]
    fn delete_options_come_from_body_and_query() {
        let body = json!({"kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}});
        let options = DeleteOptions::parse(&Query::parse(Some("propagationPolicy=Foreground")), Some(&body)).unwrap();
        assert_eq!(options.grace_period_seconds, Some(0));
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!(options.uid.as_deref(), Some("u"));
    }
}
