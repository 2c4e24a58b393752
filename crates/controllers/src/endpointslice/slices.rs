//! From wanted endpoints and existing slices to the fewest writes.
//!
//! A slice that changes costs every reader of the service the whole slice. So endpoints stay in the slice where they are;
//! new ones go into slices that change anyway, then into the one other slice that they fill best, and only then into new
//! slices.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use super::endpoints::{Group, families};
use super::{HEADLESS, MANAGED_BY, MANAGER, SERVICE_NAME, TRIGGER_TIME, has_address};
use crate::owners;

/// Endpoints per slice, upstream's default: a changed endpoint rewrites its slice only.
pub(super) const ENDPOINTS_MAX: usize = 100;

/// One write of a slice.
#[derive(Debug)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// What is to become of a service's slices of one address family.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) address_type: String,
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    pub(super) unchanged: Vec<Arc<EndpointSlice>>,
    pub(super) counts: Counts,
}

/// How many endpoints came and went, and how well they fill their slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) endpoints: usize,
    pub(super) slices: usize,
    /// The fewest slices in which the endpoints have room.
    pub(super) slices_min: usize,
}

/// What all slices of a service have in common.
struct Outline<'a> {
    service: &'a Service,
    labels: BTreeMap<String, String>,
    owner: OwnerReference,
}

/// Decides on the slices of one service, family by family. Slices of families that it does not have any more are in the
/// last plan.
pub(super) fn decide(service: &Service, groups: Vec<Group>, existing: &[Arc<EndpointSlice>]) -> Vec<Plan> {
    let outline = Outline { service, labels: labels(service), owner: owners::controller_reference(service) };
    let mut left: Vec<&Arc<EndpointSlice>> =
        existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    let mut groups = groups;
    let mut plans = Vec::new();
    for family in families(service) {
        let (mine, others) = left.into_iter().partition(|slice| slice.address_type == family);
        left = others;
        let (wanted, later) = groups.into_iter().partition(|group| group.address_type == family);
        groups = later;
        plans.push(outline.family(family, wanted, mine));
    }
    if !left.is_empty() {
        plans.push(Plan { delete: left.into_iter().map(Arc::clone).collect(), ..Plan::default() });
    }
    plans
}

impl Outline<'_> {
    fn family(&self, family: &str, groups: Vec<Group>, existing: Vec<&Arc<EndpointSlice>>) -> Plan {
        let mut plan = Plan { address_type: family.to_owned(), ..Plan::default() };
        let number = existing.len();
        // those of an earlier service of this name are being collected
        let (mut left, foreign): (Vec<_>, Vec<_>) = existing.into_iter().partition(|slice| self.owns(slice));
        plan.delete.extend(foreign.into_iter().map(Arc::clone));
        for group in groups {
            let (mine, others) = left.into_iter().partition(|slice| same_ports(slice, &group.ports));
            left = others;
            self.fill(&mut plan, group, mine);
        }
        plan.delete.extend(left.into_iter().map(Arc::clone));
        if plan.create.is_empty() && plan.delete.len() == number {
            // a service without endpoints still has one slice, by which readers know that it has none
            let empty = self.slice(family, Vec::new(), Vec::new());
            match &plan.delete[..] {
                [only] if self.owns(only) && is_alike(only, &empty) => plan.unchanged.append(&mut plan.delete),
                _ => plan.create.push(empty),
            }
            plan.counts.slices += 1;
            plan.counts.slices_min += 1;
        }
        plan
    }

    fn owns(&self, slice: &EndpointSlice) -> bool {
        let owners = slice.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| {
            owner.uid == self.owner.uid && owner.kind == self.owner.kind && owner.api_version == self.owner.api_version
        })
    }

    fn slice(&self, family: &str, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            metadata: kube::core::ObjectMeta {
                generate_name: Some(format!("{}-", self.service.name_any())),
                namespace: self.service.namespace(),
                labels: Some(self.labels.clone()),
                owner_references: Some(vec![self.owner.clone()]),
                ..Default::default()
            },
            address_type: family.to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports),
        }
    }

    /// Distributes the group's endpoints over its slices.
    fn fill(&self, plan: &mut Plan, group: Group, existing: Vec<&Arc<EndpointSlice>>) {
        let before = existing.len();
        let deleted = plan.delete.len();
        let created = plan.create.len();
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        let mut new = self.keep(plan, &group.endpoints, existing, &mut changed, &mut unchanged);
        plan.counts.added += new.len();
        // the fullest first
        changed.sort_by_key(|kept| std::cmp::Reverse(kept.endpoints.len()));
        for kept in &mut changed {
            let room = ENDPOINTS_MAX.saturating_sub(kept.endpoints.len()).min(new.len());
            kept.endpoints.extend(new.drain(..room));
        }
        let of = |endpoints: &[usize]| endpoints.iter().map(|at| group.endpoints[*at].clone()).collect();
        while !new.is_empty() {
            if let Some(mut kept) = best(&mut unchanged, new.len()) {
                kept.endpoints.append(&mut new);
                changed.push(kept);
            } else {
                let chunk: Vec<usize> = new.drain(..ENDPOINTS_MAX.min(new.len())).collect();
                plan.create.push(self.slice(&group.address_type, group.ports.clone(), of(&chunk)));
            }
        }
        for kept in changed {
            let mut metadata = kept.slice.metadata.clone();
            metadata.labels = Some(self.labels.clone());
            plan.update.push(EndpointSlice {
                metadata,
                address_type: group.address_type.clone(),
                endpoints: Some(of(&kept.endpoints)),
                ports: Some(group.ports.clone()),
            });
        }
        plan.unchanged.extend(unchanged.into_iter().map(|kept| Arc::clone(kept.slice)));
        plan.counts.endpoints += group.endpoints.len();
        plan.counts.slices += before + (plan.create.len() - created) - (plan.delete.len() - deleted);
        plan.counts.slices_min += group.endpoints.len().div_ceil(ENDPOINTS_MAX);
    }

    /// Parts the slices into those that change and those that do not, and gives the endpoints that are in none of them.
    fn keep<'a>(
        &self,
        plan: &mut Plan,
        endpoints: &[Endpoint],
        existing: Vec<&'a Arc<EndpointSlice>>,
        changed: &mut Vec<Kept<'a>>,
        unchanged: &mut Vec<Kept<'a>>,
    ) -> Vec<usize> {
        let places: HashMap<_, usize> = endpoints.iter().enumerate().map(|(at, one)| (identity(one), at)).collect();
        let mut is_placed = vec![false; endpoints.len()];
        for slice in existing {
            let old = slice.endpoints.as_deref().unwrap_or_default();
            let (mut stay, mut differs) = (Vec::with_capacity(old.len()), false);
            for endpoint in old {
                let Some(at) = places.get(&identity(endpoint)).copied().filter(|at| !is_placed[*at]) else { continue };
                is_placed[at] = true;
                differs |= !same_but_hints(endpoint, &endpoints[at]);
                stay.push(at);
            }
            let is_shorter = stay.len() < old.len();
            plan.counts.removed += old.len() - stay.len();
            let kept = Kept { slice, endpoints: stay };
            if is_shorter && kept.endpoints.is_empty() {
                plan.delete.push(Arc::clone(slice));
            } else if is_shorter || differs || slice.labels() != &self.labels {
                changed.push(kept);
            } else {
                unchanged.push(kept);
            }
        }
        // of two endpoints with one identity the later one is meant
        let is_meant = |at: &usize| places.get(&identity(&endpoints[*at])) == Some(at);
        (0..endpoints.len()).filter(|at| !is_placed[*at]).filter(is_meant).collect()
    }
}

