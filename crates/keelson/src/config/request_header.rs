//! The settings of front proxies.

use std::path::PathBuf;

use apiserver::RequestHeaderConfig;
use http::HeaderName;

use super::{Values, path};

/// Front proxies as the settings describe them; their authorities are still in their file.
#[derive(Clone, Debug)]
pub(crate) struct RequestHeader {
    /// Whom they may speak for, and how they say it.
    pub headers: RequestHeaderConfig,
    /// Where their authorities are; `None` takes those of the data directory.
    pub client_ca_file: Option<PathBuf>,
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// Header names, of which there must be `at_least` so many.
fn names(text: &str, at_least: usize) -> Option<Vec<String>> {
    let names: Vec<String> = words(text).collect();
    let valid = names.iter().all(|name| name.parse::<HeaderName>().is_ok());
    (valid && names.len() >= at_least).then_some(names)
}

/// Reads the settings.
pub(super) fn parse(values: &mut Values<'_>) -> RequestHeader {
    let mut list = |key: &str, at_least: usize| values.parsed(key, Vec::new(), |text| names(text, at_least));
    let headers = RequestHeaderConfig {
        username_headers: list("requestHeader.usernameHeaders", 1),
        uid_headers: list("requestHeader.uidHeaders", 0),
        group_headers: list("requestHeader.groupHeaders", 0),
        extra_header_prefixes: list("requestHeader.extraHeaderPrefixes", 0),
        allowed_names: words(values.text("requestHeader.allowedNames")).collect(),
    };
    RequestHeader { headers, client_ca_file: path(values.text("requestHeader.clientCaFile")) }
}
