use http::HeaderName;
use serde_json::{Value, json};

use super::*;
use crate::routing::Failed;

fn read(spec: Value) -> (Result<Traffic, Fault>, Vec<String>) {
    let mut warnings = Vec::new();
    let traffic = traffic(&serde_json::from_value(spec).unwrap(), &mut warnings);
    (traffic, warnings)
}

#[test]
fn a_policy_amounts_to_what_it_says() {
    let (traffic, warnings) = read(json!({
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "web"}],
        "loadBalancer": {
            "type": "ConsistentHash",
            "consistentHash": {"type": "Header", "header": {"name": "x-user"}, "tableSize": 65_537},
            "slowStart": {"window": "30s"},
        },
        "retry": {
            "numRetries": 5,
            "retryOn": {"triggers": ["5xx", "unavailable", "retriable-status-codes"], "httpStatusCodes": [429]},
            "perRetry": {"timeout": "250ms", "backOff": {"baseInterval": "100ms", "maxInterval": "10s"}},
        },
        "timeout": {"http": {"requestTimeout": "20s"}},
        "circuitBreaker": {"maxConnections": 10, "maxPendingRequests": 0, "maxParallelRetries": 3,
            "perEndpoint": {"maxConnections": 2}},
        "healthCheck": {"panicThreshold": 30, "passive": {"consecutive5XxErrors": 2, "interval": "1s",
            "baseEjectionTime": "10s", "maxEjectionPercent": 50, "alwaysEjectOneEndpoint": false,
            "splitExternalLocalOriginErrors": false, "consecutiveLocalOriginFailures": 5}},
        "faultInjection": {"delay": {"fixedDelay": "2s", "percentage": 1.5}, "abort": {"httpStatus": 501}},
    }));
    assert_eq!(warnings, Vec::<String>::new());
    let traffic = traffic.unwrap();
    let config = &traffic.upstream.as_ref().unwrap().config;
    assert_eq!(config.balance, Balance::Hash(HashKey::Headers([HeaderName::from_static("x-user")].into())));
    assert_eq!(config.slow_start.as_ref().unwrap().window, Duration::from_secs(30));
    let limits = &config.limits;
    assert_eq!(
        (limits.connections, limits.pending, limits.retries, limits.endpoint),
        (Some(10), Some(0), Some(3), Some(2))
    );
    let outlier = config.outlier.as_ref().unwrap();
    assert_eq!((config.panic_percent, outlier.consecutive_5xx, outlier.max_ejection_percent), (30, Some(2), 50));
    let retry = traffic.retry.unwrap();
    assert_eq!((retry.config.tries_max, retry.attempt), (6, Some(Duration::from_millis(250))));
    assert!(retry.takes(Failed::Call(14)) && retry.takes(Failed::Status(StatusCode::TOO_MANY_REQUESTS)));
    assert_eq!(traffic.timeouts.request, Some(Duration::from_secs(20)));
    let disturbance = traffic.disturbance.unwrap();
    assert_eq!(disturbance.delay.unwrap(), (Part::percent(1.5), Duration::from_secs(2)));
    assert_eq!(disturbance.abort.unwrap(), (Part::percent(100.0), Abort::Status(StatusCode::NOT_IMPLEMENTED)));
}

#[test]
fn what_is_not_followed_is_told_with_its_field() {
    let (traffic, warnings) = read(json!({
        "compression": [{"type": "Gzip"}],
        "loadBalancer": {"type": "RoundRobin", "zoneAware": {}},
        "timeout": {"tcp": {"connectTimeout": "1s"}, "http": {"maxStreamDuration": "1s"}},
        "rateLimit": {"local": {"rules": [{"limit": {"requests": 1, "unit": "Hour"}, "cost": {"response": {}}}]}},
    }));
    traffic.unwrap();
    for field in [
        "spec.compression ",
        "spec.loadBalancer.zoneAware ",
        "spec.timeout.tcp ",
        "spec.timeout.http.maxStreamDuration ",
        "spec.rateLimit.local.rules.cost.response ",
    ] {
        assert!(warnings.iter().any(|warning| warning.starts_with(field)), "{field} in {warnings:?}");
    }
    assert_eq!(warnings.len(), 5, "{warnings:?}");
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    for (spec, told) in [
        (json!({"retry": {"retryOn": {"triggers": ["never"]}}}), "spec.retry.retryOn: never is not supported"),
        (
            json!({"timeout": {"http": {"requestTimeout": "x"}}}),
            "spec.timeout.http.requestTimeout: \"x\" is no duration",
        ),
        (json!({"loadBalancer": {"type": "Luck"}}), "spec.loadBalancer.type: Luck is not supported"),
        (
            json!({"rateLimit": {"global": {"rules": [{"limit": {"requests": 1, "unit": "Year"}}]}}}),
            "spec.rateLimit.global.rules.limit.unit: \"Year\" is not supported, a day is the longest",
        ),
        (
            json!({"rateLimit": {"local": {"rules": [{"limit": {"requests": 1, "unit": "Hour"},
                "clientSelectors": [{"sourceCIDR": {"value": "10/8"}}]}]}}}),
            "spec.rateLimit.local.rules.clientSelectors.sourceCIDR: \"10/8\" is no network",
        ),
    ] {
        assert_eq!(read(spec).0.unwrap_err().message, told);
    }
}

#[test]
fn a_retry_without_more_is_envoy_gateways() {
    let retry = read(json!({"retry": {}})).0.unwrap().retry.unwrap();
    assert_eq!(retry.config.tries_max, 3);
    let taken = [Failed::Connect, Failed::Call(14), Failed::Status(StatusCode::SERVICE_UNAVAILABLE)];
    assert!(taken.iter().all(|failed| retry.takes(*failed)));
    assert!(!retry.takes(Failed::Reset { sent: true }) && !retry.takes(Failed::Status(StatusCode::BAD_GATEWAY)));
}
