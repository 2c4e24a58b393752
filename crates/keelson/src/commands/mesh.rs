//! `keelson mesh`: what takes part, what of it cannot be followed, and where requests go. Everything is read from the API.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, anyhow};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;

use crate::{
    cli::{At, MeshCommand},
    data_dir::Layout,
    exit::{Exit, Failure},
};

/// The label that enrols pods, and its value.
const ENROLS: (&str, &str) = ("istio.io/dataplane-mode", "ambient");

/// Kinds that the mesh follows, by group and version.
const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io", "v1");
const SECURITY: (&str, &str) = ("security.istio.io", "v1");
const NETWORKING: (&str, &str) = ("networking.istio.io", "v1");

/// What is read of a cluster: objects as JSON.
#[derive(Default)]
struct Cluster {
    namespaces: Vec<Value>,
    pods: Vec<Value>,
    services: Vec<Value>,
    /// Routes of Gateway API.
    routes: Vec<Value>,
    /// Istio's kinds.
    policies: Vec<Value>,
}

/// # Errors
/// When nothing answers; of `check`, also when there is something to tell.
pub(crate) fn main(command: &MeshCommand) -> Result<(), Failure> {
    let (at, kubeconfig) = match command {
        MeshCommand::Check { at, kubeconfig } | MeshCommand::Routes { at, kubeconfig, .. } => {
            (at, kubeconfig.as_deref())
        }
    };
    let cluster = super::block_on(read(at, kubeconfig))??;
    match command {
        MeshCommand::Check { .. } => {
            let (summary, problems) = check(&cluster);
            print!("{summary}");
            match problems.len() {
                0 => Ok(()),
                count => Err(anyhow!("{count} to look at:\n{}", problems.join("\n")).into()),
            }
        }
        MeshCommand::Routes { service, namespace, .. } => {
            let told = routes(&cluster, namespace, service);
            let told = told.ok_or_else(|| anyhow!("Service {namespace}/{service} not found"))?;
            print!("{told}");
            Ok(())
        }
    }
}

async fn read(at: &At, kubeconfig: Option<&Path>) -> Result<Cluster, Failure> {
    let path = match kubeconfig {
        Some(path) => path.to_owned(),
        None => Layout::new(&super::settings_at(at)?.data_dir).admin_kubeconfig(),
    };
    let client = super::status::client(&path).await.map_err(|error| Exit::NotRunning.because(error))?;
    let mut cluster = Cluster {
        namespaces: list(&client, ("", "v1"), "Namespace").await?,
        pods: list(&client, ("", "v1"), "Pod").await?,
        services: list(&client, ("", "v1"), "Service").await?,
        ..Cluster::default()
    };
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
        cluster.routes.extend(list(&client, GATEWAY, kind).await?);
    }
    for kind in ["PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication"] {
        cluster.policies.extend(list(&client, SECURITY, kind).await?);
    }
    for kind in ["VirtualService", "DestinationRule"] {
        cluster.policies.extend(list(&client, NETWORKING, kind).await?);
    }
    Ok(cluster)
}

/// All objects of a kind; none where the cluster does not have the kind.
async fn list(client: &Client, (group, version): (&str, &str), kind: &str) -> anyhow::Result<Vec<Value>> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let listed = Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await;
    let objects = match listed {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(anyhow!(error).context(format!("list {kind}s"))),
    };
    objects
        .into_iter()
        .map(|object| {
            let mut object = serde_json::to_value(object).with_context(|| format!("read a {kind}"))?;
            object["kind"] = kind.into();
            Ok(object)
        })
        .collect()
}

