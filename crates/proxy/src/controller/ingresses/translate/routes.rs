//! HTTPRoutes.

use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend, IngressRule, ServiceBackendPort};
use serde_json::{Value, json};

use super::{CLEAR, GATEWAY, Listeners, Translator};
use crate::{
    controller::ingresses::{
        annotations::PREFIX,
        canaries,
        rules::{CORS_HEADERS, CORS_MAX_AGE, CORS_METHODS, host},
        settings::{Settings, Spoken},
        values,
    },
    routing::{Canary, Values},
};

/// A route.
pub(super) struct Route {
    pub(super) name: String,
    pub(super) object: Value,
    /// Whether it leads to backends, so that policies are about it.
    pub(super) forwards: bool,
}

/// A path as a condition, and the changes that it needs.
struct Condition {
    path: Value,
    /// What becomes of the path.
    rewrite: Option<PathRewrite>,
}

enum PathRewrite {
    Full(String),
    Prefix(String),
    /// A pattern, and what it is replaced with.
    Pattern(String, String),
}

impl Translator<'_> {
    pub(super) fn routes(&mut self, listeners: &Listeners) -> Vec<Route> {
        let rules: Vec<IngressRule> = self.rules().cloned().collect();
        let hosts: Vec<String> = rules.iter().filter_map(host).collect();
        let mut routes = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let name = if rules.len() == 1 { self.name().to_owned() } else { format!("{}-{index}", self.name()) };
            let own = host(rule);
            let mut hostnames: Vec<String> = own.iter().cloned().collect();
            if index == 0 {
                hostnames.extend(self.settings.aliases.iter().filter(|alias| !hosts.contains(alias)).cloned());
            }
            if hostnames.iter().any(|host| host.starts_with("*.")) {
                self.note("a wildcard stands for any number of labels in Gateway API, and for one in an Ingress");
            }
            let rules = self.route_rules(rule);
            if !rules.is_empty() {
                self.route(&mut routes, listeners, name, (&hostnames, own.as_deref()), rules);
            }
        }
        if self.settings.redirects.www {
            for host in hosts.iter().filter(|host| !host.starts_with("*.")) {
                let other = host.strip_prefix("www.").map_or_else(|| format!("www.{host}"), str::to_owned);
                if !hosts.contains(&other) {
                    let rule = json!({"filters": [redirect(json!({"hostname": host, "statusCode": self.status()}))]});
                    let name = format!("{}-{other}", self.name()).replace('.', "-");
                    let hostnames = [other.clone()];
                    self.push(
                        &mut routes,
                        (name, false),
                        &hostnames,
                        &parents(listeners, Some(&other), true),
                        vec![rule],
                    );
                }
            }
        }
        let default = self.ingress.spec.as_ref().and_then(|spec| spec.default_backend.clone());
        if let Some(backend) = default {
            let path = HTTPIngressPath { backend, path: Some("/".into()), path_type: "Prefix".into() };
            let rules = self.path_rules(None, &path);
            let name = format!("{}-default", self.name());
            self.route(&mut routes, listeners, name, (&[], None), rules);
        }
        routes
    }

    fn status(&self) -> u16 {
        self.settings.redirects.status.map_or(308, |status| status.as_u16())
    }

    /// A route behind the listeners that it belongs to, and one that sends clear requests to TLS.
    fn route(
        &mut self,
        routes: &mut Vec<Route>,
        listeners: &Listeners,
        name: String,
        (hostnames, own): (&[String], Option<&str>),
        rules: Vec<Value>,
    ) {
        let secure = listeners.covering(own);
        let redirects = &self.settings.redirects;
        let redirected = redirects.secure_always || secure.is_some() && redirects.secure != Some(false);
        if redirects.secure_always && secure.is_none() {
            self.note("force-ssl-redirect without a certificate: who ends TLS before the gateway has to say so itself");
        }
        if !redirected {
            self.push(routes, (name, true), hostnames, &parents(listeners, own, true), rules);
            return;
        }
        if secure.is_some() {
            self.push(routes, (name.clone(), true), hostnames, &parents(listeners, own, false), rules);
        }
        let to_secure = redirect(json!({"scheme": "https", "statusCode": self.status()}));
        let (clear, rule) = (json!([{"name": GATEWAY, "sectionName": CLEAR}]), json!({"filters": [to_secure]}));
        self.push(routes, (format!("{name}-to-https"), false), hostnames, &clear, vec![rule]);
    }

    fn push(
        &self,
        routes: &mut Vec<Route>,
        (name, forwards): (String, bool),
        hostnames: &[String],
        parents: &Value,
        rules: Vec<Value>,
    ) {
        let mut spec = json!({"parentRefs": parents});
        if !hostnames.is_empty() {
            spec["hostnames"] = json!(hostnames);
        }
        spec["rules"] = json!(rules);
        let object = self.object("gateway.networking.k8s.io/v1", "HTTPRoute", &name, spec);
        routes.push(Route { name, object, forwards });
    }

    fn route_rules(&mut self, rule: &IngressRule) -> Vec<Value> {
        let mut rules = Vec::new();
        if let (Some(root), true) = (&self.settings.paths.app_root, rule.http.is_some()) {
            let path = json!({"type": "ReplaceFullPath", "replaceFullPath": root});
            let filter = redirect(json!({"path": path, "statusCode": 302}));
            rules.push(json!({"matches": [{"path": {"type": "Exact", "value": "/"}}], "filters": [filter]}));
        }
        for path in rule.http.iter().flat_map(|http| &http.paths) {
            rules.extend(self.path_rules(rule.host.as_deref(), path));
        }
        rules
    }

    /// The rules of a path: those of its canaries, and its own.
    fn path_rules(&mut self, host: Option<&str>, path: &HTTPIngressPath) -> Vec<Value> {
        let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let condition = self.condition(path, text);
        let filters = self.filters(&path.backend, condition.rewrite);
        let matched = json!({"path": condition.path});
        if let Some(redirect) = self.redirect() {
            return vec![json!({"matches": [matched], "filters": [redirect]})];
        }
        let Some(main) = self.backend(&path.backend) else { return Vec::new() };
        let rule = |headers: Option<Value>, backends: Vec<Value>| {
            let mut matched = matched.clone();
            if let Some(headers) = headers {
                matched["headers"] = headers;
            }
            let mut rule = json!({"matches": [matched]});
            if !filters.is_empty() {
                rule["filters"] = json!(filters);
            }
            rule["backendRefs"] = json!(backends);
            rule
        };
        let place = canaries::place(self.namespace(), host, path);
        let found = self.input.canaries(self.ingress, &place);
        let namespace = self.namespace();
        let canary = found.first().and_then(|(ingress, settings)| {
            let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
            let mut paths = rules.flat_map(|rule| {
                let paths = rule.http.iter().flat_map(|http| &http.paths);
                paths.map(move |path| (canaries::place(namespace, rule.host.as_deref(), path), &path.backend))
            });
            let backend = paths.find(|(of, _)| *of == place).map(|(_, backend)| backend.clone())?;
            Some((settings.canary.of.clone(), backend))
        });
        let canary = canary.and_then(|(of, backend)| Some((of, self.backend(&backend)?)));
        let Some((of, canary)) = canary else { return vec![rule(None, vec![main])] };
        let mut rules: Vec<Value> = deciders(&of)
            .into_iter()
            .map(|(header, to_canary)| {
                rule(Some(json!([header])), vec![if to_canary { &canary } else { &main }.clone()])
            })
            .collect();
        let weighted = |backend: &Value, weight: u32| {
            let mut backend = backend.clone();
            backend["weight"] = json!(weight);
            backend
        };
        let left = of.total.saturating_sub(of.weight);
        rules.push(match of.weight {
            0 => rule(None, vec![main]),
            weight => rule(None, vec![weighted(&main, left), weighted(&canary, weight)]),
        });
        rules
    }

    /// The redirect in place of backends.
    fn redirect(&mut self) -> Option<Value> {
        let temporal =
            self.texts.get("temporal-redirect").map(|to| (*to, self.settings.redirects.temporal_status, 302));
        let permanent =
            self.texts.get("permanent-redirect").map(|to| (*to, self.settings.redirects.permanent_status, 301));
        let (to, status, default) = temporal.or(permanent)?;
        let status = status.map_or(default, |status| status.as_u16());
        let (place, keeps) = match to.strip_suffix("$request_uri") {
            Some(place) => (place, true),
            None => (to, false),
        };
        match values::url(place) {
            Ok(url) if !place.contains('$') && !url.target.contains('?') => {
                let scheme = if url.tls { "https" } else { "http" };
                let mut to = json!({"scheme": scheme, "hostname": url.host, "port": url.port, "statusCode": status});
                if !keeps {
                    let path = if url.target.is_empty() { "/" } else { &url.target };
                    to["path"] = json!({"type": "ReplaceFullPath", "replaceFullPath": path});
                    self.note("a redirect of Gateway API keeps the query of the request");
                }
                Some(redirect(to))
            }
            _ => {
                self.note(format!("the redirect to {to:?} cannot be told by a route"));
                Some(redirect(json!({"statusCode": status})))
            }
        }
    }

    /// A reference to a backend.
    pub(super) fn backend(&mut self, backend: &IngressBackend) -> Option<Value> {
        let Some(service) = &backend.service else {
            self.note("a backend is no Service");
            return None;
        };
        match self.port(&service.name, service.port.as_ref()) {
            Some(port) => Some(json!({"name": service.name, "port": port})),
            None => {
                self.note(format!("the number of the port of Service {} is not known: add the Service", service.name));
                None
            }
        }
    }

    fn port(&self, service: &str, port: Option<&ServiceBackendPort>) -> Option<i32> {
        let port = port?;
        let named = || {
            let service = self.input.services.get(&(self.namespace().to_owned(), service.to_owned()))?;
            let ports = service.spec.as_ref()?.ports.as_ref()?;
            ports.iter().find(|known| known.name == port.name).map(|known| known.port)
        };
        port.number.or_else(named)
    }

    fn condition(&mut self, path: &HTTPIngressPath, text: &str) -> Condition {
        let paths = &self.settings.paths;
        let special = text.bytes().any(|b| b"^$*+?()[]{}|\\".contains(&b));
        let rewrite = paths.rewrite.clone();
        if !special || !(paths.regex || rewrite.is_some()) {
            let kind = if path.path_type == "Exact" { "Exact" } else { "PathPrefix" };
            // Nothing was caught: what stands for it is empty.
            let rewrite = rewrite.map(|target| PathRewrite::Full(without_captures(&target)));
            return Condition { path: json!({"type": kind, "value": text}), rewrite };
        }
        self.note("where patterns and prefixes take the same path, Gateway API lets implementations choose");
        // The common idiom for a prefix that is taken away.
        if let (Some(prefix), Some(target)) = (text.strip_suffix("(/|$)(.*)"), &rewrite)
            && !prefix.bytes().any(|b| b"^$*+?()[]{}|\\.".contains(&b))
            && let Some(to) = target.strip_suffix("$2").filter(|to| to.ends_with('/') && !to.contains('$'))
        {
            self.note(format!("the path {text:?} is a prefix, in which upper and lower case differ"));
            if to != "/" {
                self.note(format!("the path {prefix:?} itself becomes {to:?} without the slash at the end"));
            }
            let to = if to == "/" { to } else { to.trim_end_matches('/') };
            let path = json!({"type": "PathPrefix", "value": prefix});
            return Condition { path, rewrite: Some(PathRewrite::Prefix(to.to_owned())) };
        }
        let path = json!({"type": "RegularExpression", "value": format!("(?i)(?:{text}).*")});
        let rewrite = rewrite.map(|target| PathRewrite::Pattern(format!("^(?i)(?:{text}).*$"), escaped(&target)));
        Condition { path, rewrite }
    }

    /// What is changed on the way.
    fn filters(&mut self, backend: &IngressBackend, rewrite: Option<PathRewrite>) -> Vec<Value> {
        let mut filters = Vec::new();
        if let Some(prefix) = self.settings.forwarded_prefix.as_ref().and_then(|prefix| prefix.to_str().ok()) {
            let set = json!([{"name": "X-Forwarded-Prefix", "value": prefix}]);
            filters.push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set}}));
        }
        if let Some(set) = self.response_headers() {
            filters.push(json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}}));
        }
        self.rewrite(&mut filters, backend, rewrite);
        if self.settings.cors.enabled {
            filters.push(json!({"type": "CORS", "cors": cors(&self.settings)}));
        }
        if let Some(mirror) = self.settings.mirror.clone() {
            match self.elsewhere(&mirror) {
                Some((backend, _)) => {
                    filters.push(json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}}))
                }
                None => self.note(format!("mirror-target {mirror:?} is no Service of the cluster")),
            }
        }
        filters
    }

    fn rewrite(&mut self, filters: &mut Vec<Value>, backend: &IngressBackend, rewrite: Option<PathRewrite>) {
        let mut changes = json!({});
        if let Some(host) = self.settings.upstream.host.clone() {
            let service = backend.service.as_ref().map_or("", |service| service.name.as_str());
            let port = backend.service.as_ref().and_then(|of| self.port(service, of.port.as_ref()));
            let host = host.replace("$service_name", service).replace("$namespace", self.namespace());
            let host = host.replace("$service_port", &port.map(|port| port.to_string()).unwrap_or_default());
            match host.contains('$') {
                true if host == "$host" || host == "$http_host" => {}
                true => self.note(format!("upstream-vhost {host:?} is not the same for all requests")),
                false => changes["hostname"] = json!(host),
            }
        }
        match rewrite {
            None => {}
            Some(PathRewrite::Full(path)) => {
                changes["path"] = json!({"type": "ReplaceFullPath", "replaceFullPath": path});
            }
            Some(PathRewrite::Prefix(prefix)) => {
                changes["path"] = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": prefix});
            }
            Some(PathRewrite::Pattern(pattern, substitution)) => {
                let name = format!("{}-{}", self.name(), self.objects.len());
                let replace = json!({"pattern": pattern, "substitution": substitution});
                let spec = json!({"urlRewrite": {"path": {"type": "ReplaceRegexMatch", "replaceRegexMatch": replace}}});
                let filter = self.object("gateway.envoyproxy.io/v1alpha1", "HTTPRouteFilter", &name, spec);
                self.objects.push(filter);
                let reference = json!({"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": name});
                filters.push(json!({"type": "ExtensionRef", "extensionRef": reference}));
            }
        }
        if changes != json!({}) {
            filters.push(json!({"type": "URLRewrite", "urlRewrite": changes}));
        }
    }

    fn response_headers(&mut self) -> Option<Value> {
        let name = self.settings.response_headers.clone()?;
        let map = self.input.maps.get(&(self.namespace().to_owned(), name.to_string()));
        let Some(data) = map.and_then(|map| map.data.as_ref()) else {
            self.note(format!("the headers of ConfigMap {name} are not known: add the ConfigMap"));
            return None;
        };
        Some(data.iter().map(|(name, value)| json!({"name": name, "value": value})).collect())
    }

    /// The Service that a URL leads to, and the path there.
    pub(super) fn elsewhere(&self, text: &str) -> Option<(Value, String)> {
        let url = values::url(text).ok()?;
        let service = crate::controller::ingresses::backends::service(&url.host, self.namespace())?;
        let mut backend = json!({"name": service.name, "port": url.port});
        if service.namespace != self.namespace() {
            backend["namespace"] = json!(service.namespace);
        }
        Some((backend, url.target))
    }

    /// Whether backends are spoken to in another way than their Services say.
    pub(super) fn note_spoken(&mut self) {
        match self.settings.upstream.spoken {
            None | Some(Spoken::Http) => {}
            Some(Spoken::Grpc) => {
                self.note("backend-protocol: say appProtocol kubernetes.io/h2c at the Services' ports")
            }
            Some(Spoken::Https | Spoken::Grpcs) => {
                let what = format!("{PREFIX}backend-protocol");
                self.note(format!(
                    "{what}: a BackendTLSPolicy with the roots (in a ConfigMap) and the name makes it TLS; without \
                     verification there is none in Gateway API"
                ));
            }
        }
    }
}

