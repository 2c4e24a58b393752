//! What the labels of a namespace ask for: a level and a version of the rules, for each of three modes.

use serde_json::{Map, Value};
use strategy::field_error::{FieldErrors, Path};

/// How much a pod may do, from everything to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead out of a container.
    Baseline,
    /// What hardened workloads need.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Which release's rules count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The newest known.
    Latest,
    /// Those of 1.x.
    Minor(u32),
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let canonical = minor == "0" || !minor.starts_with('0');
        let digits = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
        (canonical && digits).then(|| minor.parse().ok().map(Self::Minor)).flatten()
    }

    /// Whether rules that came with 1.`minor` count.
    pub(super) fn has(self, minor: u32) -> bool {
        match self {
            Self::Latest => true,
            Self::Minor(own) => own >= minor,
        }
    }
}

/// A level at a version, as `restricted:latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    /// Level.
    pub level: Level,
    /// Version of its rules.
    pub version: Version,
}

impl LevelVersion {
    const PRIVILEGED: Self = Self { level: Level::Privileged, version: Version::Latest };

    /// Reads `baseline` or `baseline:v1.30`; without a version the newest rules count.
    pub fn parse(text: &str) -> Option<Self> {
        let (level, version) = text.split_once(':').unwrap_or((text, "latest"));
        Some(Self { level: Level::parse(level)?, version: Version::parse(version)? })
    }
}

impl std::fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.name()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What pods must keep to.
    pub enforce: LevelVersion,
    /// What violations of go to the audit log.
    pub audit: LevelVersion,
    /// What violations of are answered with a warning.
    pub warn: LevelVersion,
}

/// Nothing is asked for unless labels say so.
pub(super) const DEFAULT: Policy =
    Policy { enforce: LevelVersion::PRIVILEGED, audit: LevelVersion::PRIVILEGED, warn: LevelVersion::PRIVILEGED };

const PREFIX: &str = "pod-security.kubernetes.io/";

/// Reads the policy from a namespace's labels, starting from `default`. A label that cannot be read counts as the
/// strictest level where it is enforced, and is ignored otherwise.
pub(super) fn policy(labels: &Map<String, Value>, default: Policy) -> (Policy, FieldErrors) {
    let (mut policy, mut errors) = (default, FieldErrors::default());
    // every namespace has labels, and few have these
    if !labels.keys().any(|key| key.starts_with(PREFIX)) {
        return (policy, errors);
    }
    let modes = [
        ("enforce", &mut policy.enforce, Level::Restricted),
        ("audit", &mut policy.audit, Level::Privileged),
        ("warn", &mut policy.warn, Level::Privileged),
    ];
    for (mode, wanted, unreadable) in modes {
        let label = |suffix: &str| {
            let key = format!("{PREFIX}{mode}{suffix}");
            let value = labels.get(&key)?.as_str()?.to_owned();
            Some((key, value))
        };
        if let Some((key, value)) = label("") {
            wanted.level = Level::parse(&value).unwrap_or_else(|| {
                complain(&mut errors, &key, &value, "must be one of privileged, baseline, restricted");
                unreadable
            });
        }
        if let Some((key, value)) = label("-version") {
            wanted.version = Version::parse(&value).unwrap_or_else(|| {
                complain(&mut errors, &key, &value, "must be \"latest\" or \"v1.x\"");
                Version::Latest
            });
        }
    }
    (policy, errors)
}

fn complain(errors: &mut FieldErrors, key: &str, value: &str, rule: &str) {
    let metadata = Path::new("metadata");
    errors.invalid(&metadata.child("labels").key(key), value, rule);
}
