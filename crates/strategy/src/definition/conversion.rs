//! How objects are converted between versions.

use serde_json::Value;

use super::SPEC;
use crate::{
    field_error::{FieldErrors, Path},
    names::dns_1035,
    tree::{at, flag, list, some, text},
    webhooks::check_client,
};

/// Versions of ConversionReview that the server speaks.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

pub(super) fn check(spec: &Value, errors: &mut FieldErrors) {
    let Some(conversion) = some(spec, "conversion") else { return };
    let path = SPEC.child("conversion");
    let webhook = some(conversion, "webhook");
    let client = at(conversion, &["webhook", "clientConfig"]);
    // errors name the fields as the API has them internally
    let (client_path, versions_path) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    match text(conversion, "strategy") {
        "Webhook" => {
            if flag(spec, "preserveUnknownFields") {
                let rule = "must be None if spec.preserveUnknownFields is true";
                errors.invalid(&path.child("strategy"), "Webhook", rule);
            }
            match client {
                None => errors.required(&client_path, "required when strategy is set to Webhook"),
                Some(client) => check_client(client, &client_path, errors),
            }
            let versions = list(webhook.unwrap_or(&Value::Null), "conversionReviewVersions");
            check_review_versions(versions, &versions_path, errors);
        }
        "None" => {
            let rule = "should not be set when strategy is not set to Webhook";
            if client.is_some() {
                errors.forbidden(&client_path, rule);
            }
            if webhook.is_some_and(|webhook| !list(webhook, "conversionReviewVersions").is_empty()) {
                errors.forbidden(&versions_path, rule);
            }
        }
        "" => errors.required(&path.child("strategy"), ""),
        strategy => errors.not_supported(&path.child("strategy"), strategy, &["None", "Webhook"]),
    }
}

fn check_review_versions(versions: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    if versions.is_empty() {
        return errors.required(path, "");
    }
    for (index, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if versions[..index].contains(version) {
            errors.invalid(&path.index(index), name, "duplicate version");
        } else if let Some(message) = dns_1035(name) {
            errors.invalid(&path.index(index), name, message);
        }
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.iter().any(|known| version == known)) {
        let rule = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path, versions.to_vec(), rule);
    }
}
