//! The exchange with one webhook: a review out, a ruling back.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::{
    hook::Hook,
    review::{self, Sent},
};
use crate::{outbound::Outbound, status::ApiError};

/// What a webhook that allows the request wants.
#[derive(Debug, Default)]
pub(crate) struct Ruling {
    /// A JSON patch with at least one operation.
    pub(crate) patch: Option<Value>,
    pub(crate) warnings: Vec<String>,
    pub(crate) annotations: Vec<(String, String)>,
}

/// Why a webhook does not let a request pass.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be asked or answered nonsense: the failure policy decides. The code is what metrics know it by.
    Call(String, u16),
    /// It refused. What it had to say besides comes along.
    Refused(ApiError, Ruling),
    /// It cannot be asked about such a request, or what it wants cannot be done.
    Internal(ApiError),
}

impl Failure {
    /// What a request that cannot go on is answered with.
    pub(crate) fn into_error(self) -> ApiError {
        match self {
            Self::Call(why, _) => ApiError::internal(why),
            Self::Refused(error, _) | Self::Internal(error) => error,
        }
    }
}

/// Asks a webhook, which has no more than `timeout`.
pub(crate) async fn ask(
    outbound: &Outbound,
    hook: &Hook,
    sent: &Sent<'_>,
    mutating: bool,
    timeout: Duration,
) -> Result<Ruling, Failure> {
    let name = &hook.name;
    let coded = |why: String, code| Failure::Call(format!("failed calling webhook {name:?}: {why}"), code);
    let failed = |why: String| coded(why, 503);
    if sent.request.dry_run && !hook.takes_dry_run {
        let why = format!("admission webhook {name:?} does not support dry run");
        return Err(Failure::Internal(ApiError::bad_request(why)));
    }
    let Some(version) = hook.version else {
        let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(coded(format!("could not create admission objects: {why}"), 400));
    };
    let client = hook.client.as_ref().map_err(|why| coded(format!("could not get REST client: {why}"), 400))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let body = review::encode(version, &uid, sent).map_err(|error| failed(error.to_string()))?;
    let limit = timeout.min(hook.timeout);
    // rounded up, as the webhook must not believe it has less than it has
    let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    let url = format!("{}?timeout={seconds}s", client.url());
    let called = |why: String| failed(format!("failed to call webhook: {why}"));
    let posted = outbound.post(client, &url, body, limit).await;
    let (status, bytes) = posted.map_err(|error| called(format!("Post {url:?}: {error}")))?;
    if !status.is_success() {
        let why = format!("failed to call webhook: {}", refused_exchange(status, &bytes));
        return Err(coded(why, status.as_u16()));
    }
    let answer: Value = serde_json::from_slice(&bytes)
        .map_err(|error| called(format!("couldn't get version/kind; json parse error: {error}")))?;
    let decision = review::decode(version, &uid, mutating, &answer)
        .map_err(|why| failed(format!("received invalid webhook response: {why}")))?;
    let mut ruling = Ruling { patch: None, warnings: decision.warnings, annotations: decision.annotations };
    if !decision.allowed {
        return Err(Failure::Refused(review::refusal(name, &decision.status), ruling));
    }
    if let Some(patch) = decision.patch {
        match serde_json::from_slice::<Value>(&patch) {
            Ok(patch) => {
                ruling.patch = Some(patch).filter(|patch| patch.as_array().is_none_or(|list| !list.is_empty()))
            }
            Err(error) => return Err(Failure::Internal(ApiError::internal(error))),
        }
    }
    Ok(ruling)
}

/// What an HTTP answer that is no success says, as Go's client of the API words it.
fn refused_exchange(status: StatusCode, body: &[u8]) -> String {
    if let Ok(answer) = serde_json::from_slice::<Value>(body)
        && answer["kind"] == "Status"
        && let Some(message) = answer["message"].as_str()
    {
        return message.to_owned();
    }
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .into()
        }
        500.. => {
            let text = String::from_utf8_lossy(body);
            format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim())
        }
        code => format!("the server responded with the status code {code} but did not return more information"),
    }
}
