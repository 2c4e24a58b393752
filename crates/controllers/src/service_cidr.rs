//! Keeps ServiceCIDRs ready while they are wanted, and there while addresses of them are in use.
//!
//! Every range is held by a finalizer. A range that is being deleted goes once every address in it belongs to another range
//! too, and a grace period is over in which servers hear of the deletion and stop giving its addresses out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use reconcile::{Change, Informer, Queue, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long servers may take to hear that a range is on its way out; as upstream.
const DELETION_GRACE: Duration = Duration::from_secs(10);
/// Ranges handled at once: there are few, and they seldom change.
const WORKERS: usize = 1;

/// What is to be done about a range.
#[derive(Debug, PartialEq)]
enum Step {
    /// All is as it should be.
    Nothing,
    /// Hold it by the finalizer.
    Hold,
    /// Say whether it is ready.
    Report(Condition),
    /// Look again later.
    Wait(Duration),
    /// Let it go.
    Release,
}

/// The `Ready` condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const READY: Condition = Condition { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const IN_USE: Condition = Condition {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

#[derive(Clone)]
struct Ranges {
    context: Context,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let ranges = context.informers.of::<ServiceCIDR>();
    let addresses = context.informers.of::<IPAddress>();
    let informers = async { ranges.synced().await && addresses.synced().await };
    if !synced(&stop, informers).await {
        return;
    }
    let queue: Queue<String> = Queue::new();
    // a new range may free another one that is on its way out
    let all = ranges.clone();
    let from_ranges = feed(&ranges, &queue, move |change| {
        let mut names = leaving(&all);
        names.push(change.object().name_any());
        names
    });
    let all = ranges.clone();
    let from_addresses = feed(&addresses, &queue, move |change| match change {
        Change::Deleted(_) => leaving(&all),
        Change::Applied { .. } => Vec::new(),
    });
    let controller = Ranges { context, ranges: ranges.clone(), addresses: addresses.clone() };
    let run = run_controller("service-cidr", queue.clone(), WORKERS, stop, |name| {
        let controller = controller.clone();
        async move { controller.reconcile(&name).await }
    });
    run_with_feeds(run, futures::future::join(from_ranges, from_addresses)).await;
}

/// Names of the ranges that are being deleted.
fn leaving(ranges: &Informer<ServiceCIDR>) -> Vec<String> {
    let leaving = ranges.list().into_iter().filter(|range| range.metadata.deletion_timestamp.is_some());
    leaving.map(|range| range.name_any()).collect()
}

impl Ranges {
    async fn reconcile(&self, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let Some(range) = self.ranges.get("", name) else { return Ok(None) };
        let is_needed = || {
            let others: Vec<_> = self.ranges.list().into_iter().filter(|other| other.name_any() != name).collect();
            let names: Vec<String> = self.addresses.list().iter().map(|address| address.name_any()).collect();
            is_needed(&range, others.iter().map(|other| &**other), names.iter().map(String::as_str))
        };
        match decide(&range, is_needed, Timestamp::now()) {
            Step::Nothing => {}
            Step::Wait(time) => return Ok(Some(time)),
            Step::Hold => {
                let mut finalizers = range.finalizers().to_vec();
                finalizers.push(FINALIZER.to_owned());
                self.change(&range, json!({"metadata": {"finalizers": finalizers}})).await?;
            }
            Step::Release => {
                let left: Vec<&String> = range.finalizers().iter().filter(|held| *held != FINALIZER).collect();
                self.change(&range, json!({"metadata": {"finalizers": left}})).await?;
            }
            Step::Report(condition) => {
                let patch = Patch::Merge(json!({"status": {"conditions": [of(condition, Timestamp::now())]}}));
                let api = self.context.api_all::<ServiceCIDR>();
                let told = api.patch_status(name, &PatchParams::default(), &patch).await;
                gone_is_done(told).map_err(failed("report on", name))?;
            }
        }
        Ok(None)
    }

    async fn change(&self, range: &ServiceCIDR, mut patch: Value) -> Result<(), ReconcileError> {
        let name = range.name_any();
        patch["metadata"]["uid"] = json!(range.uid());
        patch["metadata"]["resourceVersion"] = json!(range.resource_version());
        let api = self.context.api_all::<ServiceCIDR>();
        let changed = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_done(changed).map_err(failed("change", &name))
    }
}

fn of(condition: Condition, now: Timestamp) -> Value {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"type": "Ready", "status": condition.status, "reason": condition.reason, "message": condition.message,
        "lastTransitionTime": now})
}

