//! DestinationRules: how the endpoints of a Service are used.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;
use kinds::istio::{
    ClientTlsMode, ConnectionPool, DestinationRule, IstioConsistentHash, IstioRetryBudget, LoadBalancer,
    OutlierDetection, Rest, SimpleBalancer, TrafficPolicy,
};
use reconcile::Key;
use resilience::{balance::SlowStart, outlier::OutlierConfig};

use super::{duration, service_of, virtual_services::http_ports};
use crate::{
    controller::{
        attach::Placement,
        lookup::{Seen, namespace, rank},
        verdict::Fault,
    },
    routing::{
        Action, Balance, Entry, Frontend, HashKey, Limits, Owner, Rank, RequestMatch, Rule, Share, Upstream,
        UpstreamConfig,
    },
};

/// What an endpoint gets at first while it is spared, and how evenly that grows: Istio's.
const WARMUP: (f64, f64) = (0.1, 1.0);

/// A DestinationRule, and what of it is not followed.
pub(crate) struct DestinationPlan {
    /// The Service that it is about.
    pub(crate) service: Option<Key>,
    pub(crate) wrong: Vec<String>,
}

impl DestinationPlan {
    pub(crate) fn of(rule: &DestinationRule) -> Self {
        let mut wrong = Vec::new();
        let (own, service) = (namespace(&rule.metadata), about(rule));
        if service.is_none() {
            wrong.push(format!("host {:?} is no Service of namespace {own}", rule.spec.host));
        }
        if rule.spec.export_to.iter().any(|to| to != "*") {
            wrong.push("exportTo is not followed: the rule is for all clients".to_owned());
        }
        if rule.spec.workload_selector.is_some() {
            wrong.push("workloadSelector is not followed: the rule has no effect".to_owned());
        }
        let of_subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
        for policy in rule.spec.traffic_policy.iter().chain(of_subsets) {
            // Once for the ports without settings of their own, and once for each of the others.
            let ports = policy.port_level_settings.iter().filter_map(|settings| settings.port);
            for port in std::iter::once(None).chain(ports.map(|port| Some(port.number))) {
                if let Err(fault) = config(policy, port, &mut wrong) {
                    wrong.push(fault.message);
                }
            }
        }
        wrong.sort_unstable();
        wrong.dedup();
        DestinationPlan { service, wrong }
    }
}

/// The Service of its own namespace that a rule is about.
pub(crate) fn about(rule: &DestinationRule) -> Option<Key> {
    let own = namespace(&rule.metadata);
    service_of(&rule.spec.host, own).filter(|service| service.namespace == own)
}

/// Whose the rules are of Services that no route says anything of.
pub(crate) fn otherwise_owner(service: &Key) -> Owner {
    Owner { kind: "Service", name: service.to_string().into() }
}

/// Rules for requests to a Service that a DestinationRule is about: nobody looks at them otherwise.
pub(crate) fn otherwise(seen: &Seen<'_>, service: &Key) -> Vec<Placement> {
    if oldest(&seen.destinations(service)).is_none() {
        return Vec::new();
    }
    let Some(object) = seen.service(service) else { return Vec::new() };
    let place = |number: u16| {
        let share = Share::new(seen.backend(service, i32::from(number)), 1);
        let rule = Rule::new(otherwise_owner(service), Action::Forward(vec![share]));
        let entry = Entry::new(RequestMatch::prefix("/"), Rank::default(), Arc::new(rule));
        Placement::Service(Frontend::otherwise(&service.to_string(), number), Arc::new(entry))
    };
    http_ports(&object).map(place).collect()
}

/// A part of a Service: labels of its pods, and how its endpoints behind a port are used where that is said.
type Part = (BTreeMap<String, String>, Option<Arc<Upstream>>);

/// A part of a Service by the name that its DestinationRule gives it.
pub(super) fn subset(seen: &Seen<'_>, service: &Key, name: &str, port: i32) -> Option<Part> {
    let rules = seen.destinations(service);
    let rule = oldest(&rules)?;
    let subset = rule.spec.subsets.iter().find(|subset| subset.name == name)?;
    let policy = subset.traffic_policy.as_ref().or(rule.spec.traffic_policy.as_ref());
    // What cannot be followed was told.
    let config = policy.and_then(|policy| config(policy, u32::try_from(port).ok(), &mut Vec::new()).ok());
    Some((subset.labels.clone(), config.and_then(|config| Upstream::new(config).ok())))
}

