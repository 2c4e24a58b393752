//! VirtualServices: rules for requests to Services, tried in their own order.

use std::{collections::BTreeSet, sync::Arc};

use http::StatusCode;
use k8s_openapi::api::core::v1::Service;
use kinds::istio::{HTTPRule, VirtualService};
use reconcile::Key;

use super::service_of;
use crate::{
    controller::{
        attach::Placement,
        backends::ports,
        lookup::{Seen, key_of, namespace, rank},
        services::is_opaque,
        verdict::Fault,
    },
    routing::{Action, Entry, Frontend, Owner, Rank, RequestMatch, Rule},
};

mod actions;
mod conditions;

/// What VirtualServices name when they mean the traffic between workloads.
const MESH: &str = "mesh";

/// A compiled VirtualService.
pub(crate) struct VirtualPlan {
    /// Its rules, by place in the table.
    pub(crate) placements: Vec<Placement>,
    /// The Services that it refers to.
    pub(crate) services: BTreeSet<Key>,
    /// What of it is not followed.
    pub(crate) wrong: Vec<String>,
}

/// Whose the rules of a VirtualService are.
pub(crate) fn owner(key: &Key) -> Owner {
    Owner { kind: "VirtualService", name: key.to_string().into() }
}

/// Compiles a VirtualService.
pub(crate) fn plan(seen: &Seen<'_>, object: &VirtualService) -> VirtualPlan {
    let mut plan = VirtualPlan { placements: Vec::new(), services: BTreeSet::new(), wrong: Vec::new() };
    let spec = &object.spec;
    plan.wrong.extend(spec.rest.keys().map(|name| format!("{name} is not followed")));
    plan.wrong.extend(
        spec.gateways
            .iter()
            .filter(|name| *name != MESH)
            .map(|name| format!("gateway {name:?} is not followed: use an HTTPRoute, or Gateway API's Gateway")),
    );
    if spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH) {
        for host in &spec.hosts {
            if let Err(fault) = place(seen, object, host, &mut plan) {
                plan.wrong.push(fault.message);
            }
        }
    }
    plan.services = seen.services();
    plan.wrong.sort_unstable();
    plan.wrong.dedup();
    plan
}

/// Puts the rules where clients of a host find them.
fn place(seen: &Seen<'_>, object: &VirtualService, host: &str, plan: &mut VirtualPlan) -> Result<(), Fault> {
    let own = namespace(&object.metadata);
    let missing = |message: String| Fault::new("UnsupportedValue", message);
    let key = service_of(host, own).ok_or_else(|| missing(format!("host {host:?} is no Service")))?;
    let service = seen.service(&key).ok_or_else(|| missing(format!("host {host:?}: Service {key} not found")))?;
    let clients = clients(object, &key, &mut plan.wrong);
    let compiler = Compiler { seen, object, own, owner: owner(&key_of(&object.metadata)) };
    for number in http_ports(&service) {
        let mut entries = Vec::new();
        for (order, rule) in object.spec.http.iter().enumerate() {
            compiler.rule((order, rule), number, &mut entries, &mut plan.wrong);
        }
        for client in &clients {
            let frontend = Frontend::new(&key.to_string(), number, client.as_deref()).in_order();
            plan.placements.extend(entries.iter().map(|entry| Placement::Service(frontend.clone(), Arc::clone(entry))));
        }
    }
    Ok(())
}

/// The namespaces whose clients it is for; `None` for all.
fn clients(object: &VirtualService, service: &Key, wrong: &mut Vec<String>) -> Vec<Option<String>> {
    let own = namespace(&object.metadata);
    let export = &object.spec.export_to;
    let everybody = export.is_empty() || export.iter().any(|to| to == "*");
    if own != service.namespace {
        if !everybody && !export.iter().any(|to| to == "." || to == own) {
            wrong.push(format!("exportTo: of a Service of another namespace it is only for clients in {own}"));
        }
        return vec![Some(own.to_owned())];
    }
    if everybody {
        return vec![None];
    }
    export.iter().map(|to| Some(if to == "." { own } else { to }.to_owned())).collect()
}

/// The ports that may carry HTTP.
pub(super) fn http_ports(service: &Service) -> impl Iterator<Item = u16> {
    let fitting = ports(service).filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP" && !is_opaque(port));
    fitting.filter_map(|port| u16::try_from(port.port).ok())
}

/// What rules are compiled with.
struct Compiler<'a> {
    seen: &'a Seen<'a>,
    object: &'a VirtualService,
    own: &'a str,
    owner: Owner,
}

impl Compiler<'_> {
    /// Adds what a rule says of one port: an entry per condition, because a rewrite depends on what was matched.
    fn rule(
        &self,
        (order, from): (usize, &HTTPRule),
        port: u16,
        entries: &mut Vec<Arc<Entry>>,
        wrong: &mut Vec<String>,
    ) {
        let path = match &from.name {
            Some(name) => format!("http[{order}] ({name})"),
            None => format!("http[{order}]"),
        };
        let conditions = match conditions::compile(&from.matches, port, from.rewrite.as_ref()) {
            Ok(conditions) => conditions,
            Err(faults) => {
                wrong.extend(faults.told.into_iter().map(|told| format!("{path}.match: {told}")));
                faults.rest
            }
        };
        for (index, (condition, whole_path)) in conditions.into_iter().enumerate() {
            let rule = self.action(&path, from, (port, whole_path), wrong);
            let rule = rule.unwrap_or_else(|fault| {
                wrong.push(format!("{path}: {}", fault.message));
                Rule::new(self.owner.clone(), Action::Fail(StatusCode::INTERNAL_SERVER_ERROR))
            });
            let name = from.name.as_deref().map(Into::into);
            let rank = Rank { order: (order, index), ..rank(&self.object.metadata) };
            entries.push(Arc::new(Entry::new(condition, rank, Arc::new(Rule { name, ..rule }))));
        }
    }
}

/// A condition, and whether a rewrite replaces the whole path.
type Condition = (RequestMatch, bool);
