//! What Ingresses are in Gateway API: Gateways, routes, and Envoy Gateway's policies where Gateway API leaves open.
//!
//! Pure: objects in, objects and notes out, the same for the same input. The settings are those that Ingresses are served
//! by, so that what is understood there is understood here; what has no equivalent is noted, never passed over.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    networking::v1::{Ingress, IngressRule},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{annotations, canaries, settings::Settings};
use crate::controller::lookup::namespace;

mod policies;
mod routes;

/// What Ingresses are in Gateway API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// The objects, each after those that it refers to.
    pub objects: Vec<Value>,
    /// What has no equivalent, or another one than expected.
    pub notes: Vec<String>,
}

/// The name of the Gateway of a namespace. Each has its own, for certificates are used in their namespace only.
const GATEWAY: &str = "ingress";

/// The listener for clear requests.
const CLEAR: &str = "http";

/// What is translated, by kind and in the order of names.
struct Input {
    ingresses: BTreeMap<(String, String), Ingress>,
    services: BTreeMap<(String, String), Service>,
    maps: BTreeMap<(String, String), ConfigMap>,
}

/// One Ingress and what became of it.
struct Translator<'a> {
    input: &'a Input,
    ingress: &'a Ingress,
    settings: Settings,
    /// The annotations as they are written, without their prefix.
    texts: BTreeMap<&'a str, &'a str>,
    objects: Vec<Value>,
    notes: Vec<String>,
}

/// A listener for a hostname, or for all; its name goes by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Secure {
    hostname: Option<String>,
    /// The Secret with the certificate; none where TLS is passed on.
    secret: Option<String>,
}

/// The listeners of a namespace's Gateway.
#[derive(Default)]
struct Listeners {
    secure: Vec<Secure>,
}

impl Listeners {
    /// The first for a hostname stays.
    fn add(&mut self, hostname: Option<String>, secret: Option<&str>) {
        if self.secure.iter().all(|known| known.hostname != hostname) {
            self.secure.push(Secure { hostname, secret: secret.map(str::to_owned) });
        }
    }

    /// The name of the most specific one for a host.
    fn covering(&self, host: Option<&str>) -> Option<String> {
        let covers = |secure: &Secure| match (&secure.hostname, host) {
            (None, _) => true,
            (Some(pattern), Some(host)) => crate::routing::covers(pattern, host),
            (Some(_), None) => false,
        };
        let found = self.secure.iter().enumerate().filter(|(_, secure)| covers(secure));
        let best = found.max_by_key(|(_, secure)| secure.hostname.as_ref().map_or(0, String::len));
        best.map(|(index, _)| name_of(index))
    }
}

fn name_of(index: usize) -> String {
    format!("https-{index}")
}

/// Translates the Ingresses among these objects into ones for a GatewayClass.
pub fn translate(objects: &[Value], class: &str) -> Translation {
    let input = Input {
        ingresses: all(objects, "Ingress"),
        services: all(objects, "Service"),
        maps: all(objects, "ConfigMap"),
    };
    let namespaces: BTreeSet<&str> = input.ingresses.keys().map(|(namespace, _)| namespace.as_str()).collect();
    let mut translation = Translation::default();
    for of in namespaces {
        let mut translators: Vec<_> = input.translators(of).collect();
        let mut listeners = Listeners::default();
        for translator in &translators {
            translator.listen(&mut listeners);
        }
        let mut routed = Vec::new();
        for translator in &mut translators {
            translator.run(&listeners);
            routed.append(&mut translator.objects);
            let name = translator.ingress.metadata.name.as_deref().unwrap_or("");
            let notes = translator.notes.drain(..);
            translation.notes.extend(notes.map(|note| format!("Ingress {of}/{name}: {note}")));
        }
        if !routed.is_empty() {
            translation.objects.push(gateway(of, class, &listeners));
            translation.objects.append(&mut routed);
        }
    }
    translation
}

fn all<K: DeserializeOwned>(objects: &[Value], kind: &str) -> BTreeMap<(String, String), K> {
    let named = objects.iter().filter(|object| object["kind"] == kind).filter_map(|object| {
        let of = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let mut object = object.clone();
        object["metadata"]["namespace"] = of.clone().into();
        let name = object["metadata"]["name"].as_str()?.to_owned();
        Some(((of, name), serde_json::from_value(object).ok()?))
    });
    named.collect()
}

