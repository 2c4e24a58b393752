//! What becomes of a Gateway and its ListenerSets.

use std::net::IpAddr;

use jiff::Timestamp;
use kinds::gateway::{self, GatewayAddress, GatewayStatus, ListenerSetStatus, ListenerStatus, RouteGroupKind};
use reconcile::Key;

use super::{Bound, addresses, conditions};
use crate::{
    controller::{
        core::Core,
        listeners::{GatewayPlan, ListenerId, ListenerPlan, SetPlan, Source},
        lookup::key_of,
        verdict::{Fault, Verdict},
    },
    server::Bindings,
};

/// What is told about a Gateway.
pub(crate) struct Told {
    pub(crate) status: GatewayStatus,
    pub(crate) sets: Vec<(Key, ListenerSetStatus)>,
    /// What deserves an event.
    pub(crate) warnings: Vec<String>,
}

/// What a status depends on besides its own plan.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) core: &'a Core,
    /// The addresses that all Gateways share.
    pub(crate) shared: &'a [IpAddr],
    pub(crate) bindings: &'a Bindings,
    pub(crate) now: Timestamp,
}

/// What is told about a Gateway; `None` while a port was not tried yet. `known` are the statuses that are there, the second
/// by the ListenerSet's name.
pub(crate) fn gateway(
    scene: Scene<'_>,
    key: &Key,
    known: &GatewayStatus,
    known_sets: &dyn Fn(&Key) -> ListenerSetStatus,
) -> Option<Told> {
    let Scene { core, shared, bindings, now } = scene;
    let plan = core.gateway(key)?;
    let generation = plan.gateway.metadata.generation;
    let mut warnings = Vec::new();
    let (mut listeners, mut valid, mut programmed) = (Vec::new(), 0, false);
    let mut sites = Vec::new();
    for listener in plan.listeners.iter().filter(|listener| listener.source == Source::Gateway) {
        let told = listener_status(scene, key, listener, &known.listeners, generation)?;
        valid += usize::from(listener.is_valid());
        programmed |= told.programmed;
        warnings.extend(told.warning);
        listeners.push(told.status);
    }
    for listener in &plan.listeners {
        sites.extend(core.served(key, &listener.source, &listener.listener.name));
    }
    let mut sets = Vec::new();
    let mut attached = 0;
    let accepted = accepted(plan, valid, listeners.len());
    for set in &plan.sets {
        let of = key_of(&set.set.metadata);
        let known = known_sets(&of);
        let (status, is_attached) = set_status(scene, key, plan, set, &known, accepted.holds)?;
        programmed |= is_attached;
        attached += i32::from(is_attached);
        sets.push((of, status));
    }
    let open = addresses(sites.into_iter(), shared, bindings);
    let announced = match &plan.located.only {
        Some(only) => only.iter().copied().filter(|address| open.is_empty() || open.contains(address)).collect(),
        None => open,
    };
    let programmed = programmed_verdict(plan, &accepted, programmed);
    let verdicts = gateway_verdicts(plan, accepted, programmed);
    let address = |ip: IpAddr| GatewayAddress { type_: Some("IPAddress".to_owned()), value: ip.to_string() };
    let status = GatewayStatus {
        addresses: announced.into_iter().map(address).collect(),
        conditions: conditions(&known.conditions, &verdicts, generation, now),
        listeners,
        attached_listener_sets: (attached > 0 || known.attached_listener_sets.is_some()).then_some(attached),
    };
    Some(Told { status, sets, warnings })
}

fn accepted(plan: &GatewayPlan, valid: usize, all: usize) -> Verdict {
    if let Err(fault) = &plan.accepted {
        return Verdict::no("Accepted", fault.reason, fault.message.clone());
    }
    if valid == all {
        return Verdict::yes("Accepted", "Accepted");
    }
    let message = format!("{} of {all} listeners are not valid", all - valid);
    Verdict { holds: valid > 0, ..Verdict::no("Accepted", "ListenersNotValid", message) }
}

fn programmed_verdict(plan: &GatewayPlan, accepted: &Verdict, programmed: bool) -> Verdict {
    if let Err(fault) = &plan.located.usable {
        return Verdict::no("Programmed", fault.reason, fault.message.clone());
    }
    if !accepted.holds {
        return Verdict::no("Programmed", "Invalid", "the Gateway is not valid");
    }
    match programmed {
        true => Verdict::yes("Programmed", "Programmed"),
        false => Verdict::no("Programmed", "Invalid", "no listener is open"),
    }
}

fn gateway_verdicts(plan: &GatewayPlan, accepted: Verdict, programmed: Verdict) -> Vec<Verdict> {
    let mut verdicts = vec![accepted, programmed];
    if let Some(identity) = &plan.identity {
        let identity = identity.as_ref().map(|_| ()).map_err(Clone::clone);
        verdicts.push(Verdict::of("ResolvedRefs", "ResolvedRefs", identity));
    }
    if plan.insecure {
        let message = "clients without a valid certificate are served";
        let verdict = Verdict::yes("InsecureFrontendValidationMode", "ConfigurationChanged");
        verdicts.push(Verdict { message: message.to_owned(), ..verdict });
    }
    verdicts
}

struct ListenerTold {
    status: ListenerStatus,
    programmed: bool,
    warning: Option<String>,
}

