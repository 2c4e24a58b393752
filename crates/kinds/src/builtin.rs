//! The built-in rows of the table.
//!
//! Paths, verbs and subresources come from `data/resources.txt`, which the generator derives from the published OpenAPI
//! document: a resource per line (`group|version|plural|kind|list kind|scope|schema|verbs`), its subresources indented
//! below (` name|group/version/kind|verbs`). Short names, irregular singulars and categories are not in that document
//! and stand here.

use std::sync::{Arc, LazyLock};

use crate::{GroupVersionKind, Resource, Subresource};

/// Plural name, short names, categories. Resources that have neither are left out.
const NAMES: [(&str, &[&str], &[&str]); 37] = [
    ("componentstatuses", &["cs"], &[]),
    ("configmaps", &["cm"], &[]),
    ("endpoints", &["ep"], &[]),
    ("events", &["ev"], &[]),
    ("limitranges", &["limits"], &[]),
    ("namespaces", &["ns"], &[]),
    ("nodes", &["no"], &[]),
    ("persistentvolumeclaims", &["pvc"], &[]),
    ("persistentvolumes", &["pv"], &[]),
    ("pods", &["po"], &["all"]),
    ("replicationcontrollers", &["rc"], &["all"]),
    ("resourcequotas", &["quota"], &[]),
    ("serviceaccounts", &["sa"], &[]),
    ("services", &["svc"], &["all"]),
    ("apiservices", &[], &["api-extensions"]),
    ("customresourcedefinitions", &["crd", "crds"], &["api-extensions"]),
    ("mutatingadmissionpolicies", &[], &["api-extensions"]),
    ("mutatingadmissionpolicybindings", &[], &["api-extensions"]),
    ("mutatingwebhookconfigurations", &[], &["api-extensions"]),
    ("validatingadmissionpolicies", &[], &["api-extensions"]),
    ("validatingadmissionpolicybindings", &[], &["api-extensions"]),
    ("validatingwebhookconfigurations", &[], &["api-extensions"]),
    ("daemonsets", &["ds"], &["all"]),
    ("deployments", &["deploy"], &["all"]),
    ("replicasets", &["rs"], &["all"]),
    ("statefulsets", &["sts"], &["all"]),
    ("horizontalpodautoscalers", &["hpa"], &["all"]),
    ("cronjobs", &["cj"], &["all"]),
    ("jobs", &[], &["all"]),
    ("certificatesigningrequests", &["csr"], &[]),
    ("ingresses", &["ing"], &[]),
    ("ipaddresses", &["ip"], &[]),
    ("networkpolicies", &["netpol"], &[]),
    ("poddisruptionbudgets", &["pdb"], &[]),
    ("storageclasses", &["sc"], &[]),
    ("volumeattributesclasses", &["vac"], &[]),
    ("priorityclasses", &["pc"], &[]),
];

static ROWS: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| parse(include_str!("../data/resources.txt")));

/// Every built-in resource in every served version, in discovery's order.
pub fn builtin() -> &'static [Arc<Resource>] {
    &ROWS
}

fn parse(text: &str) -> Vec<Arc<Resource>> {
    let mut rows: Vec<Resource> = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix(' ') {
            let subresource = subresource(line);
            rows.last_mut().expect("invariant: the table starts with a resource").subresources.push(subresource);
        } else {
            rows.push(resource(line));
        }
    }
    rows.into_iter().map(Arc::new).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn resource(line: &str) -> Resource {
    let mut columns = line.split('|');
    let mut next = || columns.next().expect("invariant: a resource line has eight columns").to_owned();
    let (group, version, plural, kind, list_kind) = (next(), next(), next(), next(), next());
    let (namespaced, schema, verbs) = (next() == "namespaced", next(), words(&next()));
    let names = NAMES.iter().find(|(name, _, _)| *name == plural);
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Resource {
        singular: kind.to_ascii_lowercase(),
        short_names: names.map(|(_, short, _)| owned(short)).unwrap_or_default(),
        categories: names.map(|(_, _, categories)| owned(categories)).unwrap_or_default(),
        subresources: Vec::new(),
        group,
        version,
        plural,
        kind,
        list_kind,
        namespaced,
        verbs,
        schema,
    }
}

fn subresource(line: &str) -> Subresource {
    let mut columns = line.split('|');
    let mut next = || columns.next().expect("invariant: a subresource line has three columns");
    let (name, kind, verbs) = (next(), next(), next());
    let mut parts = kind.split('/').map(str::to_owned);
    let mut part = || parts.next().expect("invariant: a kind has three parts");
    let kind = GroupVersionKind { group: part(), version: part(), kind: part() };
    Subresource { name: name.to_owned(), kind, verbs: words(verbs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, version: &str, plural: &str) -> &'static Resource {
        let found = builtin().iter().find(|row| row.group == group && row.version == version && row.plural == plural);
        found.unwrap_or_else(|| panic!("no row for {group}/{version} {plural}"))
    }

    #[test]
    fn rows_carry_what_discovery_shows() {
        let deployment = row("apps", "v1", "deployments");
        assert_eq!((deployment.kind.as_str(), deployment.singular.as_str()), ("Deployment", "deployment"));
        assert_eq!(
            (deployment.short_names.as_slice(), deployment.categories.as_slice()),
            (&["deploy".to_owned()][..], &["all".to_owned()][..])
        );
        assert_eq!(
            deployment.verbs,
            ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        );
        assert!(deployment.namespaced);
        let scale = deployment.subresources.iter().find(|sub| sub.name == "scale").unwrap();
        assert_eq!((scale.kind.group.as_str(), scale.kind.kind.as_str()), ("autoscaling", "Scale"));
        assert!(!row("", "v1", "nodes").namespaced);
        assert_eq!(row("", "v1", "pods").subresources.len(), 10);
        row("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        row("apiregistration.k8s.io", "v1", "apiservices");
    }

    #[test]
    fn names_belong_to_served_resources_and_short_names_are_unique_in_a_group() {
        for (name, _, _) in NAMES {
            assert!(builtin().iter().any(|row| row.plural == name), "{name} is not served");
        }
        let mut seen = std::collections::HashSet::new();
        for row in builtin() {
            for short in &row.short_names {
                assert!(seen.insert((&row.group, &row.version, short)), "{short} twice in {}", row.group);
            }
        }
    }

    #[test]
    fn only_generally_available_versions_are_served() {
        for row in builtin() {
            assert!(!row.version.contains("alpha") && !row.version.contains("beta"), "{}", row.api_version());
            assert!(!row.schema.is_empty() && !row.kind.is_empty(), "{}", row.plural);
        }
    }
}