fn gateway(namespace: &str, class: &str, listeners: &Listeners) -> Value {
    let mut list = vec![json!({"name": CLEAR, "port": 80, "protocol": "HTTP"})];
    for (index, secure) in listeners.secure.iter().enumerate() {
        let mut listener = match &secure.secret {
            Some(secret) => json!({
                "name": name_of(index), "port": 443, "protocol": "HTTPS",
                "tls": {"mode": "Terminate", "certificateRefs": [{"name": secret}]},
            }),
            None => json!({"name": name_of(index), "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}}),
        };
        if let Some(hostname) = &secure.hostname {
            listener["hostname"] = json!(hostname);
        }
        list.push(listener);
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": namespace},
        "spec": {"gatewayClassName": class, "listeners": list},
    })
}

impl Input {
    fn translators(&self, of: &str) -> impl Iterator<Item = Translator<'_>> {
        let own = self.ingresses.iter().filter(move |((namespace, _), _)| namespace == of);
        own.map(|(_, ingress)| {
            let none = BTreeMap::new();
            let (settings, reports) = super::settings(ingress, &none);
            let annotations = ingress.metadata.annotations.iter().flatten();
            let texts = annotations.filter_map(|(name, text)| Some((name.strip_prefix(annotations::PREFIX)?, &**text)));
            let notes = reports.into_iter().map(|report| report.message).collect();
            Translator { input: self, ingress, settings, texts: texts.collect(), objects: Vec::new(), notes }
        })
    }

    /// The canaries of a host and path.
    fn canaries(&self, main: &Ingress, place: &str) -> Vec<(&Ingress, Settings)> {
        let beside = self.ingresses.iter().filter(|((of, _), _)| of == namespace(&main.metadata));
        let there = beside.filter(|(_, ingress)| canaries::paths(ingress).contains(place));
        let settings = there.map(|(_, ingress)| (ingress, super::settings(ingress, &BTreeMap::new()).0));
        settings.filter(|(_, settings)| settings.canary.enabled).collect()
    }
}

impl Translator<'_> {
    fn namespace(&self) -> &str {
        namespace(&self.ingress.metadata)
    }

    fn name(&self) -> &str {
        self.ingress.metadata.name.as_deref().unwrap_or("")
    }

    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn rules(&self) -> impl Iterator<Item = &IngressRule> + use<'_> {
        self.ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten())
    }

    /// Asks for the listeners that the Ingress needs.
    fn listen(&self, listeners: &mut Listeners) {
        if self.settings.passthrough {
            for host in self.rules().filter_map(super::rules::host) {
                listeners.add(Some(host), None);
            }
            return;
        }
        for tls in self.ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
            let Some(secret) = tls.secret_name.as_deref() else { continue };
            let hosts: Vec<_> = tls.hosts.iter().flatten().map(|host| Some(host.to_ascii_lowercase())).collect();
            for host in if hosts.is_empty() { vec![None] } else { hosts } {
                listeners.add(host, Some(secret));
            }
        }
    }

    fn run(&mut self, listeners: &Listeners) {
        if self.settings.canary.enabled {
            // It is a part of the rules that it stands beside.
            return;
        }
        if self.settings.closed {
            self.note("it lets nobody in here, so it is not translated");
            return;
        }
        if self.settings.passthrough {
            self.pass(listeners);
            return;
        }
        let routes = self.routes(listeners);
        let names: Vec<String> = routes.iter().filter(|route| route.forwards).map(|route| route.name.clone()).collect();
        self.objects.extend(routes.into_iter().map(|route| route.object));
        self.attach(&names, listeners);
    }

    /// An object of this Ingress's namespace.
    fn object(&self, api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
        json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace()}, "spec": spec,
        })
    }

    /// Connections that are passed on as they come.
    fn pass(&mut self, listeners: &Listeners) {
        let rules: Vec<_> = self.rules().cloned().collect();
        for (index, rule) in rules.iter().enumerate() {
            let path = rule.http.iter().flat_map(|http| &http.paths).next();
            let (Some(host), Some(path)) = (super::rules::host(rule), path) else { continue };
            let Some(backend) = self.backend(&path.backend) else { continue };
            let section = listeners.covering(Some(&host));
            let spec = json!({
                "parentRefs": [{"name": GATEWAY, "sectionName": section}],
                "hostnames": [host],
                "rules": [{"backendRefs": [backend]}],
            });
            let name = if rules.len() == 1 { self.name().to_owned() } else { format!("{}-{index}", self.name()) };
            self.objects.push(self.object("gateway.networking.k8s.io/v1", "TLSRoute", &name, spec));
        }
    }
}

#[cfg(test)]
mod tests;