fn listener_status(
    Scene { core, shared, bindings, now }: Scene<'_>,
    gateway: &Key,
    listener: &ListenerPlan,
    known: &[ListenerStatus],
    generation: Option<i64>,
) -> Option<ListenerTold> {
    let name = &listener.listener.name;
    let sites = core.served(gateway, &listener.source, name);
    let bound = Bound::all(&sites, shared, bindings);
    if bound.pending {
        return None;
    }
    let verdicts = listener_verdicts(listener, &bound, sites.is_empty());
    let programmed = verdicts.iter().any(|verdict| verdict.type_ == "Programmed" && verdict.holds);
    let warning = (!bound.failed.is_empty()).then(|| format!("listener {name}: {}", bound.message()));
    let before = known.iter().find(|known| known.name == *name);
    let before = before.map(|known| known.conditions.as_slice()).unwrap_or_default();
    let id = ListenerId { gateway: gateway.clone(), source: listener.source.clone(), name: name.clone() };
    let kind = |kind: &str| RouteGroupKind { group: Some(gateway::GROUP.to_owned()), kind: kind.to_owned() };
    let status = ListenerStatus {
        name: name.clone(),
        supported_kinds: listener.kinds.iter().map(|of| kind(of.name())).collect(),
        attached_routes: i32::try_from(core.attached(&id)).unwrap_or(i32::MAX),
        conditions: conditions(before, &verdicts, generation, now),
    };
    Some(ListenerTold { status, programmed, warning })
}

fn listener_verdicts(listener: &ListenerPlan, bound: &Bound, unserved: bool) -> Vec<Verdict> {
    let taken = bound.open.is_empty() && !bound.failed.is_empty();
    let accepted = match (&listener.protocol, &listener.distinct, &listener.clients) {
        (Err(fault), ..) => Err(fault.clone()),
        // The reason of the conflict is that of the condition below; a ListenerSet's entry says here already that it is one.
        (_, Err(fault), _) => {
            let reason = if listener.source == Source::Gateway { "Invalid" } else { "Conflicted" };
            Err(Fault::new(reason, fault.message.clone()))
        }
        (.., Err(fault)) => Err(fault.clone()),
        (Ok(_), Ok(()), Ok(())) if taken => Err(Fault::new("PortUnavailable", bound.message())),
        (Ok(_), Ok(()), Ok(())) => Ok(()),
    };
    let programmed = if accepted.is_err() || listener.config.is_none() {
        Verdict::no("Programmed", "Invalid", "the listener is not valid")
    } else if unserved {
        Verdict::no("Programmed", "Invalid", "another Gateway has the port")
    } else {
        Verdict { message: bound.message(), ..Verdict::yes("Programmed", "Programmed") }
    };
    let conflicted = match &listener.distinct {
        Ok(()) => Verdict::no("Conflicted", "NoConflicts", ""),
        Err(fault) => Verdict { message: fault.message.clone(), ..Verdict::yes("Conflicted", fault.reason) },
    };
    let references = listener.references.first().cloned().map_or(Ok(()), Err);
    let mut verdicts = vec![
        Verdict::of("Accepted", "Accepted", accepted),
        programmed,
        conflicted,
        Verdict::of("ResolvedRefs", "ResolvedRefs", references),
    ];
    if listener.overlapping {
        let message = "another listener of the port has a hostname in common";
        let verdict = Verdict::yes("OverlappingTLSConfig", "OverlappingHostnames");
        verdicts.push(Verdict { message: message.to_owned(), ..verdict });
    }
    verdicts
}

/// A ListenerSet's status, and whether it is attached.
fn set_status(
    scene: Scene<'_>,
    key: &Key,
    plan: &GatewayPlan,
    set: &SetPlan,
    known: &ListenerSetStatus,
    parent_accepted: bool,
) -> Option<(ListenerSetStatus, bool)> {
    let generation = set.set.metadata.generation;
    let source = Source::Set(key_of(&set.set.metadata));
    let (mut listeners, mut valid, mut programmed) = (Vec::new(), 0, false);
    for listener in plan.listeners.iter().filter(|listener| listener.source == source) {
        let told = listener_status(scene, key, listener, &known.listeners, generation)?;
        // A set needs a listener that can serve: one whose references lead nowhere adds nothing to the Gateway.
        valid += usize::from(listener.is_valid() && listener.config.is_some());
        programmed |= told.programmed;
        listeners.push(told.status);
    }
    let own_listeners = plan.gateway.spec.listeners.is_empty();
    let both = |reason, message: &str| ["Accepted", "Programmed"].map(|type_| Verdict::no(type_, reason, message));
    let verdicts = if !set.allowed {
        both("NotAllowed", "the Gateway does not allow listeners from this ListenerSet")
    } else if plan.accepted.is_err() || !parent_accepted && !own_listeners {
        let message = "the Gateway is not accepted";
        [
            Verdict::no("Accepted", "ParentNotAccepted", message),
            Verdict::no("Programmed", "ParentNotProgrammed", message),
        ]
    } else if valid == 0 {
        both("ListenersNotValid", "no listener is valid")
    } else {
        let accepted = match listeners.len() - valid {
            0 => Verdict::yes("Accepted", "Accepted"),
            bad => {
                let message = format!("{bad} of {} listeners are not valid", listeners.len());
                Verdict { message, ..Verdict::yes("Accepted", "ListenersNotValid") }
            }
        };
        let programmed = match programmed {
            true => Verdict::yes("Programmed", "Programmed"),
            false => Verdict::no("Programmed", "Invalid", "no listener is open"),
        };
        [accepted, programmed]
    };
    let attached = verdicts[0].holds;
    let conditions = conditions(&known.conditions, &verdicts, generation, scene.now);
    Some((ListenerSetStatus { conditions, listeners }, attached))
}
