//! The annotations of ingress-nginx: what each is called, how its value is read, and what it amounts to.
//!
//! A new annotation is one entry of [`TABLE`]. What is not in the table, cannot be read or is not served is reported; of
//! those that keep requests out, also nobody is let in.

use std::collections::BTreeMap;

use self::table::{CLASS_TABLE, TABLE};
use super::{
    settings::Settings,
    values::{Refusal, invalid, unserved},
};
use crate::routing::Values;

mod readers;
mod table;

/// What the names of the annotations begin with.
pub(crate) const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Something that whoever wrote an Ingress should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The reason of the event.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Report {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Report { reason, message: message.into() }
    }

    /// About an annotation that is not followed.
    pub(crate) fn refused(name: &str, refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(why) => Report::new("InvalidAnnotation", format!("annotation {PREFIX}{name}: {why}")),
            Refusal::Unserved(why) => Report::new("UnservedAnnotation", format!("annotation {PREFIX}{name}: {why}")),
        }
    }
}

/// What the annotations of an Ingress ask for, and what of it is not done. What they do not say is as its class has it, in
/// which names have no prefix.
pub(crate) fn parse(
    annotations: &BTreeMap<String, String>,
    class: &BTreeMap<String, String>,
    namespace: &str,
) -> (Settings, Vec<Report>) {
    let (mut settings, mut reports) = (Settings::default(), Vec::new());
    let named = |name: &str| annotations.contains_key(&format!("{PREFIX}{name}"));
    for (name, value) in class.iter().filter(|(name, _)| !named(name)) {
        let found = CLASS_TABLE.iter().chain(TABLE).find(|annotation| annotation.name == name);
        let read = match found {
            Some(annotation) => annotation.read(&mut settings, value.trim(), namespace),
            None => Err(unserved("it is not one that is known")),
        };
        if let Err(Refusal::Invalid(why) | Refusal::Unserved(why)) = read {
            settings.closed |= found.is_some_and(|annotation| annotation.guards);
            reports.push(Report::new("InvalidParameters", format!("{name} of the IngressClass's parameters: {why}")));
        }
    }
    let ours = annotations.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.trim())));
    for (name, value) in ours {
        let Some(annotation) = TABLE.iter().find(|annotation| annotation.name == name) else {
            let message = format!("annotation {PREFIX}{name} is not one of ingress-nginx's");
            reports.push(Report::new("UnknownAnnotation", message));
            continue;
        };
        if let Err(refusal) = annotation.read(&mut settings, value, namespace) {
            settings.closed |= annotation.guards;
            reports.push(Report::refused(name, refusal));
        } else if let Some(needs) = annotation.needs.filter(|needs| !named(needs) && !class.contains_key(*needs)) {
            reports.push(Report::refused(name, invalid(format!("it has no effect without {PREFIX}{needs}"))));
        }
    }
    complete(&mut settings, &mut reports);
    (settings, reports)
}

