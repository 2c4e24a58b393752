//! Service-account tokens bound to a pod, requested again before they expire.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, Client, api::PostParams};

/// Upstream's default of `expirationSeconds`.
const EXPIRATION_SECONDS: i64 = 3600;
/// A token older than this is renewed whatever its life time.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// A token and when to ask for the next.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) renew_at: Timestamp,
}

/// The token for `wanted`: the one in the file while it is young enough, else a new one.
pub(crate) async fn token(
    client: &Client,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
    file: &Path,
    now: Timestamp,
) -> Result<Token, kube::Error> {
    if let Ok(text) = tokio::fs::read_to_string(file).await
        && let Some(renew_at) = renewal(&text)
        && renew_at > now
    {
        return Ok(Token { text, renew_at });
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(EXPIRATION_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    let text = answer.status.and_then(|status| status.token).unwrap_or_default();
    let renew_at = renewal(&text).unwrap_or(now + SignedDuration::from_mins(10));
    Ok(Token { text, renew_at })
}

/// When a token is due: after four fifths of its life, at most a day. `None` when it is not a JWT with times.
fn renewal(token: &str) -> Option<Timestamp> {
    let claims = URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let issued = claims.get("iat")?.as_i64()?;
    let expires = claims.get("exp")?.as_i64()?;
    let issued = Timestamp::from_second(issued).ok()?;
    let life = Timestamp::from_second(expires).ok()?.duration_since(issued);
    issued.checked_add((life * 4 / 5).min(AGE_MAX)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn tokens_are_renewed_after_four_fifths_of_their_life_or_a_day() {
        let due = |text: &str| renewal(text).map(Timestamp::as_second);
        assert_eq!(due(&jwt(r#"{"iat":1000,"exp":4600}"#)), Some(3880));
        assert_eq!(due(&jwt(r#"{"iat":0,"exp":31536000}"#)), Some(86_400));
        assert_eq!(due(&jwt(r#"{"exp":1}"#)), None);
        assert_eq!(due("opaque"), None);
    }
}