/// The listeners of a host: the clear one, the one with its certificate.
fn parents(listeners: &Listeners, host: Option<&str>, clear: bool) -> Value {
    let secure = listeners.covering(host);
    let sections = Some(CLEAR.to_owned()).filter(|_| clear).into_iter().chain(secure);
    sections.map(|section| json!({"name": GATEWAY, "sectionName": section})).collect()
}

fn redirect(to: Value) -> Value {
    json!({"type": "RequestRedirect", "requestRedirect": to})
}

/// The headers that decide whether a request is the canary's, the first first.
fn deciders(of: &Canary) -> Vec<(Value, bool)> {
    let exact = |name: &str, value: &str| json!({"name": name, "type": "Exact", "value": value});
    let pattern = |name: &str, value: String| json!({"name": name, "type": "RegularExpression", "value": value});
    let mut deciders = Vec::new();
    if let Some((name, values)) = &of.header {
        match values {
            Values::Named => {
                deciders.extend([(exact(name.as_str(), "always"), true), (exact(name.as_str(), "never"), false)]);
            }
            Values::Exact(value) => deciders.push((exact(name.as_str(), value), true)),
            Values::Pattern(found) => deciders.push((pattern(name.as_str(), format!(".*(?:{found}).*")), true)),
        }
    }
    if let Some(name) = &of.cookie {
        let cookie = |value: &str| pattern("Cookie", format!("(?:.*;\\s*)?{name}={value}(?:\\s*;.*)?"));
        deciders.extend([(cookie("always"), true), (cookie("never"), false)]);
    }
    deciders
}

