//! What everything amounts to, item by item: a change compiles what it concerns, and nothing else.
//!
//! Every item remembers what it was compiled from ([`Dependency`]); a change of one thing therefore finds the items to
//! compile again without a search. Nothing here waits or writes: the table and the verdicts are taken out by others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use kinds::gateway::PolicyStatus;
use reconcile::Key;

use super::{
    CONTROLLER_NAME,
    addresses::Addresses,
    attach::{self, Offers, Placement, RoutePlan},
    attachment::{self, Attachments, PolicyId, Target, TargetKind},
    declared::{self, DeclaredPlan},
    ingresses::{self, IngressPlan},
    istio::{self, DestinationPlan, VirtualPlan},
    item::{Dependency, Item, RouteKind},
    listeners::{self, GatewayPlan, ListenerId, Offer, Source},
    lookup::{Lookup, Seen, key_of, namespace, rank},
    policies::{self, PolicyPlan, Spoken},
    rivals::Rivals,
    sites::{Claim, Sites},
    verdict::Verdict,
    view::gateway_of,
};
use crate::routing::{Owner, Rank, RouteTable, Site};

/// Everything compiled.
pub(crate) struct Core {
    table: RouteTable,
    addresses: Addresses,
    sites: Sites,
    classes: HashMap<String, Verdict>,
    gateways: HashMap<Key, GatewayPlan>,
    offers: Offers,
    routes: HashMap<(RouteKind, Key), RoutePlan>,
    rivals: Rivals,
    ingresses: HashMap<Key, IngressPlan>,
    policies: HashMap<Key, PolicyPlan>,
    declared: HashMap<Key, DeclaredPlan>,
    attachments: Attachments,
    /// How many routes each listener has.
    attached: HashMap<ListenerId, usize>,
    /// How each backend is spoken to, by Service and port.
    spoken: HashMap<Key, Vec<(i32, Spoken)>>,
    /// The Gateways that lead to each Service, and through how many routes.
    users: HashMap<Key, BTreeMap<Key, usize>>,
    virtual_services: HashMap<Key, VirtualPlan>,
    destination_rules: HashMap<Key, DestinationPlan>,
    /// Where requests to Services go that no route says anything of, but a DestinationRule does.
    destined: HashMap<Key, Vec<Placement>>,
    dependencies: HashMap<Item, BTreeSet<Dependency>>,
    dependents: HashMap<Dependency, BTreeSet<Item>>,
    /// Items whose status may have changed.
    told: BTreeSet<Item>,
}

