//! Query parameters and the option objects of `meta.k8s.io` they stand for.

use std::{borrow::Cow, time::Duration};

use serde_json::Value;
use strategy::field_error::{FieldErrors, Path};

use crate::{
    path,
    status::{ApiError, causes_of},
};

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
            .map(|text| {
                let invalid = || ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
                text.parse().map_err(|_| invalid())
            })
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
    /// None of those: refused.
    Unknown,
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
        Self::read(query, query.boolean("watch"))
    }

    /// Reads and checks the options of a watch, however it was asked for.
    pub(crate) fn of_watch(query: &Query<'_>) -> Result<Self, ApiError> {
        Self::read(query, true)
    }

    fn read(query: &Query<'_>, watch: bool) -> Result<Self, ApiError> {
        let text = |name: &str| query.get(name).map(str::to_owned);
        let options = Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch,
            allow_bookmarks: query.boolean("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|value| value != "false" && value != "0"),
            resource_version: query.get("resourceVersion").and_then(|text| text.parse().ok()),
            version_match: match query.get("resourceVersionMatch") {
                None => None,
                Some("NotOlderThan") => Some(ResourceVersionMatch::NotOlderThan),
                Some("Exact") => Some(ResourceVersionMatch::Exact),
                Some(_) => Some(ResourceVersionMatch::Unknown),
            },
            timeout_seconds: query.number("timeoutSeconds")?,
            limit: query
                .number::<i64>("limit")?
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|limit| *limit > 0),
            continue_token: text("continue"),
        };
        options.check(query)?;
        match query.get("resourceVersion") {
            Some(text) if options.resource_version.is_none() => Err(ApiError::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))),
            _ => Ok(options),
        }
    }

    /// Whether the parameters go together.
    fn check(&self, query: &Query<'_>) -> Result<(), ApiError> {
        if self.version_match.is_none() && self.send_initial_events.is_none() {
            return Ok(());
        }
        let matching = query.get("resourceVersionMatch").unwrap_or_default();
        let mut errors = FieldErrors::default();
        if self.watch {
            self.check_watch(matching, &mut errors);
        } else {
            self.check_list(query.get("resourceVersion"), matching, &mut errors);
        }
        refuse("ListOptions", &errors)
    }

    fn check_watch(&self, matching: &str, errors: &mut FieldErrors) {
        let not_older = self.version_match == Some(ResourceVersionMatch::NotOlderThan);
        if self.send_initial_events.is_some() && !not_older {
            errors.forbidden(&MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if self.version_match.is_none() {
            return;
        }
        if self.send_initial_events.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.forbidden(&MATCH, why);
        }
        if !not_older {
            errors.not_supported(&MATCH, matching, &["NotOlderThan"]);
        }
        if self.continue_token.is_some() {
            errors.forbidden(&MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
    }

    fn check_list(&self, version: Option<&str>, matching: &str, errors: &mut FieldErrors) {
        if self.version_match.is_some() {
            if version.is_none() {
                errors.forbidden(&MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if self.continue_token.is_some() {
                errors.forbidden(&MATCH, "resourceVersionMatch is forbidden when continue is provided");
            }
            if self.version_match == Some(ResourceVersionMatch::Unknown) {
                errors.not_supported(&MATCH, matching, &["Exact", "NotOlderThan", ""]);
            }
            if self.version_match == Some(ResourceVersionMatch::Exact) && self.resource_version == Some(0) {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.forbidden(&MATCH, why);
            }
        }
        if self.send_initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
    }
}

const MATCH: Path<'static> = Path::new("resourceVersionMatch");

/// Fails when options of a kind break its rules.
fn refuse(kind: &str, errors: &FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", kind, "", causes_of(errors))) }
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

/// Whose options a write has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteKind {
    Create,
    Update,
    Patch,
    Apply,
}

impl WriteKind {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

impl WriteOptions {
    /// Reads the options; the field manager defaults to the first part of the user agent.
    pub(crate) fn parse(kind: WriteKind, query: &Query<'_>, user_agent: &str) -> Result<Self, ApiError> {
        let options = Self {
            dry_run: query.all("dryRun").any(|value| value == "All"),
            field_manager: query.get("fieldManager").map_or_else(|| default_manager(user_agent), str::to_owned),
            field_validation: match query.get("fieldValidation") {
                Some("Ignore") => FieldValidation::Ignore,
                Some("Strict") => FieldValidation::Strict,
                _ => FieldValidation::Warn,
            },
            force: query.get("force").map(|value| value != "false" && value != "0"),
        };
        let mut errors = FieldErrors::default();
        match kind {
            WriteKind::Patch if options.force.is_some() => {
                errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
            }
            WriteKind::Apply if query.get("fieldManager").is_none() => {
                errors.required(&Path::new("fieldManager"), "is required for apply patch");
            }
            _ => {}
        }
        check_manager(query.get("fieldManager").unwrap_or_default(), &mut errors);
        check_dry_run(query.all("dryRun"), &mut errors);
        let validation = query.get("fieldValidation").unwrap_or("Warn");
        if !matches!(validation, "Ignore" | "Strict" | "Warn") {
            errors.not_supported(&Path::new("fieldValidation"), validation, &["", "Ignore", "Strict", "Warn"]);
        }
        refuse(kind.name(), &errors)?;
        Ok(options)
    }
}

fn default_manager(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown".into() } else { name.chars().take(FIELD_MANAGER_MAX).collect() }
}

fn check_manager(name: &str, errors: &mut FieldErrors) {
    let path = Path::new("fieldManager");
    if name.len() > FIELD_MANAGER_MAX {
        errors.too_long(&path, FIELD_MANAGER_MAX);
    }
    for (at, odd) in name.char_indices().filter(|(_, character)| character.is_control()) {
        errors.invalid(&path, name, format!("invalid character U+{:04X} (at position {at})", u32::from(odd)));
    }
}

fn check_dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut FieldErrors) {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(&Path::new("dryRun"), values, &["All"]);
    }
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
    /// Whether who asked wants to hear that the object is not gone yet.
    pub(crate) cascades: bool,
}

impl DeleteOptions {
    /// Reads the options from the body or, where there is none, from the query.
    pub(crate) fn parse(query: &Query<'_>, body: Option<&Value>) -> Result<Self, ApiError> {
        let read = match body {
            Some(body) => Self::of_body(body)?,
            None => Self::of_query(query)?,
        };
        read.check()
    }

    fn of_body(body: &Value) -> Result<Unchecked, ApiError> {
        if let Some(kind) = body["kind"].as_str().filter(|kind| *kind != "DeleteOptions") {
            return Err(ApiError::bad_request(format!("decoded object cannot be converted to DeleteOptions: {kind}")));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let dry_run = body["dryRun"].as_array().into_iter().flatten();
        Ok(Unchecked {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            propagation: text(&body["propagationPolicy"]),
            orphan: body["orphanDependents"].as_bool(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: dry_run.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    fn of_query(query: &Query<'_>) -> Result<Unchecked, ApiError> {
        Ok(Unchecked {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            propagation: query.get("propagationPolicy").map(str::to_owned),
            orphan: query.get("orphanDependents").map(|value| value != "false" && value != "0"),
            uid: None,
            resource_version: None,
            dry_run: query.all("dryRun").map(str::to_owned).collect(),
        })
    }
}

/// Delete options as they were sent.
struct Unchecked {
    grace_period_seconds: Option<i64>,
    propagation: Option<String>,
    orphan: Option<bool>,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: Vec<String>,
}

impl Unchecked {
    fn check(self) -> Result<DeleteOptions, ApiError> {
        let mut errors = FieldErrors::default();
        let path = Path::new("propagationPolicy");
        if let (Some(policy), Some(_)) = (&self.propagation, self.orphan) {
            errors.invalid(&path, policy.as_str(), "orphanDependents and deletionPropagation cannot be both set");
        }
        let propagation = match (self.propagation.as_deref(), self.orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        check_dry_run(self.dry_run.iter().map(String::as_str), &mut errors);
        refuse("DeleteOptions", &errors)?;
        Ok(DeleteOptions {
            // a negative period counts as the shortest graceful one
            grace_period_seconds: self.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            propagation,
            uid: self.uid,
            resource_version: self.resource_version,
            dry_run: !self.dry_run.is_empty(),
            cascades: self.orphan == Some(false),
        })
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
        assert_eq!(list("resourceVersion=x&resourceVersionMatch=Latest").unwrap_err().code, 422);
        assert!(list("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").is_ok());
    }

    #[test]
    fn the_field_manager_comes_from_the_user_agent() {
        let read = |kind, query| WriteOptions::parse(kind, &Query::parse(query), "kubectl/v1.36.0 (linux/amd64)");
        let options = read(WriteKind::Create, None).unwrap();
        assert_eq!(options.field_manager, "kubectl");
        assert_eq!(options.field_validation, FieldValidation::Warn);
        let refused = |kind, query| {
            let error = read(kind, Some(query)).unwrap_err();
            assert_eq!((error.code, &*error.reason), (422, "Invalid"));
            error.message
        };
        assert_eq!(
            refused(WriteKind::Update, "dryRun=Some"),
            "UpdateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
        assert_eq!(
            refused(WriteKind::Patch, "force=true&fieldValidation=x"),
            "PatchOptions.meta.k8s.io \"\" is invalid: [force: Forbidden: may not be specified for non-apply patch, \
             fieldValidation: Unsupported value: \"x\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]"
        );
        assert_eq!(
            refused(WriteKind::Apply, ""),
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
        );
    }

    #[test]
    fn delete_options_come_from_the_body_or_else_from_the_query() {
        let body = json!({"kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}});
        let query = Query::parse(Some("propagationPolicy=Foreground"));
        let options = DeleteOptions::parse(&query, Some(&body)).unwrap();
        assert_eq!((options.grace_period_seconds, options.propagation), (Some(0), None));
        assert_eq!(options.uid.as_deref(), Some("u"));
        assert_eq!(DeleteOptions::parse(&query, None).unwrap().propagation, Some(Propagation::Foreground));
        let refused = DeleteOptions::parse(&query, Some(&json!({"propagationPolicy": "Later"}))).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                422,
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Later\": \
             supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            )
        );
    }
}
