//! The status of Istio's kinds: whether an object is followed, and what of it is not.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString};
use kinds::istio::{IstioCondition, IstioStatus, Rest};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::controller;

/// The condition's type.
const ACCEPTED: &str = "Accepted";

/// The status of an object after it was looked at: what others say in it stays.
pub(crate) fn of(
    known: Option<&IstioStatus>,
    wrong: &[String],
    generation: Option<i64>,
    now: Timestamp,
) -> IstioStatus {
    let mut status = known.cloned().unwrap_or_default();
    let before = status.conditions.iter().find(|condition| condition.type_ == ACCEPTED).cloned();
    status.conditions.retain(|condition| condition.type_ != ACCEPTED);
    let (holds, reason) = if wrong.is_empty() { ("True", "Accepted") } else { ("False", "UnsupportedValue") };
    let since = before.filter(|before| before.status == holds).and_then(|before| before.last_transition_time);
    status.conditions.push(IstioCondition {
        type_: ACCEPTED.to_owned(),
        status: holds.to_owned(),
        reason: Some(reason.to_owned()),
        message: (!wrong.is_empty()).then(|| wrong.join("; ")),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: generation.map(number),
        rest: Rest::new(),
    });
    status
}

/// A generation as Istio's kinds write it.
fn number(generation: i64) -> IntOrString {
    i32::try_from(generation).map_or_else(|_| IntOrString::String(generation.to_string()), IntOrString::Int)
}

/// Writes a status that differs from the one that is there.
pub(crate) async fn write<K>(
    api: &Api<K>,
    object: &K,
    known: Option<&IstioStatus>,
    status: &IstioStatus,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    if known == Some(status) {
        return Ok(());
    }
    controller::patch(api, object, known, status).await
}