impl Core {
    pub(crate) fn new(addresses: Addresses) -> Self {
        Core {
            table: RouteTable::default(),
            addresses,
            sites: Sites::default(),
            classes: HashMap::new(),
            gateways: HashMap::new(),
            offers: Offers::new(),
            routes: HashMap::new(),
            rivals: Rivals::default(),
            ingresses: HashMap::new(),
            policies: HashMap::new(),
            declared: HashMap::new(),
            attachments: Attachments::default(),
            attached: HashMap::new(),
            spoken: HashMap::new(),
            users: HashMap::new(),
            virtual_services: HashMap::new(),
            destination_rules: HashMap::new(),
            destined: HashMap::new(),
            dependencies: HashMap::new(),
            dependents: HashMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Keeps the addresses that Gateways had.
    pub(crate) fn reserve(&mut self, gateway: &kinds::gateway::Gateway) {
        self.addresses.reserve(gateway);
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> RouteTable {
        self.table.clone()
    }

    /// The items that were compiled from something.
    pub(crate) fn dependents(&self, dependency: &Dependency) -> Vec<Item> {
        self.dependents.get(dependency).into_iter().flatten().cloned().collect()
    }

    /// Takes the items whose status may have changed.
    pub(crate) fn take_told(&mut self) -> BTreeSet<Item> {
        std::mem::take(&mut self.told)
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Verdict> {
        self.classes.get(name)
    }

    pub(crate) fn gateway(&self, key: &Key) -> Option<&GatewayPlan> {
        self.gateways.get(key)
    }

    pub(crate) fn route(&self, kind: RouteKind, key: &Key) -> Option<&RoutePlan> {
        self.routes.get(&(kind, key.clone()))
    }

    pub(crate) fn declared(&self, key: &Key) -> Option<&DeclaredPlan> {
        self.declared.get(key)
    }

    pub(crate) fn policy(&self, key: &Key) -> Option<&PolicyPlan> {
        self.policies.get(key)
    }

    /// The status of a policy that attaches to Gateways and routes.
    pub(crate) fn attached_status(&self, id: &PolicyId, now: Timestamp) -> Option<PolicyStatus> {
        let gateway = |target: &Target| match target.kind {
            TargetKind::Gateway => self.gateways.get_key_value(&target.key),
            TargetKind::ListenerSet => {
                let has = |plan: &GatewayPlan| plan.sets.iter().any(|set| key_of(&set.set.metadata) == target.key);
                self.gateways.iter().find(|(_, plan)| has(plan))
            }
            TargetKind::Route(_) => None,
        };
        attachment::status(&self.attachments, id, &|target| gateway(target).map(|(key, plan)| (key.clone(), plan)), now)
    }

    pub(crate) fn ingress(&self, key: &Key) -> Option<&IngressPlan> {
        self.ingresses.get(key)
    }

    pub(crate) fn virtual_service(&self, key: &Key) -> Option<&VirtualPlan> {
        self.virtual_services.get(key)
    }

    pub(crate) fn destination_rule(&self, key: &Key) -> Option<&DestinationPlan> {
        self.destination_rules.get(key)
    }

    /// How many routes a listener has.
    pub(crate) fn attached(&self, id: &ListenerId) -> usize {
        self.attached.get(id).copied().unwrap_or(0)
    }

    /// The sites where a listener of a Gateway is served.
    pub(crate) fn served(&self, gateway: &Key, source: &Source, name: &str) -> Vec<Site> {
        let offers = self.offers.get(gateway).into_iter().flatten();
        let offer = { offers }.find(|offer| offer.source == *source && offer.name == name);
        offer.map(|offer| offer.sites.clone()).unwrap_or_default()
    }

    /// Compiles items, and everything that depends on what came out. The table is whole again afterwards.
    pub(crate) fn apply(&mut self, items: impl IntoIterator<Item = Item>, cluster: &dyn Lookup) {
        let mut todo: BTreeSet<Item> = items.into_iter().collect();
        while let Some(item) = todo.pop_first() {
            let seen = Seen::new(cluster);
            let again = match &item {
                Item::Class(name) => self.apply_class(name, cluster),
                Item::Declared(key) => self.apply_declared(key, &seen, cluster),
                Item::Attached(id) => self.apply_attached(id, &seen, cluster),
                Item::Gateway(key) => self.apply_gateway(key, &seen, cluster),
                Item::Route(kind, key) => self.apply_route(*kind, key, &seen, cluster),
                Item::Service(key) => self.apply_service(key, &seen, cluster),
                Item::Policy(key) => self.apply_policy(key, &seen, cluster),
                Item::Ingress(key) => self.apply_ingress(key, &seen, cluster),
                Item::Virtual(key) => self.apply_virtual(key, &seen, cluster),
                Item::Destination(key) => self.apply_destination(key, cluster),
            };
            self.depend(&item, seen.dependencies());
            self.told.insert(item);
            todo.extend(again);
        }
    }

    fn depend(&mut self, item: &Item, on: BTreeSet<Dependency>) {
        let before = match on.is_empty() {
            true => self.dependencies.remove(item).unwrap_or_default(),
            false => self.dependencies.insert(item.clone(), on.clone()).unwrap_or_default(),
        };
        for dependency in before.difference(&on) {
            if let Some(items) = self.dependents.get_mut(dependency) {
                items.remove(item);
                if items.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        for dependency in on.difference(&before) {
            self.dependents.entry(dependency.clone()).or_default().insert(item.clone());
        }
    }

    fn apply_class(&mut self, name: &str, cluster: &dyn Lookup) -> Vec<Item> {
        let class = cluster.class(name).filter(|class| class.spec.controller_name == CONTROLLER_NAME);
        let verdict = class.map(|class| match &class.spec.parameters_ref {
            None => Verdict::yes("Accepted", "Accepted"),
            Some(reference) => {
                let (kind, name) = (&reference.kind, &reference.name);
                let message = format!("parametersRef {kind} {name}: this controller has no parameters");
                Verdict::no("Accepted", "InvalidParameters", message)
            }
        });
        match verdict {
            Some(verdict) => self.classes.insert(name.to_owned(), verdict),
            None => self.classes.remove(name),
        };
        self.dependents(&Dependency::Class(name.to_owned()))
    }

    fn apply_gateway(&mut self, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let gateway = cluster.gateway(key);
        let mut plan = gateway.as_ref().and_then(|gateway| listeners::plan(seen, gateway, &mut self.addresses));
        if plan.is_none() {
            self.addresses.release(key);
        }
        let told = attachment::attach(&mut self.attachments, seen, key, self.gateways.get(key), plan.as_mut());
        self.told.extend(told.into_iter().map(Item::Attached));
        let claims = plan.as_ref().map(|plan| claims(key, plan)).unwrap_or_default();
        match plan {
            Some(plan) => self.gateways.insert(key.clone(), plan),
            None => self.gateways.remove(key),
        };
        let owner = Item::Gateway(key.clone());
        let mut changed = self.sites.claim(&owner, claims, &mut self.table);
        changed.insert(owner);
        let mut again = self.regranted(changed);
        // Those whose policies only change what they would inherit.
        again.extend(self.dependents(&Dependency::Inherited(key.clone())));
        again
    }

    /// Offers anew what was granted to others, or no more; gives back what has to follow.
    fn regranted(&mut self, owners: BTreeSet<Item>) -> Vec<Item> {
        let mut again = Vec::new();
        for owner in owners {
            let Item::Gateway(key) = &owner else {
                again.push(owner);
                continue;
            };
            let offers = self.gateways.get(key).map(|plan| offers(key, plan, &self.sites));
            if self.offers.get(key) == offers.as_ref() {
                continue;
            }
            match offers {
                Some(offers) => self.offers.insert(key.clone(), offers),
                None => self.offers.remove(key),
            };
            again.extend(self.dependents(&Dependency::Offers(key.clone())));
            self.told.insert(owner);
        }
        again
    }

    fn apply_route(&mut self, kind: RouteKind, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let plan = cluster
            .route(kind, key)
            .map(|route| attach::plan(seen, route, &self.offers, &self.rivals, &self.attachments));
        let before = match plan {
            Some(plan) => self.routes.insert((kind, key.clone()), plan),
            None => self.routes.remove(&(kind, key.clone())),
        };
        let owner = kind.owner(key);
        let now = self.routes.get(&(kind, key.clone()));
        let (rank, candidates) = now.map(|plan| (rank(plan.route.meta()), plan.candidates.clone())).unwrap_or_default();
        let mut again = self.rivals.replace(kind, key, rank, candidates);
        self.tell_policies(&Target::new(TargetKind::Route(kind), key), before.as_ref());
        if let Some(before) = before {
            remove(&mut self.table, &before.placements, &owner);
            for id in &before.attached {
                self.count(id, false);
            }
            self.use_services(&before, false, &mut again);
        }
        if let Some(plan) = self.routes.remove(&(kind, key.clone())) {
            insert(&mut self.table, &plan.placements);
            for id in &plan.attached {
                self.count(id, true);
            }
            self.use_services(&plan, true, &mut again);
            self.routes.insert((kind, key.clone()), plan);
        }
        again
    }

    /// Remembers what became of the policies about a route, and for which routes those of its Gateways do not count.
    fn tell_policies(&mut self, target: &Target, before: Option<&RoutePlan>) {
        let TargetKind::Route(kind) = target.kind else { return };
        let now = self.routes.get(&(kind, target.key.clone()));
        let ids = before.map(|before| before.policies.ids()).unwrap_or_default();
        let told = now.map(|now| now.policies.told.clone()).unwrap_or_default();
        let kinds = |plan: Option<&RoutePlan>| plan.map(|plan| plan.policies.kinds()).unwrap_or_default();
        let at = |plan: Option<&RoutePlan>| plan.map(|plan| plan.attached.clone()).unwrap_or_default();
        let (had, has) = ((kinds(before), at(before)), (kinds(now), at(now)));
        let changed = self.attachments.report(target, &ids, told);
        self.told.extend(changed.into_iter().map(Item::Attached));
        if had == has || had.0.is_empty() && has.0.is_empty() {
            return;
        }
        let name = target.key.to_string();
        for ((kinds, at), counts) in [(&had, false), (&has, true)] {
            for listener in at {
                self.attachments.overriding.count(listener, kinds, &name, counts);
            }
        }
        let gateways: BTreeSet<_> = had.1.iter().chain(&has.1).map(|id| &id.gateway).collect();
        for (key, plan) in gateways.into_iter().filter_map(|key| Some((key, self.gateways.get(key)?))) {
            let policies = attachment::all(key, plan).into_iter().flat_map(|(_, settled)| settled.ids());
            self.told.extend(policies.map(Item::Attached));
        }
    }

    fn count(&mut self, id: &ListenerId, more: bool) {
        let count = self.attached.entry(id.clone()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.attached.remove(id);
        }
        self.told.insert(Item::Gateway(id.gateway.clone()));
    }

    /// Remembers through which Gateways a Service is reached, which is what a policy about it is told about.
    fn use_services(&mut self, plan: &RoutePlan, more: bool, again: &mut Vec<Item>) {
        let gateways: BTreeSet<_> = plan.attached.iter().map(|id| &id.gateway).collect();
        for service in &plan.services {
            let users = self.users.entry(service.clone()).or_default();
            for gateway in &gateways {
                let count = users.entry((*gateway).clone()).or_default();
                *count = if more { *count + 1 } else { count.saturating_sub(1) };
            }
            users.retain(|_, count| *count > 0);
            if users.is_empty() {
                self.users.remove(service);
            }
            again.push(Item::Service(service.clone()));
            again.extend(self.dependents(&Dependency::Users(service.clone())));
        }
    }

    fn apply_service(&mut self, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        if let Some(before) = self.destined.remove(key) {
            remove(&mut self.table, &before, &istio::otherwise_owner(key));
        }
        let destined = istio::otherwise(seen, key);
        if !destined.is_empty() {
            insert(&mut self.table, &destined);
            self.destined.insert(key.clone(), destined);
        }
        let backends = cluster.backends(key);
        if backends.is_empty() {
            self.spoken.remove(key);
            return Vec::new();
        }
        let numbers: Vec<_> = backends.iter().map(|(number, _)| *number).collect();
        let upstreams = istio::upstreams(seen, key, &numbers).unwrap_or_default();
        for (number, backend) in &backends {
            let upstream = upstreams.iter().find(|(of, _)| of == number);
            backend.set_upstream(upstream.map(|(_, upstream)| Arc::clone(upstream)));
        }
        let spoken = policies::spoken(seen, key, &numbers);
        let before = self.spoken.insert(key.clone(), spoken.clone()).unwrap_or_default();
        for (number, spoken) in spoken {
            if !before.contains(&(number, spoken.clone()))
                && let Some((_, backend)) = backends.iter().find(|(of, _)| *of == number)
            {
                backend.set_wire(spoken.wire());
            }
        }
        Vec::new()
    }

    fn apply_declared(&mut self, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let plan = cluster.declared(key).map(|object| declared::plan(seen, object));
        cluster.declarations().put(key, plan.as_ref());
        match plan {
            Some(plan) => self.declared.insert(key.clone(), plan),
            None => self.declared.remove(key),
        };
        Vec::new()
    }

    fn apply_policy(&mut self, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let users = |service: &Key| self.users.get(service).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        let plan = cluster.policy(key).map(|policy| policies::plan(seen, policy, &users));
        match plan {
            Some(plan) => self.policies.insert(key.clone(), plan),
            None => self.policies.remove(key),
        };
        Vec::new()
    }

    /// Compiles a policy by itself; those that it is about follow.
    fn apply_attached(&mut self, id: &PolicyId, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let now = cluster.attached(id).map(|policy| {
            let effect = policy.compile(seen);
            (policy, effect)
        });
        let before = self.attachments.replace(id, now);
        let mut targets = BTreeSet::new();
        for attached in before.iter().chain(self.attachments.get(id)) {
            targets.extend(attachment::named(&*attached.policy));
            if attached.policy.targets().target_selectors.is_empty() {
                continue;
            }
            // Only a policy with selectors has to look for what it is about.
            let chosen = |target: &Target, labels| Attachments::may_select(&*attached.policy, target, labels);
            let routes = self.routes.iter().map(|((kind, key), plan)| {
                (Target::new(TargetKind::Route(*kind), key), plan.route.meta().labels.as_ref())
            });
            let gateways = self.gateways.iter().flat_map(|(key, plan)| attachment::targets(key, plan));
            targets.extend(
                routes.chain(gateways).filter(|(target, labels)| chosen(target, *labels)).map(|(target, _)| target),
            );
        }
        let again = targets.into_iter().filter_map(|Target { kind, key }| match kind {
            TargetKind::Gateway => Some(Item::Gateway(key)),
            TargetKind::ListenerSet => cluster.set(&key).map(|set| Item::Gateway(gateway_of(&set))),
            TargetKind::Route(kind) => Some(Item::Route(kind, key)),
        });
        again.chain(seen.services().into_iter().map(Item::Service)).collect()
    }

    fn apply_virtual(&mut self, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let before = self.virtual_services.remove(key);
        if let Some(before) = &before {
            remove(&mut self.table, &before.placements, &istio::owner(key));
        }
        let mut services: BTreeSet<_> = before.into_iter().flat_map(|before| before.services).collect();
        if let Some(object) = cluster.virtual_service(key) {
            let plan = istio::plan(seen, &object);
            insert(&mut self.table, &plan.placements);
            services.extend(plan.services.iter().cloned());
            self.virtual_services.insert(key.clone(), plan);
        }
        services.into_iter().map(Item::Service).collect()
    }

    fn apply_destination(&mut self, key: &Key, cluster: &dyn Lookup) -> Vec<Item> {
        let plan = cluster.destination_rule(key).map(|rule| DestinationPlan::of(&rule));
        let now = plan.as_ref().and_then(|plan| plan.service.clone());
        let before = match plan {
            Some(plan) => self.destination_rules.insert(key.clone(), plan),
            None => self.destination_rules.remove(key),
        };
        let services: BTreeSet<_> = before.and_then(|before| before.service).into_iter().chain(now).collect();
        let mut again = Vec::new();
        for service in services {
            again.extend(self.dependents(&Dependency::Destinations(service.clone())));
            again.push(Item::Service(service));
        }
        again
    }

    fn apply_ingress(&mut self, key: &Key, seen: &Seen<'_>, cluster: &dyn Lookup) -> Vec<Item> {
        let owner = Item::Ingress(key.clone());
        let before = self.ingresses.remove(key);
        if let Some(before) = &before {
            remove(&mut self.table, &before.placements, &ingresses::owner(key));
        }
        let compiled = cluster.ingress(key).and_then(|ingress| ingresses::plan(seen, ingress, before.as_ref()));
        let (plan, claims) = compiled.unzip();
        let mut changed = self.sites.claim(&owner, claims.unwrap_or_default(), &mut self.table);
        changed.remove(&owner);
        let mut again = self.regranted(changed);
        if let Some(mut plan) = plan {
            let sites = &self.sites;
            let leading = plan.leading;
            plan.retain(|site, name| {
                let grant = (owner.clone(), Source::Gateway, name.to_owned());
                if leading && site.port == ingresses::PORTS.1 {
                    return sites.is_leading(site, &grant);
                }
                sites.is_granted(site, &grant)
            });
            insert(&mut self.table, &plan.placements);
            again.extend(plan.services.iter().cloned().map(Item::Service));
            self.ingresses.insert(key.clone(), plan);
        }
        again
    }
}

fn insert(table: &mut RouteTable, placements: &[Placement]) {
    for placement in placements {
        match placement {
            Placement::Request(spot, entry) => table.insert(spot, Arc::clone(entry)),
            Placement::Stream(spot, rank, rule) => table.insert_stream(spot, rank.clone(), Arc::clone(rule)),
            Placement::Service(frontend, entry) => table.insert_service(frontend, Arc::clone(entry)),
            Placement::ServiceStream(frontend, rank, rule) => {
                table.insert_service_stream(frontend, rank.clone(), Arc::clone(rule));
            }
        }
    }
}

fn remove(table: &mut RouteTable, placements: &[Placement], owner: &Owner) {
    for placement in placements {
        match placement {
            Placement::Request(spot, entry) => table.remove(spot, &entry.condition.path, owner),
            Placement::Stream(spot, ..) => table.remove_stream(spot, owner),
            Placement::Service(frontend, entry) => table.remove_service(frontend, &entry.condition.path, owner),
            Placement::ServiceStream(frontend, ..) => table.remove_service_stream(frontend, owner),
        }
    }
}

/// What a Gateway wants to serve where.
fn claims(key: &Key, plan: &GatewayPlan) -> BTreeMap<Site, Vec<Claim>> {
    let mut claims: BTreeMap<Site, Vec<Claim>> = BTreeMap::new();
    let rank = rank(&plan.gateway.metadata);
    for (order, listener) in plan.listeners.iter().enumerate() {
        let (Some(config), Ok(protocol)) = (&listener.config, &listener.protocol) else { continue };
        let claim = Claim {
            rank: Rank { order: (order, 0), ..rank.clone() },
            owner: Item::Gateway(key.clone()),
            source: listener.source.clone(),
            name: listener.listener.name.clone(),
            protocol: *protocol,
            config: config.clone(),
        };
        for site in listener.sites(&plan.located.places) {
            claims.entry(site).or_default().push(claim.clone());
        }
    }
    claims
}

/// What a Gateway offers to routes, now that it is known what it may serve.
fn offers(key: &Key, plan: &GatewayPlan, sites: &Sites) -> Vec<Offer> {
    let owner = Item::Gateway(key.clone());
    let offers = plan.listeners.iter().map(|listener| {
        let grant = (owner.clone(), listener.source.clone(), listener.listener.name.clone());
        let own = match &listener.source {
            Source::Gateway => namespace(&plan.gateway.metadata).to_owned(),
            Source::Set(set) => set.namespace.clone(),
        };
        let wanted = listener.sites(&plan.located.places).into_iter();
        Offer {
            source: listener.source.clone(),
            name: listener.listener.name.clone(),
            port: listener.port,
            protocol: listener.protocol.as_ref().ok().copied(),
            hostname: listener.hostname().map(str::to_owned),
            kinds: listener.kinds.clone(),
            namespaces: listener.listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.clone()),
            own,
            sites: wanted.filter(|site| sites.is_granted(*site, &grant)).collect(),
            inherited: Arc::clone(&listener.inherited),
        }
    });
    offers.collect()
}