fn name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    format!("{} {}/{}", object["kind"].as_str().unwrap_or(""), text("namespace"), text("name"))
}

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"].get(name)?.as_str()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What takes part, and what somebody should look at.
fn check(cluster: &Cluster) -> (String, Vec<String>) {
    let enrolled: Vec<&str> = { cluster.namespaces.iter() }
        .filter(|namespace| label(namespace, ENROLS.0) == Some(ENROLS.1))
        .filter_map(|namespace| namespace["metadata"]["name"].as_str())
        .collect();
    let takes_part = |pod: &&Value| {
        let own = label(pod, ENROLS.0);
        let of_namespace = pod["metadata"]["namespace"].as_str().is_some_and(|name| enrolled.contains(&name));
        let asked = own == Some(ENROLS.1) || own != Some("none") && of_namespace;
        asked && pod["spec"]["hostNetwork"] != true && pod["status"]["phase"] == "Running"
    };
    let pods = cluster.pods.iter().filter(takes_part).count();
    let (ours, policies) = (cluster.routes.iter().filter(|route| has_service(route)), &cluster.policies);
    let ours: Vec<_> = ours.collect();
    let mut summary = String::new();
    // writing to a text does not fail
    let _ = writeln!(summary, "namespaces  {} enrolled of {}", enrolled.len(), cluster.namespaces.len());
    let _ = writeln!(summary, "pods        {pods} take part of {}", cluster.pods.len());
    let _ = writeln!(summary, "routes      {} with a Service as parent", ours.len());
    let _ = writeln!(summary, "policies    {}", policies.len());
    let mut problems = Vec::new();
    if pods == 0 && (!ours.is_empty() || !policies.is_empty()) {
        problems.push(format!("no pod takes part: label namespaces with {}={}", ENROLS.0, ENROLS.1));
    }
    for route in &ours {
        for parent in items(&route["status"]["parents"]).filter(|parent| is_service(&parent["parentRef"])) {
            let failed = items(&parent["conditions"]).filter(|condition| condition["status"] == "False");
            problems.extend(failed.map(|condition| told(route, condition)));
        }
    }
    for policy in policies {
        let failed = items(&policy["status"]["conditions"]);
        let failed = failed.filter(|condition| condition["type"] == "Accepted" && condition["status"] == "False");
        problems.extend(failed.map(|condition| told(policy, condition)));
    }
    (summary, problems)
}

fn told(object: &Value, condition: &Value) -> String {
    let text = |field: &str| condition[field].as_str().unwrap_or("").to_owned();
    let why = Some(text("message")).filter(|message| !message.is_empty()).unwrap_or_else(|| text("reason"));
    format!("{}: {}", name(object), why)
}

fn is_service(parent: &Value) -> bool {
    parent["kind"] == "Service" && parent["group"] == ""
}

fn has_service(route: &Value) -> bool {
    items(&route["spec"]["parentRefs"]).any(is_service)
}

/// Where requests to a Service go; `None` when there is none.
fn routes(cluster: &Cluster, namespace: &str, service: &str) -> Option<String> {
    let is_it = |object: &&Value| object["metadata"]["namespace"] == namespace && object["metadata"]["name"] == service;
    cluster.services.iter().find(is_it)?;
    let mut out = String::new();
    for object in cluster.routes.iter().chain(&cluster.policies) {
        let own = object["metadata"]["namespace"].as_str().unwrap_or("");
        let ports: Vec<String> = match object["kind"].as_str() {
            Some("VirtualService") => {
                let hosts = items(&object["spec"]["hosts"]).filter_map(Value::as_str);
                hosts.filter(|host| names(host, own, (namespace, service))).map(|_| "all".to_owned()).collect()
            }
            Some("HTTPRoute" | "GRPCRoute" | "TCPRoute") => {
                let parents = items(&object["spec"]["parentRefs"]).filter(|parent| is_service(parent));
                let parents = parents.filter(|parent| {
                    parent["name"] == service && parent["namespace"].as_str().unwrap_or(own) == namespace
                });
                parents
                    .map(|parent| parent["port"].as_u64().map_or("all".to_owned(), |port| port.to_string()))
                    .collect()
            }
            _ => Vec::new(),
        };
        if ports.is_empty() {
            continue;
        }
        let clients = if own == namespace { "all clients".to_owned() } else { format!("clients in {own}") };
        // writing to a text does not fail
        let _ = writeln!(out, "{} for {clients}, port {}", name(object), ports.join(", "));
        for rule in items(&object["spec"]["rules"]).chain(items(&object["spec"]["http"])) {
            let _ = writeln!(out, "  {} -> {}", conditions(rule), destinations(rule));
        }
    }
    for policy in cluster.policies.iter().filter(|policy| policy["kind"] == "DestinationRule") {
        let own = policy["metadata"]["namespace"].as_str().unwrap_or("");
        let host = policy["spec"]["host"].as_str().unwrap_or("");
        if own == namespace && names(host, own, (namespace, service)) {
            let _ = writeln!(out, "{} says how endpoints are used", name(policy));
        }
    }
    if out.is_empty() {
        out.push_str("no route: connections go to its endpoints\n");
    }
    Some(out)
}

/// Whether a host names a Service.
fn names(host: &str, own: &str, (namespace, service): (&str, &str)) -> bool {
    let host = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
    host.split_once('.').unwrap_or((host, own)) == (service, namespace)
}

