//! Whether the definitions of Gateway API that a cluster has are of a release that this controller knows.

use kinds::gateway::GROUP;

use super::verdict::Verdict;

/// Names the release that a definition belongs to.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";

/// The release of the definitions that are installed at start, between two numbered ones.
const INSTALLED: &str = "v0.0.0-dev";

/// What is said about a definition: its name and the release it belongs to.
pub(crate) fn release<'a>(
    name: &'a str,
    annotations: impl FnOnce(&str) -> Option<&'a str>,
) -> Option<(&'a str, Option<&'a str>)> {
    let of = name.split_once('.').is_some_and(|(_, group)| group == GROUP);
    of.then(|| (name, annotations(BUNDLE_VERSION)))
}

/// The condition `SupportedVersion`. Other releases are served as far as they agree with this one.
pub(crate) fn verdict<'a>(definitions: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Verdict {
    let mut unknown: Vec<_> = { definitions }
        .filter(|(_, version)| !version.is_some_and(is_known))
        .map(|(name, version)| format!("{name} is of release {}", version.unwrap_or("unknown")))
        .collect();
    if unknown.is_empty() {
        return Verdict::yes("SupportedVersion", "SupportedVersion");
    }
    unknown.sort_unstable();
    let message = format!("{}; releases v1 are supported", unknown.join(", "));
    Verdict::no("SupportedVersion", "UnsupportedVersion", message)
}

/// Releases of one major version only add to each other.
fn is_known(version: &str) -> bool {
    version == INSTALLED || version.starts_with("v1.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_other_releases_or_none_are_named() {
        let names = ["gateways", "httproutes"].map(|plural| format!("{plural}.{GROUP}"));
        let told = |versions: [Option<&'static str>; 2]| {
            let verdict = verdict(names.iter().map(String::as_str).zip(versions));
            (verdict.holds, verdict.reason, verdict.message)
        };
        for good in ["v1.0.0", "v1.4.1", "v1.6.0-rc.1", "v0.0.0-dev"] {
            assert_eq!(told([Some(good), Some("v1.5.0")]), (true, "SupportedVersion", String::new()), "{good}");
        }
        for (bad, said) in [(None, "unknown"), (Some("v0.0.0"), "v0.0.0"), (Some("v2.0.0"), "v2.0.0"), (Some(""), "")] {
            let message = format!("gateways.gateway.networking.k8s.io is of release {said}; releases v1 are supported");
            assert_eq!(told([bad, Some("v1.5.0")]), (false, "UnsupportedVersion", message));
        }
        assert!(verdict(std::iter::empty()).holds, "nothing speaks against it");
    }

    #[test]
    fn only_definitions_of_the_group_count() {
        let version = |key: &str| (key == BUNDLE_VERSION).then_some("v1.5.0");
        let gateways = "gateways.gateway.networking.k8s.io";
        assert_eq!(release(gateways, version), Some((gateways, Some("v1.5.0"))));
        assert_eq!(release(gateways, |_| None), Some((gateways, None)));
        assert_eq!(release("securitypolicies.gateway.envoyproxy.io", version), None);
        assert_eq!(release("xmeshes.gateway.networking.x-k8s.io", version), None);
    }
}
