//! What a ClientTrafficPolicy amounts to, and what it cannot ask for.

use serde_json::{Value, json};

use super::*;
use crate::routing::{CertificateDetail, Kept, RequestId, Underscores};

fn read(spec: Value) -> (Result<Client, Fault>, Vec<String>) {
    let mut warnings = Vec::new();
    let client = client(&serde_json::from_value(spec).unwrap(), &mut warnings);
    (client, warnings)
}

#[test]
fn a_policy_amounts_to_what_it_says() {
    let (client, warnings) = read(json!({
        "proxyProtocol": {"optional": true},
        "clientIPDetection": {"xForwardedFor": {"numTrustedHops": 2, "disableXForwardedForAppend": true}},
        "headers": {
            "earlyRequestHeaders": {"set": [{"name": "X-A", "value": "1"}], "remove": ["x-b"],
                "addIfAbsent": [{"name": "x-c", "value": "2"}], "removeOnMatch": [{"type": "Prefix", "value": "X-Secret"}]},
            "enableEnvoyHeaders": true,
            "withUnderscoresAction": "DropHeader",
            "xForwardedClientCert": {"mode": "AppendForward", "certDetailsToAdd": ["URI"]},
            "requestID": "Generate",
            "maxRequestHeaderLimit": "1100",
            "host": {"stripTrailingHostDot": true},
        },
        "path": {"escapedSlashesAction": "RejectRequest", "disableMergeSlashes": true},
        "timeout": {
            "tcp": {"idleTimeout": "20m"},
            "http": {"requestReceivedTimeout": "5s", "idleTimeout": "1m", "streamIdleTimeout": "7s"},
        },
        "connection": {"bufferLimit": "32Ki", "maxAcceptPerSocketEvent": 1, "connectionLimit": {"value": 5,
            "closeDelay": "1s", "maxConnectionDuration": "1h", "maxRequestsPerConnection": 100, "maxStreamDuration": "9s"}},
        "tcpKeepalive": {"idleTime": "20s", "interval": "5s", "probes": 3},
        "http1": {"enableTrailers": true, "preserveHeaderCase": true, "ignoredUpgradeTypes": [{"type": "Prefix", "value": "TLS/"}]},
        "http2": {"initialStreamWindowSize": "64Ki", "maxConcurrentStreams": 7, "onInvalidMessage": "TerminateStream",
            "connectionKeepalive": {"interval": "30s", "timeout": "2s"}},
        "healthCheck": {"path": "/healthz"},
    }));
    assert_eq!(warnings, Vec::<String>::new());
    let client = client.unwrap();
    assert_eq!(client.proxied, Some(Proxied::Maybe));
    assert_eq!((&client.address, client.unappended), (&AddressBy::Hops(2), true));
    assert_eq!((client.early.edits.set.len(), client.early.missing.len(), client.early.unwanted.len()), (1, 1, 1));
    assert!(client.early.unwanted[0].takes("x-secret-key"), "names are in lower case");
    assert_eq!((client.telling, client.undotted), (true, true));
    assert_eq!((client.underscores, client.request_id), (Underscores::Drop, RequestId::Make));
    assert_eq!(
        (client.certificates.kept, client.certificates.told, &*client.certificates.details),
        (Kept::Known, true, &[CertificateDetail::Uris][..])
    );
    assert_eq!(client.http1.head_bytes, Some(2048), "rounded up to whole KiB");
    assert_eq!(client.paths, Some(Paths { escaped: Slashes::Refuse, merge: false }));
    assert_eq!(client.times.received, Some(Duration::from_secs(5)));
    assert_eq!(client.times.silence, Some(Duration::from_secs(1200)));
    let terms = &client.connections;
    assert_eq!((terms.most, terms.requests, terms.buffer), (Some(5), Some(100), Some(32 << 10)));
    assert_eq!(terms.keepalive.unwrap().probes, Some(3));
    assert!(client.http1.ignored[0].takes("TLS/1.2") && client.http1.case);
    assert_eq!((client.http2.stream_window, client.http2.streams), (Some(64 << 10), Some(7)));
    assert_eq!(client.health.as_deref(), Some("/healthz"));
}

#[test]
fn what_is_left_open_stays_as_it_is_without_a_policy() {
    let (client, warnings) = read(json!({"headers": {}, "timeout": {"http": {}}, "http1": {}, "http2": {}}));
    let client = client.unwrap();
    assert_eq!((client.underscores, client.request_id), (Underscores::Keep, RequestId::KeepOrMake));
    assert_eq!((client.times, client.paths, client.proxied), (Times::default(), None, None));
    assert_eq!(warnings, Vec::<String>::new());
    let paths = read(json!({"path": {}})).0.unwrap().paths;
    assert_eq!(paths, Some(Paths { escaped: Slashes::Redirect, merge: true }), "as Envoy Gateway has it");
}

#[test]
fn what_is_not_followed_is_told_with_its_field() {
    let (_, warnings) = read(json!({
        "http3": {}, "grpc": {"enableWeb": true}, "headers": {"disableRateLimitHeaders": true},
        "connection": {"maxAcceptPerSocketEvent": 0}, "http2": {"onInvalidMessage": "TerminateConnection"},
    }));
    for field in
        ["http3", "grpc", "headers.disableRateLimitHeaders", "connection.maxAcceptPerSocketEvent", "http2.onInvalid"]
    {
        assert!(warnings.iter().any(|told| told.starts_with(&format!("spec.{field}"))), "{field} in {warnings:?}");
    }
    assert_eq!(warnings.len(), 5, "{warnings:?}");
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    for (spec, told) in [
        (
            json!({"clientIPDetection": {"xForwardedFor": {"trustedCIDRs": ["10/8"]}}}),
            "spec.clientIPDetection.xForwardedFor.trustedCIDRs: \"10/8\" is no network",
        ),
        (
            json!({"timeout": {"http": {"idleTimeout": "soon"}}}),
            "spec.timeout.http.idleTimeout: \"soon\" is no duration",
        ),
        (
            json!({"http2": {"initialStreamWindowSize": 1}}),
            "spec.http2.initialStreamWindowSize: 1 is out of range, must be between 65535 and 2147483647",
        ),
        (
            json!({"headers": {"lateResponseHeaders": {"set": [{"name": "a b", "value": "1"}]}}}),
            "spec.headers.lateResponseHeaders: \"a b\" is no name of a header",
        ),
        (json!({"connection": {"bufferLimit": "much"}}), "spec.connection.bufferLimit: \"much\" is no number of bytes"),
    ] {
        assert_eq!(read(spec).0.unwrap_err().message, told);
    }
}
