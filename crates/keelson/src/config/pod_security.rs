//! The settings of PodSecurity: what applies where a namespace has no labels, and who is exempt.

use apiserver::admission::{LevelVersion, PodSecurity, PodSecurityPolicy};

use super::Values;

/// Reads the settings.
pub(super) fn parse(values: &mut Values<'_>) -> PodSecurity {
    let default = PodSecurity::default();
    let mut mode = |key: &str, unreadable: LevelVersion| values.parsed(key, unreadable, LevelVersion::parse);
    let policy = PodSecurityPolicy {
        enforce: mode("podSecurity.enforce", default.default.enforce),
        audit: mode("podSecurity.audit", default.default.audit),
        warn: mode("podSecurity.warn", default.default.warn),
    };
    let names = |key: &str| -> Vec<String> {
        values.text(key).split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    PodSecurity {
        default: policy,
        exempt_users: names("podSecurity.exemptUsers"),
        exempt_namespaces: names("podSecurity.exemptNamespaces"),
        exempt_runtime_classes: names("podSecurity.exemptRuntimeClasses"),
    }
}
