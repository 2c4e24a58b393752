//! Envoy Gateway's policies, for what Gateway API leaves open.

use std::time::Duration;

use serde_json::{Value, json};

use super::{GATEWAY, Listeners, Translator};
use crate::controller::ingresses::{
    settings::{Balancing, Verify},
    values,
};

const API: &str = "gateway.envoyproxy.io/v1alpha1";

impl Translator<'_> {
    /// Attaches what policies say to these routes.
    pub(super) fn attach(&mut self, routes: &[String], listeners: &Listeners) {
        let targets: Vec<Value> = routes
            .iter()
            .map(|name| json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name}))
            .collect();
        let (traffic, security) = (self.traffic(), self.security());
        for (kind, mut spec) in [("BackendTrafficPolicy", traffic), ("SecurityPolicy", security)] {
            if spec != json!({}) && !targets.is_empty() {
                spec["targetRefs"] = json!(targets);
                let policy = self.object(API, kind, self.name(), spec);
                self.objects.push(policy);
            }
        }
        self.clients(listeners);
        self.note_rest();
    }

    /// How requests are forwarded.
    fn traffic(&mut self) -> Value {
        let (settings, mut spec) = (self.settings.traffic.clone(), json!({}));
        if let Some(connect) = settings.connect.filter(|limit| !limit.is_zero()) {
            spec["timeout"]["tcp"] = json!({"connectTimeout": seconds(connect)});
        }
        if let Some(read) = settings.read.filter(|limit| !limit.is_zero()) {
            self.note("proxy-read-timeout becomes the time for the whole of a request");
            spec["timeout"]["http"] = json!({"requestTimeout": seconds(read)});
        }
        if let Some(Some(most)) = settings.body_max {
            self.note("proxy-body-size becomes a limit on bodies that are kept until they are whole");
            spec["requestBuffer"] = json!({"limit": most.to_string()});
        }
        self.balance(&mut spec);
        self.again(&mut spec);
        let limits = &settings.limits;
        let rules: Vec<Value> = [(limits.minute, "Minute"), (limits.second, "Second")]
            .into_iter()
            .filter(|(requests, _)| *requests > 0)
            .map(|(requests, unit)| {
                let everybody = json!({"type": "Distinct", "value": "0.0.0.0/0"});
                json!({"clientSelectors": [{"sourceCIDR": everybody}], "limit": {"requests": requests, "unit": unit}})
            })
            .collect();
        if !rules.is_empty() {
            self.note("rate limits have no burst besides and are answered with 429");
            spec["rateLimit"] = json!({"type": "Local", "local": {"rules": rules}});
        }
        if !limits.free.is_empty() {
            self.note("rate limits are for all clients: limit-allowlist has no equivalent");
        }
        if limits.connections > 0 {
            self.note("limit-connections has no equivalent: a limit on the requests of one client at once");
        }
        spec
    }

    fn balance(&mut self, spec: &mut Value) {
        let settings = self.settings.traffic.clone();
        match settings.balancing {
            None => {}
            Some(Balancing::Turns) => spec["loadBalancer"] = json!({"type": "RoundRobin"}),
            Some(Balancing::Fastest) => {
                self.note("load-balance ewma becomes LeastRequest");
                spec["loadBalancer"] = json!({"type": "LeastRequest"});
            }
        }
        if let Some(text) = self.texts.get("upstream-hash-by").copied() {
            match hash(text) {
                Some(hash) => spec["loadBalancer"] = json!({"type": "ConsistentHash", "consistentHash": hash}),
                None => self.note(format!("upstream-hash-by {text:?} is more than one part of the request")),
            }
            if settings.subset {
                self.note("upstream-hash-by-subset has no equivalent: every key has one endpoint");
            }
        }
        let session = self.settings.session.clone();
        if session.enabled {
            let mut attributes = json!({});
            let same_site = session.same_site.map(|same_site| format!("{same_site:?}"));
            let values = [
                ("Path", session.path.map(String::from)),
                ("Domain", session.domain),
                ("SameSite", same_site),
                ("Secure", (session.secure == Some(true)).then(String::new)),
                ("Partitioned", session.partitioned.then(String::new)),
            ];
            for (name, value) in values {
                if let Some(value) = value {
                    attributes[name] = json!(value);
                }
            }
            let mut cookie = json!({"name": session.name.as_deref().unwrap_or("INGRESSCOOKIE")});
            if let Some(age) = session.max_age.or(session.expires).filter(|age| !age.is_zero()) {
                cookie["ttl"] = json!(seconds(age));
            }
            if attributes != json!({}) {
                cookie["attributes"] = attributes;
            }
            self.note("affinity becomes a hash of the cookie: clients move when endpoints come and go");
            spec["loadBalancer"] =
                json!({"type": "ConsistentHash", "consistentHash": {"type": "Cookie", "cookie": cookie}});
        }
    }

    /// When another endpoint is tried.
    fn again(&mut self, spec: &mut Value) {
        let next = self.settings.traffic.next.clone();
        if next.when.is_none() && next.tries.is_none() && next.within.is_none() {
            return;
        }
        let when = next.when.unwrap_or_else(super::super::traffic::anyway);
        let mut triggers = Vec::new();
        if when.error {
            triggers.extend(["connect-failure", "refused-stream", "reset"]);
        }
        if when.timeout && !when.error {
            self.note("proxy-next-upstream timeout has no equivalent without error");
        }
        let mut on = json!({"triggers": triggers});
        if !when.statuses.is_empty() {
            triggers.push("retriable-status-codes");
            let codes: Vec<u16> = when.statuses.iter().map(|status| status.as_u16()).collect();
            on = json!({"triggers": triggers, "httpStatusCodes": codes});
        }
        let retries = next.tries.unwrap_or(super::super::traffic::TRIES).saturating_sub(1);
        if triggers.is_empty() || retries == 0 {
            return;
        }
        if !when.any_method {
            self.note(
                "requests are tried again whatever their method: proxy-next-upstream spares those that may do harm",
            );
        }
        if next.within.is_some_and(|within| !within.is_zero()) {
            self.note("proxy-next-upstream-timeout has no equivalent");
        }
        spec["retry"] = json!({"numRetries": retries, "retryOn": on});
    }

    /// What requests have to pass.
    fn security(&mut self) -> Value {
        let (access, mut spec) = (self.settings.access.clone(), json!({}));
        let listed = |names: [&str; 2]| -> Vec<String> {
            let text = names.iter().find_map(|name| self.texts.get(name)).copied().unwrap_or("");
            values::list(text)
        };
        let (allow, deny) =
            (listed(["whitelist-source-range", "allowlist-source-range"]), listed(["denylist-source-range"; 2]));
        let rule = |action: &str, networks: &[String]| {
            (!networks.is_empty()).then(|| json!({"action": action, "principal": {"clientCIDRs": networks}}))
        };
        let rules: Vec<Value> = rule("Deny", &deny).into_iter().chain(rule("Allow", &allow)).collect();
        if !rules.is_empty() {
            let default = if allow.is_empty() { "Allow" } else { "Deny" };
            spec["authorization"] = json!({"defaultAction": default, "rules": rules});
        }
        if let (true, Some(secret)) = (access.basic.wanted, &access.basic.secret) {
            self.note(format!("Secret {secret}: a SecurityPolicy reads names and passwords from the key .htpasswd"));
            spec["basicAuth"] = json!({"users": {"name": secret}});
        }
        if let Some(text) = self.texts.get("auth-url").copied().filter(|_| access.external.url.is_some())
            && let Some((backend, target)) = self.elsewhere(text)
        {
            let path = target.split(['?', '$']).next().unwrap_or("");
            let told: Vec<&str> = access.external.to_backend.iter().map(|name| name.as_str()).collect();
            let mut http = json!({"backendRefs": [backend], "path": path});
            if !told.is_empty() {
                http["headersToBackend"] = json!(told);
            }
            self.note("auth-url: a SecurityPolicy asks below the path, with the path of the request behind it");
            if access.external.sign_in.is_some() {
                self.note("auth-signin has no equivalent: the service itself sends clients to where they sign in");
            }
            spec["extAuth"] = json!({"http": http});
        }
        if access.any {
            self.note("satisfy any has no equivalent: everything that is asked must be so");
        }
        spec
    }

    /// What is asked of clients' certificates, by the listeners of this Ingress's hosts.
    fn clients(&mut self, listeners: &Listeners) {
        let clients = self.settings.clients.clone();
        let Some(secret) = clients.secret else { return };
        let optional = match clients.verify {
            Verify::Off => return,
            Verify::On => false,
            Verify::Optional => true,
            Verify::Asked => {
                self.note("auth-tls-verify-client optional_no_ca has no equivalent");
                return;
            }
        };
        let mut sections: Vec<String> =
            self.rules().filter_map(|rule| listeners.covering(super::super::rules::host(rule).as_deref())).collect();
        sections.sort_unstable();
        sections.dedup();
        let targets: Vec<Value> = sections
            .iter()
            .map(|section| {
                let (group, kind) = ("gateway.networking.k8s.io", "Gateway");
                json!({"group": group, "kind": kind, "name": GATEWAY, "sectionName": section})
            })
            .collect();
        if targets.is_empty() {
            return;
        }
        let validation = json!({"optional": optional, "caCertificateRefs": [{"kind": "Secret", "name": secret}]});
        let spec = json!({"targetRefs": targets, "tls": {"clientValidation": validation}});
        let policy = self.object(API, "ClientTrafficPolicy", self.name(), spec);
        self.objects.push(policy);
    }

    /// What nothing else has.
    fn note_rest(&mut self) {
        self.note_spoken();
        if self.settings.upstream.by_service_address {
            self.note("service-upstream has no equivalent: requests go to the endpoints");
        }
        if !self.settings.pages.statuses.is_empty() || self.settings.pages.service.is_some() {
            self.note("custom-http-errors and default-backend have no equivalent: no backend is asked for pages");
        }
    }
}

/// A duration as Gateway API writes it.
fn seconds(limit: Duration) -> String {
    format!("{}s", limit.as_secs())
}

/// What is hashed, where that is one part of a request.
fn hash(text: &str) -> Option<Value> {
    let name = text.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    if matches!(name, "remote_addr" | "binary_remote_addr") {
        return Some(json!({"type": "SourceIP"}));
    }
    if let Some(header) = name.strip_prefix("http_") {
        return Some(json!({"type": "Headers", "headers": [{"name": header.replace('_', "-")}]}));
    }
    if let Some(cookie) = name.strip_prefix("cookie_") {
        return Some(json!({"type": "Cookie", "cookie": {"name": cookie}}));
    }
    let parameter = name.strip_prefix("arg_")?;
    Some(json!({"type": "QueryParams", "queryParams": [{"name": parameter}]}))
}