/// A slice, and which of the wanted endpoints are in it.
struct Kept<'a> {
    slice: &'a Arc<EndpointSlice>,
    endpoints: Vec<usize>,
}

/// Takes out the slice that so many more endpoints fill best, if they have room in one.
fn best<'a>(unchanged: &mut Vec<Kept<'a>>, more: usize) -> Option<Kept<'a>> {
    let room = |kept: &Kept<'_>| ENDPOINTS_MAX.checked_sub(kept.endpoints.len() + more);
    let fitting = unchanged.iter().enumerate().filter_map(|(at, kept)| Some((room(kept)?, at)));
    let (_, at) = fitting.min()?;
    Some(unchanged.swap_remove(at))
}

/// Who an endpoint is, whatever its state: a changed state changes it in place.
fn identity(endpoint: &Endpoint) -> (Option<&str>, Option<&str>) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    (uid, endpoint.addresses.first().map(String::as_str))
}

/// Hints are given after everything else is known.
fn same_but_hints(old: &Endpoint, new: &Endpoint) -> bool {
    old.conditions == new.conditions
        && old.node_name == new.node_name
        && old.zone == new.zone
        && old.hostname == new.hostname
        && old.addresses == new.addresses
        && old.target_ref == new.target_ref
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    slice.ports.as_deref().unwrap_or_default() == ports
}

/// Whether a slice says what the placeholder says.
fn is_alike(slice: &EndpointSlice, empty: &EndpointSlice) -> bool {
    same_ports(slice, &[]) && slice.endpoints.as_ref().is_none_or(Vec::is_empty) && slice.labels() == empty.labels()
}

impl Plan {
    /// The slices that are written, whatever is done with them.
    pub(super) fn written(&mut self) -> impl Iterator<Item = &mut EndpointSlice> {
        self.create.iter_mut().chain(&mut self.update)
    }

    /// How many slices change.
    pub(super) fn changes(&self) -> usize {
        self.create.len() + self.update.len() + self.delete.len()
    }

    /// The writes, in order. What is created takes the place of what is deleted, as far as there is any. `trigger` is when
    /// that happened which they answer.
    pub(super) fn writes(mut self, service: &Service, trigger: Option<&str>) -> Vec<Write> {
        let uid = service.metadata.uid.as_deref();
        let is_own = |slice: &EndpointSlice| {
            slice.metadata.owner_references.iter().flatten().any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let mut delete = Vec::new();
        for old in mem::take(&mut self.delete) {
            let is_reused = old.address_type == self.address_type && is_own(&old);
            match self.create.pop_if(|_| is_reused) {
                Some(mut new) => {
                    new.metadata = kube::core::ObjectMeta { labels: new.metadata.labels, ..old.metadata.clone() };
                    self.update.push(new);
                }
                None => delete.push(old),
            }
        }
        if service.metadata.deletion_timestamp.is_some() {
            // a new one would race with the garbage collector
            self.create.clear();
        }
        for slice in self.written() {
            set_trigger(&mut slice.metadata, trigger);
        }
        let create = self.create.into_iter().map(|slice| Write::Create(Box::new(slice)));
        let update = self.update.into_iter().map(|slice| Write::Update(Box::new(slice)));
        create.chain(update).chain(delete.into_iter().map(Write::Delete)).collect()
    }
}

/// Says what an object's change answers; without anything to say, what was said before goes.
pub(crate) fn set_trigger(metadata: &mut kube::core::ObjectMeta, trigger: Option<&str>) {
    match trigger {
        Some(time) => {
            metadata.annotations.get_or_insert_default().insert(TRIGGER_TIME.to_owned(), time.to_owned());
        }
        None => {
            if let Some(annotations) = &mut metadata.annotations {
                annotations.remove(TRIGGER_TIME);
            }
        }
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_address(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}