/// What takes more than one annotation.
fn complete(settings: &mut Settings, reports: &mut Vec<Report>) {
    let canary = &mut settings.canary;
    // Less than a hundred parts is not to be had.
    canary.of.total = canary.of.total.max(100);
    if canary.of.weight > canary.of.total {
        let why = format!("{} is more than the total of {}", canary.of.weight, canary.of.total);
        reports.push(Report::refused("canary-weight", invalid(why)));
        canary.of.weight = canary.of.total;
    }
    canary.of.header = canary.header.take().map(|name| {
        let values = match (canary.value.take(), canary.pattern.take()) {
            (Some(value), _) => Values::Exact(value),
            (None, Some(pattern)) => Values::Pattern(pattern),
            (None, None) => Values::Named,
        };
        (name, values)
    });
    // Answers to anybody and credentials exclude each other.
    let anybody = settings.cors.origins.as_ref().is_none_or(|origins| origins.iter().any(|origin| origin == "*"));
    if anybody && settings.cors.credentials == Some(true) {
        let why = "credentials are not for pages of every origin: name the origins in cors-allow-origin";
        reports.push(Report::refused("cors-allow-credentials", invalid(why)));
    }
    if anybody {
        settings.cors.credentials = Some(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(annotations: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let named = annotations.iter().map(|(name, value)| {
            let name = if name.contains('/') { (*name).to_owned() } else { format!("{PREFIX}{name}") };
            (name, (*value).to_owned())
        });
        let (settings, reports) = parse(&named.collect(), &BTreeMap::new(), "shop");
        let told = |report: Report| format!("{}: {}", report.reason, report.message.replace(PREFIX, ""));
        (settings, reports.into_iter().map(told).collect())
    }

    #[test]
    fn every_annotation_is_in_the_table_once_and_names_others_that_exist() {
        for (index, annotation) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|other| other.name != annotation.name), "{}", annotation.name);
            let needed = annotation.needs.is_none_or(|needs| TABLE.iter().any(|other| other.name == needs));
            assert!(needed, "{}", annotation.name);
        }
    }

    #[test]
    fn the_documents_tell_of_every_annotation_what_becomes_of_it() {
        let text = include_str!("../../../../../docs/ingress.md");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        assert!(rows.is_sorted_by_key(|row| row[0]), "in the order of names");
        let mut missing: Vec<_> = TABLE.iter().map(|annotation| annotation.name).collect();
        for row in &rows {
            let (name, state, how) = (row[0], row[1], row[2]);
            let annotation = TABLE.iter().find(|annotation| annotation.name == name);
            let refused = annotation.unwrap_or_else(|| panic!("{name} is not in the table")).refused();
            match (state, refused) {
                ("served", None) => assert!(how.is_empty(), "{name}"),
                ("differently", None) => assert!(!how.is_empty(), "{name}"),
                ("refused", Some(why)) => assert!(how.starts_with(why), "{name}: {why}"),
                _ => panic!("{name} is not {state}"),
            }
            missing.retain(|other| *other != name);
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn what_is_not_followed_is_reported_with_name_and_rule() {
        for (annotations, expected) in [
            (vec![("no-such", "1")], "UnknownAnnotation: annotation no-such is not one of ingress-nginx's"),
            (
                vec![("proxy-read-timeout", "60s")],
                "InvalidAnnotation: annotation proxy-read-timeout: \"60s\" is no number of seconds (without a unit)",
            ),
            (
                vec![("enable-modsecurity", "true")],
                "UnservedAnnotation: annotation enable-modsecurity: there is no web application firewall",
            ),
            (
                vec![("cors-max-age", "5")],
                "InvalidAnnotation: annotation cors-max-age: it has no effect without enable-cors",
            ),
            (
                vec![("permanent-redirect", "https://$nowhere")],
                "InvalidAnnotation: annotation permanent-redirect: \"https://$nowhere\": variable $nowhere is not known",
            ),
            (
                vec![("canary", "true"), ("canary-weight", "101")],
                "InvalidAnnotation: annotation canary-weight: 101 is more than the total of 100",
            ),
            (
                vec![("auth-tls-secret", "other/ca")],
                "UnservedAnnotation: annotation auth-tls-secret: namespace other is not the Ingress's: only what is beside it is read",
            ),
        ] {
            assert_eq!(parsed(&annotations).1, [expected]);
        }
        let (_, reports) = parsed(&[("cert-manager.io/issuer", "a"), ("kubernetes.io/ingress.class", "b")]);
        assert!(reports.is_empty(), "others' annotations are none of ours: {reports:?}");
        let (settings, reports) = parsed(&[("configuration-snippet", "deny all;")]);
        assert!(reports[0].starts_with("UnservedAnnotation") && !settings.closed, "{reports:?}");
    }

    #[test]
    fn who_cannot_be_kept_out_keeps_everybody_out() {
        for (annotation, closed) in [
            (("auth-tls-secret", "other/ca"), true),
            (("auth-type", "digest"), true),
            (("proxy-read-timeout", "x"), false),
            (("auth-tls-secret", "ca"), false),
        ] {
            assert_eq!(parsed(&[annotation]).0.closed, closed, "{annotation:?}");
        }
    }

    #[test]
    fn canary_needs_its_switch_and_values_their_header() {
        let (settings, reports) = parsed(&[
            ("canary", "true"),
            ("canary-by-header", "x-canary"),
            ("canary-by-header-value", "de"),
            ("canary-weight-total", "1000"),
            ("canary-weight", "5"),
        ]);
        assert!(reports.is_empty(), "{reports:?}");
        let canary = settings.canary.of;
        assert!(matches!(canary.header, Some((_, Values::Exact(value))) if &*value == "de"));
        assert_eq!((canary.weight, canary.total), (5, 1000));
    }

    #[test]
    fn credentials_are_not_for_everybody() {
        for (annotations, expected, reported) in [
            (vec![("enable-cors", "true")], Some(false), 0),
            (vec![("enable-cors", "true"), ("cors-allow-credentials", "true")], Some(false), 1),
            (vec![("enable-cors", "true"), ("cors-allow-origin", "https://a.test")], None, 0),
        ] {
            let (settings, reports) = parsed(&annotations);
            assert_eq!((settings.cors.credentials, reports.len()), (expected, reported), "{reports:?}");
        }
    }
}
