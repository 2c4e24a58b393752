use http::HeaderName;
use serde_json::{Value, json};

use super::*;
use crate::routing::{Failed, ProxyVersion, Question};

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
        "admissionControl": {},
        "dns": {"respectDnsTtl": true},
        "compression": [{"type": "Brotli"}],
        "loadBalancer": {"type": "RoundRobin", "zoneAware": {}},
        "httpUpgrade": [{"type": "websocket"}, {"type": "CONNECT"}],
        "rateLimit": {"local": {"rules": [{"limit": {"requests": 1, "unit": "Hour"}, "cost": {"response": {}}}]}},
    }));
    traffic.unwrap();
    for field in [
        "spec.admissionControl ",
        "spec.dns ",
        "spec.compressor: Brotli ",
        "spec.httpUpgrade: CONNECT ",
        "spec.loadBalancer.zoneAware ",
        "spec.rateLimit.local.rules.cost.response ",
    ] {
        assert!(warnings.iter().any(|warning| warning.starts_with(field)), "{field} in {warnings:?}");
    }
    assert_eq!(warnings.len(), 6, "{warnings:?}");
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

#[test]
fn connections_checks_and_answers_are_as_the_policy_says() {
    let (traffic, warnings) = read(json!({
        "compressor": [{"type": "Gzip", "gzip": {}, "minContentLength": "1Ki"}],
        "requestBuffer": {"limit": "4Ki"},
        "httpUpgrade": [{"type": "WebSocket"}],
        "useClientProtocol": true,
        "tcpKeepalive": {"idleTime": "20s"},
        "connection": {"bufferLimit": "64Ki", "socketBufferLimit": "1Mi"},
        "http2": {"initialStreamWindowSize": "1Mi"},
        "proxyProtocol": {"version": "V2"},
        "circuitBreaker": {"maxParallelRetries": 1024, "maxRequestsPerConnection": 7,
            "retryBudget": {"percent": {"numerator": 1, "denominator": 4}, "minRetryConcurrency": 2}},
        "timeout": {"tcp": {"connectTimeout": "250ms"}, "http": {"requestTimeout": "20s", "maxStreamDuration": "10s",
            "streamIdleTimeout": "3s", "connectionIdleTimeout": "9s", "maxConnectionDuration": "1h"}},
        "healthCheck": {"active": {"type": "HTTP", "interval": "1s", "timeout": "500ms", "unhealthyThreshold": 2,
            "healthyThreshold": 1, "initialJitter": "100ms", "overrides": {"port": 9000},
            "http": {"path": "/healthz", "method": "HEAD", "expectedStatuses": [200, 204], "hostname": "a.test",
                "expectedResponse": {"type": "Binary", "binary": "b2s="}}}},
    }));
    assert_eq!(warnings, Vec::<String>::new());
    let traffic = traffic.unwrap();
    assert_eq!(traffic.compression, Some(Compression { bytes_min: 1024 }));
    assert_eq!((traffic.buffer, traffic.as_client), (Some(4096), true));
    assert_eq!(traffic.upgrades.as_deref(), Some(&["websocket".into()][..]));
    assert_eq!(traffic.timeouts.request, Some(Duration::from_secs(10)), "the shorter of the two");
    assert_eq!((traffic.silence, traffic.connect), (Some(Duration::from_secs(3)), Some(Duration::from_millis(250))));
    let config = &traffic.upstream.as_ref().unwrap().config;
    assert_eq!((config.limits.retries, config.limits.retry_share), (None, Some((25.0, 2))), "the budget comes first");
    let line = &config.line;
    assert_eq!((line.requests, line.proxy, line.buffer), (Some(7), Some(ProxyVersion::Two), Some(64 << 10)));
    assert_eq!((line.idle, line.lifetime), (Some(Duration::from_secs(9)), Some(Duration::from_secs(3600))));
    let check = config.check.as_ref().unwrap();
    assert_eq!((check.unhealthy, check.port, check.timeout), (2, Some(9000), Duration::from_millis(500)));
    let Question::Http { statuses, text, .. } = &check.question else { panic!("{:?}", check.question) };
    assert_eq!((&**statuses, text.as_deref()), (&[200, 204][..], Some(&b"ok"[..])));
}

#[test]
fn requests_that_are_buffered_switch_no_protocols_unless_it_is_said() {
    let upgrades = |spec| read(spec).0.unwrap().upgrades;
    assert_eq!(upgrades(json!({})), None);
    assert_eq!(upgrades(json!({"requestBuffer": {"limit": "1Ki"}})), Some(Vec::new()));
}
