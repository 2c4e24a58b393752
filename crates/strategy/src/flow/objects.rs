//! The FlowSchemas and PriorityLevelConfigurations of every cluster: the two mandatory ones of each kind, whose fixed
//! specs are restored when they are changed, and the suggested ones, which follow this version as long as nobody has
//! made them their own.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// Collection of the FlowSchemas.
pub const SCHEMAS: &str = "flowcontrol.apiserver.k8s.io/flowschemas";
/// Collection of the PriorityLevelConfigurations.
pub const LEVELS: &str = "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations";
/// The name that both kinds use for what is not limited.
pub const EXEMPT: &str = "exempt";
/// The name that both kinds use for what takes the rest.
pub const CATCH_ALL: &str = "catch-all";

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Says whether a suggested object follows the server's version.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// What requests a row of [`schemas`] is about.
#[derive(Clone, Copy)]
enum About {
    Everything,
    /// Health checks.
    Probes,
    /// A node's own health: its Node and its Lease.
    NodeHealth,
    Leases,
}

struct SchemaRow {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    /// `ByUser`, `ByNamespace`, or none.
    distinguisher: &'static str,
    users: &'static [&'static str],
    groups: &'static [&'static str],
    /// Whether the accounts of kube-system belong to it.
    system_accounts: bool,
    about: About,
}

const EVERYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];

const fn row(name: &'static str, level: &'static str, precedence: i64, distinguisher: &'static str) -> SchemaRow {
    SchemaRow {
        name,
        level,
        precedence,
        distinguisher,
        users: &[],
        groups: &[],
        system_accounts: false,
        about: About::Everything,
    }
}

const SCHEMA_ROWS: [SchemaRow; 12] = [
    SchemaRow { groups: &["system:masters"], ..row(EXEMPT, EXEMPT, 1, "") },
    SchemaRow { groups: EVERYBODY, about: About::Probes, ..row("probes", EXEMPT, 2, "") },
    SchemaRow {
        users: &["system:kube-controller-manager", "system:kube-scheduler"],
        system_accounts: true,
        about: About::Leases,
        ..row("system-leader-election", "leader-election", 100, "ByUser")
    },
    SchemaRow {
        system_accounts: true,
        about: About::Leases,
        ..row("workload-leader-election", "leader-election", 200, "ByUser")
    },
    SchemaRow {
        groups: &["system:nodes"],
        about: About::NodeHealth,
        ..row("system-node-high", "node-high", 400, "ByUser")
    },
    SchemaRow { groups: &["system:nodes"], ..row("system-nodes", "system", 500, "ByUser") },
    SchemaRow {
        users: &["system:kube-controller-manager"],
        ..row("kube-controller-manager", "workload-high", 800, "ByNamespace")
    },
    SchemaRow { users: &["system:kube-scheduler"], ..row("kube-scheduler", "workload-high", 800, "ByNamespace") },
    SchemaRow { system_accounts: true, ..row("kube-system-service-accounts", "workload-high", 900, "ByNamespace") },
    SchemaRow { groups: &["system:serviceaccounts"], ..row("service-accounts", "workload-low", 9000, "ByUser") },
    SchemaRow { groups: EVERYBODY, ..row("global-default", "global-default", 9900, "ByUser") },
    SchemaRow { groups: EVERYBODY, ..row(CATCH_ALL, CATCH_ALL, 10_000, "ByUser") },
];

/// Name, nominal shares, percentage that may be lent, and number of queues (none: refuse) with their hand.
type LevelRow = (&'static str, u32, u32, Option<(u32, u32)>);

const LEVEL_ROWS: [LevelRow; 7] = [
    (CATCH_ALL, 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];
/// Requests one queue of the levels above holds.
const QUEUE_LENGTH_MAX: u32 = 50;

impl SchemaRow {
    fn object(&self) -> Value {
        let user = |name: &&str| json!({"kind": "User", "user": {"name": name}});
        let group = |name: &&str| json!({"kind": "Group", "group": {"name": name}});
        let mut subjects: Vec<Value> = self.users.iter().map(user).chain(self.groups.iter().map(group)).collect();
        if self.system_accounts {
            let accounts = json!({"name": "*", "namespace": "kube-system"});
            subjects.push(json!({"kind": "ServiceAccount", "serviceAccount": accounts}));
        }
        let mut rule = json!({"subjects": subjects});
        let paths = |verbs: &[&str], urls: &[&str]| json!([{"verbs": verbs, "nonResourceURLs": urls}]);
        let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
        match self.about {
            About::Everything => {
                rule["resourceRules"] = json!([resources(&["*"], "*", &["*"], true)]);
                rule["nonResourceRules"] = paths(&["*"], &["*"]);
            }
            About::Probes => rule["nonResourceRules"] = paths(&["get"], &["/healthz", "/readyz", "/livez"]),
            About::NodeHealth => {
                let nodes = resources(&["*"], "", &["nodes", "nodes/status"], true);
                rule["resourceRules"] = json!([nodes, leases(&["*"])]);
            }
            About::Leases => rule["resourceRules"] = json!([leases(&["get", "create", "update"])]),
        }
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": self.level}, "matchingPrecedence": self.precedence, "rules": [rule]
        });
        if !self.distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": self.distinguisher});
        }
        object("FlowSchema", self.name, spec)
    }
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec
    })
}

