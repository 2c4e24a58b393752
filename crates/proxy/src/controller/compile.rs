//! From the cluster's objects to a table and to what is said about them. Pure: everything comes in as arguments.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::networking::v1::Ingress;
use kinds::gateway::GatewayClass;

use super::{
    gateways::{self, GatewayPlan},
    ingresses,
    routes::{self, RouteReport},
    verdict::Verdict,
    world::{Lookup, World},
};
use crate::routing::RouteTable;

/// Who serves a GatewayClass of ours.
pub(crate) const CONTROLLER_NAME: &str = "keelson.dev/gateway";

/// The outcome of a compilation.
pub(crate) struct Plan {
    pub(crate) table: RouteTable,
    pub(crate) classes: Vec<(Arc<GatewayClass>, Verdict)>,
    pub(crate) gateways: Vec<GatewayPlan>,
    pub(crate) routes: Vec<RouteReport>,
    pub(crate) ingresses: Vec<Arc<Ingress>>,
}

/// Compiles everything. Its cost grows with the number of routes, which is why endpoints are kept out of it.
pub(crate) fn compile(mut world: World, lookup: &dyn Lookup) -> Plan {
    world.sort();
    let classes: Vec<_> = world.classes.iter().filter(|c| c.spec.controller_name == CONTROLLER_NAME).collect();
    let classes: Vec<_> = classes.into_iter().map(|class| (Arc::clone(class), class_verdict(class))).collect();
    let accepted: HashSet<&str> =
        classes.iter().filter(|(_, v)| v.holds).filter_map(|(c, _)| c.metadata.name.as_deref()).collect();
    let mut ports = BTreeMap::new();
    let mut gateways = gateways::plan(&world, lookup, &|class| accepted.contains(class), &mut ports);
    let routes = routes::attach(&world, lookup, &mut gateways, &mut ports);
    let ingresses = ingresses::attach(&world, lookup, &mut ports);
    Plan { table: RouteTable::new(ports), gateways, routes, ingresses, classes }
}

fn class_verdict(class: &GatewayClass) -> Verdict {
    match &class.spec.parameters_ref {
        None => Verdict::yes("Accepted", "Accepted"),
        Some(reference) => {
            let message =
                format!("parametersRef {} {}: this controller has no parameters", reference.kind, reference.name);
            Verdict::no("Accepted", "InvalidParameters", message)
        }
    }
}