/// Decides; whether addresses need the range is looked at only when it is to go.
fn decide(range: &ServiceCIDR, is_needed: impl FnOnce() -> bool, now: Timestamp) -> Step {
    let is_held = range.finalizers().iter().any(|held| held == FINALIZER);
    let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut said = conditions.filter(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str());
    let said = said.next();
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        return match said {
            _ if !is_held => Step::Hold,
            Some("True") => Step::Nothing,
            _ => Step::Report(READY),
        };
    };
    if !is_held {
        return Step::Nothing;
    }
    if is_needed() {
        return if said == Some("False") { Step::Nothing } else { Step::Report(IN_USE) };
    }
    let gone_for = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    match DELETION_GRACE.checked_sub(gone_for) {
        Some(left) if !left.is_zero() => Step::Wait(left),
        _ => Step::Release,
    }
}

/// Whether there are addresses in the range that no other range which stays contains.
fn is_needed<'a>(
    range: &ServiceCIDR,
    others: impl Iterator<Item = &'a ServiceCIDR>,
    addresses: impl Iterator<Item = &'a str>,
) -> bool {
    let staying = others.filter(|other| other.metadata.deletion_timestamp.is_none());
    let kept: Vec<Prefix> = staying.flat_map(prefixes).collect();
    let own: Vec<Prefix> = prefixes(range).collect();
    let contains = |prefixes: &[Prefix], address: IpAddr| prefixes.iter().any(|prefix| prefix.contains(address));
    let mut known = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    known.any(|address| contains(&own, address) && !contains(&kept, address))
}

/// Whether an address is in one of the ranges.
pub(crate) fn is_in_any(ranges: &[Arc<ServiceCIDR>], address: IpAddr) -> bool {
    ranges.iter().flat_map(|range| prefixes(range)).any(|prefix| prefix.contains(address))
}

#[derive(Clone, Copy)]
struct Prefix {
    network: IpAddr,
    length: u32,
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = Prefix> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| {
        let (network, length) = cidr.split_once('/')?;
        Some(Prefix { network: network.parse().ok()?, length: length.parse().ok()? })
    })
}

impl Prefix {
    fn contains(self, address: IpAddr) -> bool {
        let differs = match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits() ^ address.to_bits()).checked_shr(32_u32.saturating_sub(self.length)).unwrap_or(0)
                    != 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits() ^ address.to_bits()).checked_shr(128_u32.saturating_sub(self.length)).unwrap_or(0)
                    != 0
            }
            _ => true,
        };
        !differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(metadata: Value, cidrs: &[&str], ready: &str) -> ServiceCIDR {
        let status = match ready {
            "" => json!({}),
            ready => json!({"conditions": [{"type": "Ready", "status": ready, "reason": "", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}),
        };
        serde_json::from_value(json!({"metadata": metadata, "spec": {"cidrs": cidrs}, "status": status})).unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_range_is_held_and_ready() {
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(decide(&range(json!({}), &[], ""), || false, now), Step::Hold);
        let held = json!({"finalizers": [FINALIZER]});
        assert_eq!(decide(&range(held.clone(), &[], ""), || false, now), Step::Report(READY));
        assert_eq!(decide(&range(held, &[], "True"), || false, now), Step::Nothing);
    }

    #[test]
    fn a_range_that_is_needed_stays_and_another_one_goes_after_a_while() {
        let leaving = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let soon = at("2026-01-01T00:00:04Z");
        assert_eq!(decide(&range(leaving.clone(), &[], "True"), || true, soon), Step::Report(IN_USE));
        assert_eq!(decide(&range(leaving.clone(), &[], "False"), || true, soon), Step::Nothing);
        let wait = Step::Wait(Duration::from_secs(6));
        assert_eq!(decide(&range(leaving.clone(), &[], "True"), || false, soon), wait);
        assert_eq!(decide(&range(leaving, &[], "True"), || false, at("2026-01-01T00:01:00Z")), Step::Release);
    }

    #[test]
    fn an_address_needs_a_range_that_no_other_one_stands_in_for() {
        let own = range(json!({"name": "a"}), &["10.1.0.0/24", "fd00::/120"], "");
        let wider = range(json!({"name": "b"}), &["10.1.0.0/16"], "");
        let leaving = range(json!({"name": "c", "deletionTimestamp": "2026-01-01T00:00:00Z"}), &["10.1.0.0/16"], "");
        let needed =
            |others: &[&ServiceCIDR], address: &str| is_needed(&own, others.iter().copied(), std::iter::once(address));
        assert!(needed(&[], "10.1.0.9") && needed(&[&leaving], "10.1.0.9") && needed(&[&wider], "fd00::9"));
        assert!(!needed(&[&wider], "10.1.0.9") && !needed(&[], "10.1.1.9") && !needed(&[], "fd00::1:9"));
    }
}