/// The rule that counts.
fn oldest(rules: &[Arc<DestinationRule>]) -> Option<&DestinationRule> {
    let rules = rules.iter().filter(|rule| rule.spec.workload_selector.is_none());
    rules.min_by_key(|rule| rank(&rule.metadata)).map(|rule| &**rule)
}

/// How the endpoints behind ports of a Service are used, as the oldest DestinationRule about it says; `None` where none does.
pub(crate) fn upstreams(seen: &Seen<'_>, service: &Key, numbers: &[i32]) -> Option<Vec<(i32, Arc<Upstream>)>> {
    let rules = seen.destinations(service);
    let policy = oldest(&rules)?.spec.traffic_policy.clone().unwrap_or_default();
    let upstream = |number: &i32| {
        // What cannot be followed was told.
        let config = config(&policy, u32::try_from(*number).ok(), &mut Vec::new()).ok()?;
        Some((*number, Upstream::new(config).ok()?))
    };
    Some(numbers.iter().filter_map(upstream).collect())
}

fn config(policy: &TrafficPolicy, port: Option<u32>, wrong: &mut Vec<String>) -> Result<UpstreamConfig, Fault> {
    let own =
        policy.port_level_settings.iter().find(|settings| port.is_some() && settings.port.map(|p| p.number) == port);
    // What is said for a port is said in place of all that is said for the others.
    let settings = own.map_or(&policy.settings, |own| &own.settings);
    tell(wrong, "trafficPolicy", &policy.rest);
    let mut config = UpstreamConfig { panic_percent: 0, ..UpstreamConfig::default() };
    if let Some(from) = &settings.load_balancer {
        balance(from, &mut config, wrong)?;
    }
    if let Some(from) = &settings.connection_pool {
        pool(from, &mut config, wrong)?;
    }
    if let Some(from) = &policy.retry_budget {
        budget(from, &mut config.limits, wrong);
    }
    if let Some(from) = &settings.outlier_detection {
        outlier(from, &mut config, wrong)?;
    }
    if let Some(tls) = &settings.tls
        && matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
    {
        wrong.push("trafficPolicy.tls is not followed: the mesh encrypts, and clients may do so themselves".to_owned());
    }
    Upstream::new(config.clone()).map_err(|error| Fault::new("UnsupportedValue", format!("trafficPolicy: {error}")))?;
    Ok(config)
}

fn tell(wrong: &mut Vec<String>, path: &str, rest: &Rest) {
    wrong.extend(rest.keys().map(|name| format!("{path}.{name} is not followed")));
}

fn balance(from: &LoadBalancer, config: &mut UpstreamConfig, wrong: &mut Vec<String>) -> Result<(), Fault> {
    const PATH: &str = "trafficPolicy.loadBalancer";
    tell(wrong, PATH, &from.rest);
    if from.locality_lb_setting.as_ref().is_some_and(|setting| setting.enabled != Some(false)) {
        wrong.push(format!("{PATH}.localityLbSetting is not followed"));
    }
    config.balance = match (from.simple.unwrap_or_default(), &from.consistent_hash) {
        (_, Some(hash)) => Balance::Hash(key(hash, wrong)?),
        (SimpleBalancer::Unspecified | SimpleBalancer::LeastConn | SimpleBalancer::LeastRequest, None) => {
            Balance::LeastRequest
        }
        (SimpleBalancer::Random, None) => Balance::Random,
        (SimpleBalancer::RoundRobin, None) => Balance::Turns,
        (SimpleBalancer::Passthrough, None) => {
            wrong.push(format!("{PATH}.simple: PASSTHROUGH is not followed"));
            Balance::LeastRequest
        }
    };
    let warmup = from.warmup.clone().unwrap_or_default();
    let window = from.warmup.as_ref().map(|warmup| warmup.duration.as_str()).or(from.warmup_duration_secs.as_deref());
    let (min_weight, aggression) = WARMUP;
    config.slow_start = duration(&format!("{PATH}.warmup.duration"), window)?.map(|window| SlowStart {
        window,
        aggression: warmup.aggression.unwrap_or(aggression),
        min_weight: warmup.minimum_percent.map_or(min_weight, |percent| percent / 100.0),
    });
    Ok(())
}

