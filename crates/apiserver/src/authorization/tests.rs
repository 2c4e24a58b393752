use serde_json::json;

use super::*;

const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
const BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

fn ask(user: &User, verb: &'static str, what: &str, namespace: &str, name: &str, authorizer: &Authorizer) -> bool {
    let (group, resource) = what.rsplit_once(':').unwrap_or(("", what));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    authorizer.authorize(&Attributes { user, verb, group, resource, subresource, namespace, name, path: None })
        == Decision::Allow
}

fn fixture() -> Authorizer {
    let authorizer = Authorizer::new();
    let reader = json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]});
    let scaler = json!({"rules": [{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*/scale"]}]});
    let one =
        json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}]});
    let urls = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}]});
    authorizer.apply(CLUSTER_ROLES, "reader", Some(&reader));
    authorizer.apply(CLUSTER_ROLES, "urls", Some(&urls));
    authorizer.apply(ROLES, "team/scaler", Some(&scaler));
    authorizer.apply(ROLES, "team/one", Some(&one));
    let bind = |kind: &str, role: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
    authorizer.apply(
        BINDINGS,
        "team/readers",
        Some(&bind("ClusterRole", "reader", json!({"kind": "ServiceAccount", "name": "web"}))),
    );
    authorizer.apply(BINDINGS, "team/s", Some(&bind("Role", "scaler", json!({"kind": "Group", "name": "ops"}))));
    authorizer.apply(BINDINGS, "team/o", Some(&bind("Role", "one", json!({"kind": "User", "name": "ann"}))));
    authorizer.apply(
        CLUSTER_BINDINGS,
        "all",
        Some(&bind("ClusterRole", "urls", json!({"kind": "Group", "name": "all"}))),
    );
    authorizer
}

#[test]
fn rules_grant_what_they_name_where_they_are_bound() {
    let authorizer = fixture();
    let account = User::new("system:serviceaccount:team:web", &[]);
    assert!(ask(&account, "get", "pods", "team", "x", &authorizer));
    assert!(ask(&account, "get", "pods/log", "team", "x", &authorizer));
    assert!(!ask(&account, "get", "pods/exec", "team", "x", &authorizer));
    assert!(!ask(&account, "delete", "pods", "team", "x", &authorizer));
    assert!(!ask(&account, "get", "pods", "other", "x", &authorizer));
    assert!(!ask(&account, "list", "pods", "", "", &authorizer));
    let ops = User::new("bob", &["ops"]);
    assert!(ask(&ops, "update", "apps:deployments/scale", "team", "x", &authorizer));
    assert!(!ask(&ops, "update", "apps:deployments", "team", "x", &authorizer));
    let ann = User::new("ann", &[]);
    assert!(ask(&ann, "get", "secrets", "team", "a", &authorizer));
    assert!(!ask(&ann, "get", "secrets", "team", "b", &authorizer));
    assert!(!ask(&ann, "get", "secrets", "team", "", &authorizer));
    assert!(ask(&User::new("root", &[GROUP_MASTERS]), "anything", "pods", "", "", &authorizer));
}

#[test]
fn paths_match_exactly_or_by_prefix() {
    let authorizer = fixture();
    let user = User::new("x", &["all"]);
    for (path, allowed) in [("/healthz", true), ("/healthz/ping", false), ("/api/v1", true), ("/apis", false)] {
        let attributes = Attributes {
            user: &user,
            verb: "get",
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: Some(path),
        };
        assert_eq!(authorizer.authorize(&attributes) == Decision::Allow, allowed, "{path}");
    }
}

#[test]
fn changes_take_effect_and_a_missing_role_is_named() {
    let authorizer = fixture();
    let ann = User::new("ann", &[]);
    authorizer.apply(ROLES, "team/one", None);
    let attributes = Attributes {
        user: &ann,
        verb: "get",
        group: "",
        resource: "secrets",
        subresource: "",
        namespace: "team",
        name: "a",
        path: None,
    };
    assert_eq!(
        authorizer.authorize(&attributes),
        Decision::NoOpinion { reason: "RBAC: role.rbac.authorization.k8s.io \"one\" not found".to_owned() }
    );
    authorizer.apply(BINDINGS, "team/o", None);
    assert_eq!(authorizer.authorize(&attributes), Decision::NoOpinion { reason: String::new() });
    assert_eq!(authorizer.rules_for(&ann, "team").0, []);
}

#[test]
fn a_role_may_not_grant_more_than_its_writer_holds() {
    let authorizer = fixture();
    let account = User::new("system:serviceaccount:team:web", &[]);
    let rule = |verbs: &[&str], resources: &[&str]| Rule {
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        api_groups: vec![String::new()],
        resources: resources.iter().map(|resource| (*resource).to_owned()).collect(),
        ..Rule::default()
    };
    assert_eq!(authorizer.not_covered(&account, "team", &[rule(&["get"], &["pods"])]), []);
    assert_eq!(
        authorizer.not_covered(&account, "team", &[rule(&["get", "delete"], &["pods"])]),
        [rule(&["delete"], &["pods"])]
    );
    assert_eq!(authorizer.not_covered(&account, "other", &[rule(&["get"], &["pods"])]).len(), 1);
}
