//! Bootstrap tokens: Secrets of their own type in `kube-system`, named after the token's public half.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::BootstrapToken;
use jiff::Timestamp;
use serde_json::Value;
use store::Snapshot;
use strategy::{
    tree,
    user::{GROUP_AUTHENTICATED, User},
};

use crate::{codec, meta};

/// Type of the Secrets.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group every such token is in.
const GROUP: &str = "system:bootstrappers";
/// Longest name of a further group after its prefix, as upstream.
const GROUP_CHARACTERS_MAX: usize = 256;

/// The user a token stands for; `None` when there is no such token, or it may not be used.
pub(super) fn authenticate(token: BootstrapToken<'_>, snapshot: &Snapshot, now: Timestamp) -> Option<User> {
    let stored = snapshot.get("core/secrets", &format!("kube-system/bootstrap-token-{}", token.id))?;
    let secret = codec::stored(&stored.bytes).ok()?;
    match groups(&secret, token, now) {
        Ok(groups) => {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            Some(User::new(format!("system:bootstrap:{}", token.id), &groups))
        }
        Err(why) => {
            tracing::debug!(id = token.id, why, "a bootstrap token was refused");
            None
        }
    }
}

/// The groups of a token, when the Secret is this token's and lets it be used to authenticate.
fn groups(secret: &Value, token: BootstrapToken<'_>, now: Timestamp) -> Result<Vec<String>, &'static str> {
    let data = |key: &str| {
        let bytes = STANDARD.decode(tree::text_at(secret, &["data", key])).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if tree::text(secret, "type") != SECRET_TYPE {
        return Err("the secret is of another type");
    }
    if meta::is_terminating(secret) {
        return Err("the secret is being deleted");
    }
    if !token.has_secret(data("token-secret").as_bytes()) {
        return Err("the secret half differs");
    }
    if data("token-id") != token.id {
        return Err("the secret holds another token");
    }
    let expiration = data("expiration");
    // what cannot be read counts as over, to be safe
    if !expiration.is_empty() && !expiration.parse::<Timestamp>().is_ok_and(|at| at > now) {
        return Err("the token has expired");
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the token is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_group(group) {
            return Err("a further group is not named system:bootstrappers:…");
        }
        groups.push(group.to_owned());
    }
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Ok(groups)
}

/// `system:bootstrappers:` and then lower case letters, digits, dashes and colons, not ending in the latter two.
fn is_group(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=GROUP_CHARACTERS_MAX).contains(&rest.len())
        && rest.bytes().all(|byte| plain(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOKEN: BootstrapToken<'static> = BootstrapToken { id: "abcdef", secret: "0123456789abcdef" };

    fn secret(change: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let usual = [
            ("token-id", TOKEN.id),
            ("token-secret", TOKEN.secret),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
        ];
        for (key, value) in usual.iter().chain(change) {
            data[*key] = STANDARD.encode(value).into();
        }
        json!({"type": SECRET_TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    fn ask(change: &[(&str, &str)]) -> Result<Vec<String>, &'static str> {
        groups(&secret(change), TOKEN, "2026-11-22T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_is_in_its_groups() {
        assert_eq!(ask(&[]).unwrap(), ["system:bootstrappers", "system:authenticated"]);
        let more = ask(&[("auth-extra-groups", "system:bootstrappers:a:b,system:bootstrappers:c-d")]).unwrap();
        assert_eq!(more[1..3], ["system:bootstrappers:a:b", "system:bootstrappers:c-d"]);
    }

    #[test]
    fn a_token_that_may_not_be_used_is_refused_with_a_reason() {
        for (change, why) in [
            (("token-secret", "0123456789abcdeX"), "the secret half differs"),
            (("token-id", "fedcba"), "the secret holds another token"),
            (("expiration", "2026-11-21T23:59:59Z"), "the token has expired"),
            (("expiration", "tomorrow"), "the token has expired"),
            (("usage-bootstrap-authentication", "yes"), "the token is not for authentication"),
            (("auth-extra-groups", "system:masters"), "a further group is not named system:bootstrappers:…"),
            (("auth-extra-groups", "system:bootstrappers:a-"), "a further group is not named system:bootstrappers:…"),
        ] {
            assert_eq!(ask(&[change]), Err(why), "{change:?}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(groups(&other, TOKEN, Timestamp::UNIX_EPOCH).is_err());
    }
}