fn key(from: &IstioConsistentHash, wrong: &mut Vec<String>) -> Result<HashKey, Fault> {
    const PATH: &str = "trafficPolicy.loadBalancer.consistentHash";
    let unsupported = |message: String| Fault::new("UnsupportedValue", message);
    if let Some(name) = &from.http_header_name {
        let name = HeaderName::try_from(&**name);
        let name = name.map_err(|_| unsupported(format!("{PATH}.httpHeaderName is no name of a header")))?;
        return Ok(HashKey::Headers([name].into()));
    }
    if let Some(cookie) = &from.http_cookie {
        if cookie.ttl.is_some() {
            wrong.push(format!("{PATH}.httpCookie.ttl is not followed: no cookie is made for who has none"));
        }
        tell(wrong, &format!("{PATH}.httpCookie"), &cookie.rest);
        return Ok(HashKey::Cookie(cookie.name.as_str().into()));
    }
    if let Some(name) = &from.http_query_parameter_name {
        return Ok(HashKey::Query([name.as_str().into()].into()));
    }
    match from.use_source_ip {
        Some(true) => Ok(HashKey::Source),
        _ => Err(unsupported(format!("{PATH} names nothing to choose by"))),
    }
}

fn pool(from: &ConnectionPool, config: &mut UpstreamConfig, wrong: &mut Vec<String>) -> Result<(), Fault> {
    const PATH: &str = "trafficPolicy.connectionPool";
    let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    if let Some(tcp) = &from.tcp {
        tell(wrong, &format!("{PATH}.tcp"), &tcp.rest);
        if tcp.connect_timeout.is_some() {
            wrong.push(format!("{PATH}.tcp.connectTimeout is not followed"));
        }
        config.limits.connections = count(tcp.max_connections);
    }
    if let Some(http) = &from.http {
        tell(wrong, &format!("{PATH}.http"), &http.rest);
        config.limits.pending = count(http.http1_max_pending_requests);
        config.limits.requests = count(http.http2_max_requests);
        config.limits.retries = count(http.max_retries);
        config.line.requests = count(http.max_requests_per_connection);
        config.line.idle = duration(&format!("{PATH}.http.idleTimeout"), http.idle_timeout.as_deref())?;
    }
    Ok(())
}

fn budget(from: &IstioRetryBudget, limits: &mut Limits, wrong: &mut Vec<String>) {
    tell(wrong, "trafficPolicy.retryBudget", &from.rest);
    // Istio's: a fifth of the requests, and three in any case.
    limits.retry_share = Some((from.percent.unwrap_or(20.0), from.min_retry_concurrency.unwrap_or(3)));
}

