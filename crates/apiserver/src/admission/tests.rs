use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::testing::resource;

#[derive(Default)]
pub(super) struct Cluster(HashMap<String, Arc<Value>>);

impl Cluster {
    pub(super) fn with(mut self, collection: &str, path: &str, object: Value) -> Self {
        self.0.insert(format!("{collection}:{path}"), Arc::new(object));
        self
    }

    fn young() -> Self {
        let default = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]});
        Self::default()
            .with("core/namespaces", "n", json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}}))
            .with("core/namespaces", "old", json!({"metadata": {"name": "old"}, "status": {"phase": "Terminating"}}))
            .with("core/serviceaccounts", "n/default", default)
    }
}

impl ObjectReader for Cluster {
    fn get(&self, collection: &str, path: &str) -> Option<Arc<Value>> {
        self.0.get(&format!("{collection}:{path}")).cloned()
    }

    fn list(&self, collection: &str, prefix: &str) -> Vec<Arc<Value>> {
        let prefix = format!("{collection}:{prefix}");
        self.0.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }
}

/// A create of nothing in particular.
pub(super) fn request<'a>(resource: &'a Resource, user: &'a User) -> AdmissionRequest<'a> {
    AdmissionRequest {
        operation: Operation::Create,
        resource,
        subresource: None,
        namespace: "",
        name: "",
        generate_name: "",
        user,
        old: None,
        options: RequestOptions::None,
        dry_run: false,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn ask(
    cluster: &Cluster,
    operation: Operation,
    group: &str,
    plural: &str,
    namespace: &str,
    name: &str,
    mut object: Option<&mut Value>,
) -> Result<(), AdmissionError> {
    let (resource, user) = (resource(group, plural), User::new("u", &[]));
    let request = AdmissionRequest { operation, namespace, name, ..request(&resource, &user) };
    mutate(cluster, &request, object.as_deref_mut())?;
    validate(cluster, &request, object.as_deref())
}

fn pod(cluster: &Cluster, spec: Value) -> Result<Value, AdmissionError> {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "1"}, "spec": spec});
    ask(cluster, Operation::Create, "", "pods", "n", "p", Some(&mut pod))?;
    Ok(pod["spec"].take())
}

#[test]
fn nothing_is_made_where_there_is_no_namespace() {
    let cluster = Cluster::young();
    let make = |namespace| {
        let mut object = json!({"metadata": {"name": "c"}});
        ask(&cluster, Operation::Create, "", "configmaps", namespace, "c", Some(&mut object))
    };
    assert_eq!(make("n"), Ok(()));
    let missing = make("none").unwrap_err();
    assert_eq!(missing.to_string(), "namespaces \"none\" not found");
    let AdmissionError::Forbidden { reason, causes, .. } = make("old").unwrap_err() else { panic!("not forbidden") };
    assert_eq!(reason, "unable to create new content in namespace old because it is being terminated");
    assert_eq!(causes[0].reason.as_deref(), Some("NamespaceTerminating"));
    let delete = |name| ask(&cluster, Operation::Delete, "", "namespaces", "", name, None);
    assert_eq!(delete("n"), Ok(()));
    assert_eq!(
        delete("kube-system").unwrap_err().to_string(),
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
}

#[test]
fn pods_run_as_an_account_and_find_its_token() {
    let cluster = Cluster::young();
    let spec = pod(
        &cluster,
        json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "initContainers": [{"name": "i"}]}),
    )
    .unwrap();
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5);
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    for (list, index) in [("containers", 0), ("initContainers", 0)] {
        let mount = &spec[list][index]["volumeMounts"][0];
        assert_eq!((&mount["name"], &mount["readOnly"]), (&json!(name), &json!(true)));
    }
    assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    let spec = pod(&cluster, json!({"automountServiceAccountToken": false, "containers": [{"name": "a"}]})).unwrap();
    assert_eq!(spec.get("volumes"), None);
    let error = pod(&cluster, json!({"serviceAccountName": "robot"})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pods \"p\" is forbidden: error looking up service account n/robot: serviceaccount \"robot\" not found"
    );
    let AdmissionError::Forbidden { transient, .. } = error else { panic!("not forbidden") };
    assert!(!transient, "only the default account is about to appear");
}