/// The conditions of a rule, each in one line of JSON.
fn conditions(rule: &Value) -> String {
    let all = items(&rule["matches"]).chain(items(&rule["match"])).map(Value::to_string);
    let all = all.collect::<Vec<_>>().join(" or ");
    if all.is_empty() { "everything".to_owned() } else { all }
}

/// Where a rule sends requests, with weights.
fn destinations(rule: &Value) -> String {
    let gateway = items(&rule["backendRefs"]).map(|to| {
        let port = to["port"].as_u64().map(|port| format!(":{port}")).unwrap_or_default();
        let weight = to["weight"].as_u64().unwrap_or(1);
        format!("{}{port} ({weight})", to["name"].as_str().unwrap_or(""))
    });
    let istio = items(&rule["route"]).map(|to| {
        let host = to["destination"]["host"].as_str().unwrap_or("");
        to["weight"].as_u64().map_or_else(|| host.to_owned(), |weight| format!("{host} ({weight})"))
    });
    let all = gateway.chain(istio).collect::<Vec<_>>().join(", ");
    if all.is_empty() { "an answer of its own".to_owned() } else { all }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> Cluster {
        let object = |kind: &str, namespace: &str, name: &str, more: Value| {
            let mut object = more;
            object["kind"] = kind.into();
            object["metadata"]["name"] = name.into();
            object["metadata"]["namespace"] = namespace.into();
            object
        };
        let ambient = json!({"metadata": {"labels": {"istio.io/dataplane-mode": "ambient"}}});
        let running = json!({"status": {"phase": "Running"}});
        let parent = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop", "port": 80});
        let failed = json!([{"type": "Accepted", "status": "False", "reason": "X", "message": "why not"}]);
        Cluster {
            namespaces: vec![object("Namespace", "", "shop", ambient), object("Namespace", "", "other", json!({}))],
            pods: vec![object("Pod", "shop", "a", running.clone()), object("Pod", "other", "b", running)],
            services: vec![object("Service", "shop", "web", json!({})), object("Service", "shop", "plain", json!({}))],
            routes: vec![
                object(
                    "HTTPRoute",
                    "shop",
                    "split",
                    json!({"spec": {"parentRefs": [parent], "rules": [
                        {"matches": [{"path": {"value": "/a"}}], "backendRefs": [{"name": "v1", "port": 80, "weight": 9}]},
                        {"backendRefs": [{"name": "v2", "port": 80}]},
                    ]}}),
                ),
                object(
                    "GRPCRoute",
                    "other",
                    "consumer",
                    json!({
                        "spec": {"parentRefs": [parent]},
                        "status": {"parents": [{"parentRef": parent, "conditions": failed}]},
                    }),
                ),
            ],
            policies: vec![
                object(
                    "VirtualService",
                    "shop",
                    "vs",
                    json!({"spec": {"hosts": ["web"], "http": [
                        {"route": [{"destination": {"host": "v1"}, "weight": 95}, {"destination": {"host": "v2"}, "weight": 5}]},
                    ]}}),
                ),
                object(
                    "DestinationRule",
                    "shop",
                    "dr",
                    json!({
                        "spec": {"host": "web.shop.svc.cluster.local"}, "status": {"conditions": failed},
                    }),
                ),
            ],
        }
    }

    #[test]
    fn what_takes_part_is_counted_and_what_is_not_followed_is_told() {
        let (summary, problems) = check(&cluster());
        assert_eq!(
            summary,
            "namespaces  1 enrolled of 2\npods        1 take part of 2\nroutes      2 with a Service as parent\npolicies    2\n"
        );
        assert_eq!(problems, ["GRPCRoute other/consumer: why not", "DestinationRule shop/dr: why not"]);
        let nobody = Cluster { pods: Vec::new(), ..cluster() };
        assert!(check(&nobody).1[0].starts_with("no pod takes part"));
    }

    #[test]
    fn the_way_of_requests_is_shown_rule_by_rule() {
        let told = routes(&cluster(), "shop", "web").unwrap();
        let expected = "\
HTTPRoute shop/split for all clients, port 80
  {\"path\":{\"value\":\"/a\"}} -> v1:80 (9)
  everything -> v2:80 (1)
GRPCRoute other/consumer for clients in other, port 80
VirtualService shop/vs for all clients, port all
  everything -> v1 (95), v2 (5)
DestinationRule shop/dr says how endpoints are used
";
        assert_eq!(told, expected);
        assert_eq!(routes(&cluster(), "shop", "plain").unwrap(), "no route: connections go to its endpoints\n");
        assert_eq!(routes(&cluster(), "shop", "none"), None);
    }
}
