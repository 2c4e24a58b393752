//! One webhook of a configuration, decoded.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    admission::MatchConditions,
    matching::Matcher,
    outbound::{ClientConfig, ReviewVersion},
};

/// Time a webhook has when its configuration says nothing, which defaulting keeps from happening.
const TIMEOUT_SECONDS_DEFAULT: u64 = 10;

/// A webhook.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) configuration: Arc<str>,
    pub(crate) name: String,
    /// What has to hold besides.
    pub(crate) conditions: MatchConditions,
    /// How to reach it, or why that is impossible.
    pub(crate) client: Result<ClientConfig, String>,
    /// Which requests it wants to see.
    pub(crate) matcher: Matcher,
    /// Whether a request goes on when the webhook cannot be asked.
    pub(crate) fails_open: bool,
    /// Whether it may be asked about what will not be stored.
    pub(crate) takes_dry_run: bool,
    pub(crate) timeout: Duration,
    /// The newest version of reviews it and this server know.
    pub(super) version: Option<ReviewVersion>,
    /// Whether it wants to see again what others changed after it.
    pub(crate) reinvoked: bool,
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
        Self {
            configuration: configuration.clone(),
            name: text("name").to_owned(),
            client: ClientConfig::decode(&webhook["clientConfig"]).map_err(|error| error.to_string()),
            matcher: Matcher::of_webhook(webhook),
            conditions: MatchConditions::compile(&webhook["matchConditions"], false),
            fails_open: text("failurePolicy") == "Ignore",
            takes_dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS_DEFAULT)),
            version: words(&webhook["admissionReviewVersions"]).iter().find_map(|name| ReviewVersion::parse(name)),
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
        }
    }
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