#[test]
fn priorities_come_from_classes() {
    let cluster = Cluster::young().with(
        "scheduling.k8s.io/priorityclasses",
        "high",
        json!({"metadata": {"name": "high"}, "value": 10, "preemptionPolicy": "Never"}),
    );
    let spec = pod(&cluster, json!({})).unwrap();
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    let spec = pod(&cluster, json!({"priorityClassName": "high"})).unwrap();
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(10), &json!("Never")));
    let spec = pod(&cluster, json!({"priorityClassName": "system-node-critical"})).unwrap();
    assert_eq!(spec["priority"], 2_000_001_000);
    assert_eq!(
        pod(&cluster, json!({"priorityClassName": "none"})).unwrap_err().to_string(),
        "pods \"p\" is forbidden: no PriorityClass with name none was found"
    );
    assert!(pod(&cluster, json!({"priority": 3})).unwrap_err().to_string().contains("(3) must not be provided"));
    let cluster = cluster.with(
        "scheduling.k8s.io/priorityclasses",
        "usual",
        json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true}),
    );
    let spec = pod(&cluster, json!({})).unwrap();
    assert_eq!((&spec["priority"], &spec["priorityClassName"]), (&json!(5), &json!("usual")));
    let mut second = json!({"metadata": {"name": "second"}, "globalDefault": true});
    let error =
        ask(&cluster, Operation::Create, "scheduling.k8s.io", "priorityclasses", "", "second", Some(&mut second));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .ends_with("PriorityClass usual is already marked as default. Only one default can exist")
    );
}

#[test]
fn pods_stay_for_a_while_on_nodes_in_trouble() {
    let cluster = Cluster::young();
    let spec =
        pod(&cluster, json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]})).unwrap();
    assert_eq!(
        spec["tolerations"][1],
        json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    );
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let mut replaced = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {}});
    ask(&cluster, Operation::Update, "", "pods", "n", "p", Some(&mut replaced)).unwrap();
    assert_eq!(replaced["spec"]["tolerations"].as_array().unwrap().len(), 2);
}

#[test]
fn claims_and_ingresses_get_the_newest_default_class() {
    let class = |name: &str, born: &str, annotation: &str| json!({"metadata": {"name": name, "creationTimestamp": born, "annotations": {annotation: "true"}}});
    let storage = "storageclass.kubernetes.io/is-default-class";
    let cluster = Cluster::young()
        .with("storage.k8s.io/storageclasses", "a", class("a", "2020-01-01T00:00:00Z", storage))
        .with("storage.k8s.io/storageclasses", "b", class("b", "2021-01-01T00:00:00Z", storage))
        .with("storage.k8s.io/storageclasses", "c", class("c", "2022-01-01T00:00:00Z", "x"))
        .with(
            "networking.k8s.io/ingressclasses",
            "keelson",
            class("keelson", "2020-01-01T00:00:00Z", "ingressclass.kubernetes.io/is-default-class"),
        );
    let make = |group: &str, plural: &str, spec: Value| {
        let mut object = json!({"metadata": {"name": "x"}, "spec": spec});
        ask(&cluster, Operation::Create, group, plural, "n", "x", Some(&mut object)).unwrap();
        object["spec"].take()
    };
    assert_eq!(make("", "persistentvolumeclaims", json!({})), json!({"storageClassName": "b"}));
    assert_eq!(make("", "persistentvolumeclaims", json!({"storageClassName": ""})), json!({"storageClassName": ""}));
    assert_eq!(make("networking.k8s.io", "ingresses", json!({})), json!({"ingressClassName": "keelson"}));
}

#[test]
fn claims_and_volumes_are_held_while_they_are_used() {
    let make = |plural: &str, namespace: &str, finalizers: Value| {
        let mut object = json!({"metadata": {"name": "x", "finalizers": finalizers}, "spec": {}});
        ask(&Cluster::young(), Operation::Create, "", plural, namespace, "x", Some(&mut object)).unwrap();
        object["metadata"]["finalizers"].take()
    };
    assert_eq!(make("persistentvolumeclaims", "n", Value::Null), json!(["kubernetes.io/pvc-protection"]));
    assert_eq!(make("persistentvolumes", "", json!(["a/b"])), json!(["a/b", "kubernetes.io/pv-protection"]));
    let held = json!(["kubernetes.io/pv-protection"]);
    assert_eq!(make("persistentvolumes", "", held.clone()), held);
}

