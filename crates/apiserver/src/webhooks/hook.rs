//! One webhook of a configuration, decoded.

use std::{sync::Arc, time::Duration};

use schema::selector::LabelSelector;
use serde_json::Value;

use super::review::Version;
use crate::outbound::ClientConfig;

/// Time a webhook has when its configuration says nothing, which defaulting keeps from happening.
const TIMEOUT_SECONDS_DEFAULT: u64 = 10;

/// A webhook.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) configuration: Arc<str>,
    pub(crate) name: String,
    /// How to reach it, or why that is impossible.
    pub(crate) client: Result<ClientConfig, String>,
    pub(super) rules: Vec<Rule>,
    /// Whether a request goes on when the webhook cannot be asked.
    pub(crate) fails_open: bool,
    /// Whether rules are also tried against other versions of the request's resource.
    pub(super) equivalent: bool,
    pub(super) namespaces: LabelSelector,
    pub(super) objects: LabelSelector,
    /// Whether it may be asked about what will not be stored.
    pub(crate) takes_dry_run: bool,
    pub(crate) timeout: Duration,
    /// The newest version of reviews it and this server know.
    pub(super) version: Option<Version>,
    /// Whether it wants to see again what others changed after it.
    pub(crate) reinvoked: bool,
}

/// What a webhook wants to see.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) operations: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) versions: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) scope: Scope,
}

/// Where a rule's objects live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Any,
    Namespaced,
    Cluster,
}

impl Hook {
    /// The webhooks of a configuration.
    pub(super) fn decode_all(name: &str, configuration: &Value) -> Vec<Arc<Self>> {
        let name: Arc<str> = name.into();
        let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
        webhooks.map(|webhook| Arc::new(Self::decode(&name, webhook))).collect()
    }

    fn decode(configuration: &Arc<str>, webhook: &Value) -> Self {
        let text = |field: &str| webhook[field].as_str().unwrap_or_default();
        // what is stored has been validated; a selector that cannot be read selects nothing
        let selector = |field: &str| match &webhook[field] {
            Value::Null => LabelSelector::everything(),
            selector => LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        Self {
            configuration: configuration.clone(),
            name: text("name").to_owned(),
            client: ClientConfig::decode(&webhook["clientConfig"]).map_err(|error| error.to_string()),
            rules: webhook["rules"].as_array().into_iter().flatten().map(Rule::decode).collect(),
            fails_open: text("failurePolicy") == "Ignore",
            equivalent: text("matchPolicy") != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            takes_dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS_DEFAULT)),
            version: words(&webhook["admissionReviewVersions"]).iter().find_map(|name| Version::parse(name)),
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
        }
    }
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    fn decode(rule: &Value) -> Self {
        Self {
            operations: words(&rule["operations"]),
            groups: words(&rule["apiGroups"]),
            versions: words(&rule["apiVersions"]),
            resources: words(&rule["resources"]),
            scope: match rule["scope"].as_str() {
                Some("Namespaced") => Scope::Namespaced,
                Some("Cluster") => Scope::Cluster,
                _ => Scope::Any,
            },
        }
    }
}
