use super::*;

fn policy(rules: &str) -> Policy {
    Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}").as_bytes()).unwrap()
}

fn refused(text: &str) -> String {
    Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}").as_bytes()).unwrap_err().to_string()
}

struct Asked<'a> {
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    path: Option<&'a str>,
}

const PODS: Asked<'_> = Asked { verb: "list", group: "", resource: "pods", namespace: "default", name: "", path: None };

fn level(policy: &Policy, asked: &Asked<'_>) -> Level {
    let user = User::new("alice", &["dev"]);
    let (resource, subresource) = asked.resource.split_once('/').unwrap_or((asked.resource, ""));
    let attributes = Attributes {
        user: &user,
        verb: asked.verb,
        group: asked.group,
        resource,
        subresource,
        namespace: asked.namespace,
        name: asked.name,
        path: asked.path,
    };
    policy.verdict(Some(&user), &attributes).level
}

#[test]
fn the_first_matching_rule_decides_and_none_means_nothing() {
    let policy =
        policy("- {level: None, users: [bob]}\n- {level: Request, verbs: [list]}\n- {level: Metadata, verbs: [list]}");
    assert_eq!(level(&policy, &PODS), Level::Request);
    assert_eq!(level(&policy, &Asked { verb: "get", ..PODS }), Level::None);
}

#[test]
fn rules_match_users_groups_namespaces_resources_names_and_paths() {
    let matches = |rule: &str, asked: &Asked<'_>| {
        level(&policy(&format!("- {{level: Metadata, {rule}}}")), asked) == Level::Metadata
    };
    assert!(matches("users: [alice]", &PODS) && !matches("users: [bob]", &PODS));
    assert!(matches("userGroups: [dev]", &PODS) && !matches("userGroups: [ops]", &PODS));
    assert!(matches("namespaces: [default]", &PODS) && !matches("namespaces: [kube-system]", &PODS));
    assert!(matches("resources: [{group: \"\"}]", &PODS) && !matches("resources: [{group: apps}]", &PODS));
    let exec = Asked { resource: "pods/exec", name: "a", ..PODS };
    for (resource, plain, sub) in [
        ("pods", true, false),
        ("pods/exec", false, true),
        ("'pods/*'", true, true),
        ("'*/exec'", false, true),
        ("'*'", true, true),
        ("services", false, false),
    ] {
        let rule = format!("resources: [{{group: '', resources: [{resource}]}}]");
        assert_eq!((matches(&rule, &PODS), matches(&rule, &exec)), (plain, sub), "{resource}");
    }
    let named = "resources: [{group: '', resources: ['*'], resourceNames: [a]}]";
    assert!(matches(named, &exec) && !matches(named, &PODS));
    let path = |path| Asked { path: Some(path), ..PODS };
    assert!(matches("nonResourceURLs: ['/healthz*']", &path("/healthz/ping")));
    assert!(matches("nonResourceURLs: ['*']", &path("/metrics")));
    assert!(!matches("nonResourceURLs: [/version]", &path("/metrics")));
    assert!(!matches("nonResourceURLs: ['*']", &PODS));
    assert!(!matches("namespaces: ['']", &path("/metrics")));
}

#[test]
fn unknown_callers_match_no_rule_that_names_users() {
    let policy = policy("- {level: Request, users: [alice]}\n- {level: Metadata}");
    let user = User::default();
    let attributes = Attributes {
        user: &user,
        verb: "get",
        group: "",
        resource: "pods",
        subresource: "",
        namespace: "",
        name: "",
        path: None,
    };
    assert_eq!(policy.verdict(None, &attributes).level, Level::Metadata);
}

#[test]
fn stages_of_policy_and_rule_add_up() {
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nomitManagedFields: true\n\
        rules: [{level: Metadata, omitStages: [Panic], omitManagedFields: false}]";
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let verdict = policy.rules[0].verdict;
    assert!(verdict.omitted.contains(Stage::RequestReceived) && verdict.omitted.contains(Stage::Panic));
    assert!(!verdict.omitted.contains(Stage::ResponseComplete));
    assert!(!verdict.omit_managed_fields);
}

#[test]
fn without_a_file_writes_and_secrets_are_audited() {
    let policy = Policy::default();
    for verb in ["create", "update", "patch", "delete", "deletecollection"] {
        assert_eq!(level(&policy, &Asked { verb, ..PODS }), Level::Metadata);
    }
    assert_eq!(level(&policy, &PODS), Level::None);
    assert_eq!(level(&policy, &Asked { resource: "secrets", verb: "watch", ..PODS }), Level::Metadata);
    assert_eq!(level(&policy, &Asked { resource: "pods/exec", verb: "get", ..PODS }), Level::Metadata);
}

#[test]
fn bad_policies_are_refused_with_the_field() {
    assert_eq!(refused("rules: []"), "audit policy: loaded illegal policy with 0 rules");
    assert_eq!(refused("rules: [{}]"), "audit policy: rules[0].level: Required value");
    let unknown = refused("rules: [{level: All}]");
    assert!(
        unknown.starts_with("audit policy: rules[0].level: Unsupported value: \"All\": supported values: \"None\""),
        "{unknown}"
    );
    assert!(
        refused("rules: [{level: None, user: [x]}]").contains("rules[0].user: Invalid value: \"user\": unknown field")
    );
    assert!(
        refused("rules: [{level: None, users: x}]")
            .contains("rules[0].users: Invalid value: \"x\": has the wrong type")
    );
    assert!(
        refused("omitStages: [Started]\nrules: [{level: None}]")
            .contains("omitStages[0]: Invalid value: \"Started\": allowed stages are")
    );
    assert!(refused("rules: [{level: None, nonResourceURLs: ['a']}]").contains("must begin with a '/' character"));
    assert!(refused("rules: [{level: None, nonResourceURLs: ['/a*b']}]").contains("must be the final character"));
    assert!(
        refused("rules: [{level: None, nonResourceURLs: ['/a'], namespaces: [x]}]").contains("cannot apply to both")
    );
    assert!(
        refused("rules: [{level: None, resources: [{resourceNames: [x]}]}]").contains("requires at least one resource")
    );
    assert!(
        Policy::parse(b"apiVersion: audit.k8s.io/v1beta1\nkind: Policy").unwrap_err().to_string().contains("v1beta1")
    );
}