/// Every FlowSchema of a new cluster.
pub fn schemas() -> &'static [Value] {
    static ALL: LazyLock<Vec<Value>> = LazyLock::new(|| SCHEMA_ROWS.iter().map(SchemaRow::object).collect());
    &ALL
}

/// Every PriorityLevelConfiguration of a new cluster.
pub fn levels() -> &'static [Value] {
    static ALL: LazyLock<Vec<Value>> = LazyLock::new(level_objects);
    &ALL
}

fn level_objects() -> Vec<Value> {
    let none = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut levels = vec![object("PriorityLevelConfiguration", EXEMPT, none)];
    levels.extend(LEVEL_ROWS.map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({"type": "Queue", "queuing":
                {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH_MAX}}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
    }));
    levels
}

/// The fixed spec of a mandatory object.
pub fn mandatory(collection: &str, name: &str) -> Option<&'static Value> {
    if !matches!(name, EXEMPT | CATCH_ALL) {
        return None;
    }
    let all = if collection == SCHEMAS { schemas() } else { levels() };
    all.iter().find(|object| object["metadata"]["name"] == name).map(|object| &object["spec"])
}

/// What the stored state of such an object has to become: `None` when it is right, or somebody's own.
pub fn repaired(collection: &str, wanted: &Value, stored: &Value) -> Option<Value> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let annotation = stored["metadata"]["annotations"][AUTO_UPDATE].as_str();
    let is_mandatory = mandatory(collection, name).is_some();
    let follows = is_mandatory
        || match annotation {
            Some(text) => text == "true",
            // without a word, an object that was never changed is still the server's
            None => stored["metadata"]["generation"].as_i64().unwrap_or(1) <= 1,
        };
    if !follows {
        return None;
    }
    let mut spec = wanted["spec"].clone();
    if is_mandatory && name == EXEMPT && collection == LEVELS && stored["spec"]["exempt"].is_object() {
        // the shares of the exempt level are the administrator's
        spec["exempt"] = stored["spec"]["exempt"].clone();
    }
    if stored["spec"] == spec && annotation == Some("true") {
        return None;
    }
    let mut repaired = stored.clone();
    repaired["spec"] = spec;
    repaired["metadata"]["annotations"][AUTO_UPDATE] = "true".into();
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_objects_are_repaired_unless_they_are_somebodys_own() {
        let wanted = schemas().iter().find(|object| object["metadata"]["name"] == "global-default").unwrap();
        assert_eq!(repaired(SCHEMAS, wanted, wanted), None);
        let mut changed = wanted.clone();
        changed["spec"]["matchingPrecedence"] = 5.into();
        assert_eq!(repaired(SCHEMAS, wanted, &changed).unwrap()["spec"], wanted["spec"]);
        changed["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(repaired(SCHEMAS, wanted, &changed), None);
        let fixed = &schemas()[0];
        let mut changed = fixed.clone();
        changed["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert!(repaired(SCHEMAS, fixed, &changed).is_some());
    }

    #[test]
    fn the_exempt_levels_shares_stay_as_they_are() {
        let wanted = &levels()[0];
        let mut changed = wanted.clone();
        changed["spec"]["exempt"]["nominalConcurrencyShares"] = 7.into();
        assert_eq!(repaired(LEVELS, wanted, &changed), None);
        assert!(mandatory(LEVELS, CATCH_ALL).is_some() && mandatory(SCHEMAS, "probes").is_none());
    }
}