fn outlier(from: &OutlierDetection, config: &mut UpstreamConfig, wrong: &mut Vec<String>) -> Result<(), Fault> {
    const PATH: &str = "trafficPolicy.outlierDetection";
    tell(wrong, PATH, &from.rest);
    if from.split_external_local_origin_errors == Some(true) {
        wrong.push(format!(
            "{PATH}.splitExternalLocalOriginErrors is not followed: failures to connect count as errors of a gateway"
        ));
    }
    let default = OutlierConfig::default();
    let older = from.consecutive_errors.and_then(|count| u32::try_from(count).ok());
    let time = |name: &str, text: &Option<String>| duration(&format!("{PATH}.{name}"), text.as_deref());
    let base_ejection_time = time("baseEjectionTime", &from.base_ejection_time)?.unwrap_or(default.base_ejection_time);
    let gateway = from.consecutive_gateway_errors.or(older).filter(|count| *count > 0);
    let percent = |number: Option<i32>, otherwise: u32| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise);
    config.outlier = Some(OutlierConfig {
        consecutive_5xx: from.consecutive_5xx_errors.or(default.consecutive_5xx).filter(|count| *count > 0),
        consecutive_gateway_failure: gateway,
        success_rate: None,
        failure_percentage: None,
        interval: time("interval", &from.interval)?.unwrap_or(default.interval),
        base_ejection_time,
        max_ejection_time: default.max_ejection_time.max(base_ejection_time),
        max_ejection_percent: percent(from.max_ejection_percent, default.max_ejection_percent),
    });
    config.panic_percent = percent(from.min_health_percent, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn compiled(policy: Value, port: Option<u32>) -> (Result<UpstreamConfig, Fault>, Vec<String>) {
        let mut wrong = Vec::new();
        let config = config(&serde_json::from_value(policy).unwrap(), port, &mut wrong);
        (config, wrong)
    }

    #[test]
    fn policies_are_upstreams() {
        let policy = json!({
            "loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "30s", "minimumPercent": 20}},
            "connectionPool": {
                "tcp": {"maxConnections": 7},
                "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 9, "maxRetries": 3, "maxRequestsPerConnection": 5, "idleTimeout": "9s"},
            },
            "outlierDetection": {"consecutive5xxErrors": 3, "interval": "1s", "baseEjectionTime": "3m",
                "maxEjectionPercent": 100, "minHealthPercent": 30},
            "portLevelSettings": [{"port": {"number": 81}, "loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}],
            "tls": {"mode": "ISTIO_MUTUAL"},
            "retryBudget": {"percent": 10},
        });
        let (config, wrong) = compiled(policy.clone(), Some(80));
        let config = config.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(config.balance, Balance::Turns);
        assert_eq!(
            config.slow_start,
            Some(SlowStart { window: Duration::from_secs(30), aggression: 1.0, min_weight: 0.2 })
        );
        let limits = Limits {
            connections: Some(7),
            pending: Some(1),
            requests: Some(9),
            retries: Some(3),
            retry_share: Some((10.0, 3)),
            ..Limits::default()
        };
        assert_eq!(config.limits, limits);
        assert_eq!((config.line.requests, config.line.idle), (Some(5), Some(Duration::from_secs(9))));
        let outlier = config.outlier.unwrap();
        assert_eq!((outlier.consecutive_5xx, outlier.interval), (Some(3), Duration::from_secs(1)));
        assert_eq!((outlier.base_ejection_time, outlier.max_ejection_percent), (Duration::from_secs(180), 100));
        assert_eq!(config.panic_percent, 30);
        // What is said for a port is said in place of the rest.
        let config = compiled(policy, Some(81)).0.unwrap();
        assert_eq!(config.balance, Balance::Hash(HashKey::Headers([HeaderName::from_static("x-user")].into())));
        assert_eq!((config.outlier, config.limits.connections), (None, None));
    }

    #[test]
    fn what_is_not_followed_is_told() {
        for (policy, told) in [
            (json!({"tunnel": {}}), "trafficPolicy.tunnel is not followed"),
            (
                json!({"loadBalancer": {"simple": "PASSTHROUGH"}}),
                "trafficPolicy.loadBalancer.simple: PASSTHROUGH is not followed",
            ),
            (
                json!({"loadBalancer": {"localityLbSetting": {}}}),
                "trafficPolicy.loadBalancer.localityLbSetting is not followed",
            ),
            (
                json!({"connectionPool": {"tcp": {"connectTimeout": "1s"}}}),
                "trafficPolicy.connectionPool.tcp.connectTimeout is not followed",
            ),
            (
                json!({"tls": {"mode": "SIMPLE"}}),
                "trafficPolicy.tls is not followed: the mesh encrypts, and clients may do so themselves",
            ),
        ] {
            let (config, wrong) = compiled(policy.clone(), None);
            assert_eq!((config.is_ok(), wrong), (true, vec![told.to_owned()]), "{policy}");
        }
        for (policy, told) in [
            (
                json!({"loadBalancer": {"consistentHash": {}}}),
                "trafficPolicy.loadBalancer.consistentHash names nothing to choose by",
            ),
            (
                json!({"outlierDetection": {"interval": "soon"}}),
                "trafficPolicy.outlierDetection.interval: \"soon\" is no duration",
            ),
        ] {
            assert_eq!(compiled(policy, None).0.unwrap_err().message, told);
        }
    }

    #[test]
    fn a_rule_is_about_a_service_of_its_own_namespace() {
        let plan = |host: &str| {
            let rule = json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": {"host": host}});
            DestinationPlan::of(&serde_json::from_value(rule).unwrap())
        };
        assert_eq!(plan("web").service, Some(Key::new("shop", "web")));
        assert_eq!(plan("web.shop.svc.cluster.local").service, Some(Key::new("shop", "web")));
        let other = plan("web.other");
        assert_eq!(
            (other.service, other.wrong),
            (None, vec!["host \"web.other\" is no Service of namespace shop".to_owned()])
        );
    }
}