#[test]
fn limit_ranges_complete_and_bound_containers() {
    let range = |limit: Value| Cluster::young().with("core/limitranges", "n/r", json!({"spec": {"limits": [limit]}}));
    let cluster = range(json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"},
        "max": {"cpu": "2"}, "min": {"cpu": "100m"}}));
    let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
    ask(&cluster, Operation::Create, "", "pods", "n", "p", Some(&mut object)).unwrap();
    assert_eq!(
        object["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}})
    );
    assert_eq!(
        object["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let refused = |cluster: &Cluster, resources: Value| {
        let spec = json!({"containers": [{"name": "c", "resources": resources}, {"name": "d", "resources": {
            "requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]});
        pod(cluster, spec).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&cluster, json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "3"}})),
        "pods \"p\" is forbidden: [minimum cpu usage per Container is 100m, but request is 50m, maximum cpu usage per Container is 2, but limit is 3]"
    );
    let cluster = range(json!({"type": "Pod", "max": {"cpu": "2"}}));
    assert_eq!(
        refused(&cluster, json!({"limits": {"cpu": "1500m"}})),
        "pods \"p\" is forbidden: maximum cpu usage per Pod is 2, but limit is 2500m"
    );
    let cluster = range(json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}));
    assert_eq!(
        refused(&cluster, json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}})),
        "pods \"p\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"
    );
    let cluster = range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
    let mut claim = json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let error = ask(&cluster, Operation::Create, "", "persistentvolumeclaims", "n", "c", Some(&mut claim)).unwrap_err();
    assert!(error.to_string().ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"));
}

#[test]
fn a_limit_range_counts_sidecars_and_says_what_it_filled_in() {
    let range = |limits: Value| Cluster::young().with("core/limitranges", "n/r", json!({"spec": {"limits": limits}}));
    let cluster =
        range(json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "1"}}]));
    let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}],
        "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "2"}}}]}});
    ask(&cluster, Operation::Create, "", "pods", "n", "p", Some(&mut object)).unwrap();
    assert_eq!(
        object["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c; \
         cpu request for init container i; memory limit for init container i"
    );
    let cluster = range(json!([{"type": "Pod", "max": {"cpu": "2"}, "maxLimitRequestRatio": {"memory": "2"}}]));
    let amounts = |cpu: &str| json!({"limits": {"cpu": cpu}});
    let spec = json!({"containers": [{"name": "c", "resources": amounts("1500m")}],
        "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": amounts("1")}]});
    assert_eq!(
        pod(&cluster, spec).unwrap_err().to_string(),
        "pods \"p\" is forbidden: [maximum cpu usage per Pod is 2, but limit is 2500m, \
         memory max limit to request ratio per Pod is 2, but no request is specified or request is 0]"
    );
}

#[test]
fn an_account_may_name_the_only_secrets_its_pods_mount() {
    let account = json!({"metadata": {"name": "default", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "mine"}]});
    let cluster = Cluster::young().with("core/serviceaccounts", "n/default", account);
    let with = |secret: &str| json!({"volumes": [{"name": "v", "secret": {"secretName": secret}}]});
    assert!(pod(&cluster, with("mine")).is_ok());
    assert_eq!(
        pod(&cluster, with("other")).unwrap_err().to_string(),
        "pods \"p\" is forbidden: volume with secret.secretName=\"other\" is not allowed because service account default does not reference that secret"
    );
    let variable = json!({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "other"}}}]}]});
    assert!(
        pod(&cluster, variable)
            .unwrap_err()
            .to_string()
            .contains("container c with envVar E referencing secret.secretName=\"other\"")
    );
    let mut mirror = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"imagePullSecrets": [{"name": "s"}]}});
    let refused = ask(&cluster, Operation::Create, "", "pods", "n", "p", Some(&mut mirror)).unwrap_err();
    assert!(refused.to_string().ends_with("a mirror pod may not reference secrets"));
}

#[test]
fn a_bound_claim_grows_where_its_class_lets_it() {
    let claim = |size: &str, phase: &str| {
        json!({"metadata": {"name": "c"}, "status": {"phase": phase},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": size}}}})
    };
    let grow = |expands: bool, phase: &str| {
        let cluster =
            Cluster::young().with("storage.k8s.io/storageclasses", "fast", json!({"allowVolumeExpansion": expands}));
        let (claims, user, old) = (resource("", "persistentvolumeclaims"), User::new("u", &[]), claim("1Gi", phase));
        let mut request = request(&claims, &user);
        (request.operation, request.old, request.namespace, request.name) = (Operation::Update, Some(&old), "n", "c");
        validate(&cluster, &request, Some(&claim("2Gi", phase))).map_err(|error| error.to_string())
    };
    assert_eq!(grow(true, "Bound"), Ok(()));
    assert!(grow(true, "Pending").unwrap_err().ends_with("Only bound persistent volume claims can be expanded"));
    assert!(
        grow(false, "Bound").unwrap_err().ends_with("the storageclass that provisions the pvc must support resize")
    );
}

#[test]
fn a_new_node_is_not_ready() {
    let mut node = json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}});
    ask(&Cluster::young(), Operation::Create, "", "nodes", "", "a", Some(&mut node)).unwrap();
    assert_eq!(node["spec"]["taints"][1], json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}));
}