fn cors(settings: &Settings) -> Value {
    let cors = &settings.cors;
    let or = |given: &Option<Vec<String>>, default: &[&str]| {
        given.clone().unwrap_or_else(|| default.iter().map(|name| (*name).to_owned()).collect())
    };
    let mut value = json!({
        "allowOrigins": or(&cors.origins, &["*"]),
        "allowMethods": or(&cors.methods, &CORS_METHODS),
        "allowHeaders": or(&cors.headers, &CORS_HEADERS),
        "maxAge": cors.max_age.unwrap_or(CORS_MAX_AGE),
    });
    if cors.credentials.unwrap_or(true) {
        value["allowCredentials"] = json!(true);
    }
    if !cors.expose.is_empty() {
        value["exposeHeaders"] = json!(cors.expose);
    }
    value
}

/// A target in which nothing stands for what was caught.
fn without_captures(target: &str) -> String {
    captured(target, |_| String::new())
}

/// A target in the words of Envoy's substitutions.
fn escaped(target: &str) -> String {
    captured(&target.replace('\\', "\\\\"), |digit| format!("\\{digit}"))
}

fn captured(target: &str, replace: impl Fn(char) -> String) -> String {
    let (mut text, mut characters) = (String::new(), target.chars().peekable());
    while let Some(character) = characters.next() {
        match (character, characters.peek().filter(|next| next.is_ascii_digit()).copied()) {
            ('$', Some(digit)) => {
                characters.next();
                text.push_str(&replace(digit));
            }
            (other, _) => text.push(other),
        }
    }
    text
}
