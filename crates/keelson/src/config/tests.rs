use std::io::Write;

use super::*;

fn sources<'a>() -> Sources<'a> {
    Sources { host_name: "Host-1".to_owned(), ..Sources::default() }
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn value_of(explained: &[Explained], key: &str) -> (String, Origin) {
    let found = explained.iter().find(|e| e.setting.key == key).unwrap();
    (found.value.clone(), found.origin.clone())
}

#[test]
fn defaults_resolve_and_the_node_takes_the_host_name() {
    let (config, _) = resolve(&sources()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:6443");
    assert_eq!(config.node_name, "host-1");
    assert!(config.node_enabled);
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = written("listen: 127.0.0.1:1\nlog:\n  format: json\ngateway:\n  addresses: [127.0.0.2, '::1']\n");
    let mut sources = Sources { file: Some(file.path()), ..sources() };
    let (config, explained) = resolve(&sources).unwrap();
    assert!(config.log_json);
    assert_eq!(config.gateway_addresses.len(), 2);
    assert_eq!(value_of(&explained, "listen"), ("127.0.0.1:1".to_owned(), Origin::File(file.path().to_owned())));
    sources.environment.push(("KEELSON_LISTEN".to_owned(), "127.0.0.1:2".to_owned()));
    let (_, explained) = resolve(&sources).unwrap();
    assert_eq!(value_of(&explained, "listen").1, Origin::Environment("KEELSON_LISTEN"));
    sources.flags.push(Flag { key: "listen", name: "listen", value: "127.0.0.1:3".to_owned() });
    let (config, explained) = resolve(&sources).unwrap();
    assert_eq!((config.listen.port(), value_of(&explained, "listen").1), (3, Origin::Flag("listen")));
}

#[test]
fn every_error_is_reported_at_once_with_key_value_and_rule() {
    let file = written("lissen: x\nshutdown:\n  budgetSeconds: 0\n");
    let environment =
        vec![("KEELSON_LOG_FORMAT".to_owned(), "xml".to_owned()), ("KEELSON_X".to_owned(), String::new())];
    let sources = Sources { file: Some(file.path()), environment, ..sources() };
    let ConfigError(errors) = resolve(&sources).err().unwrap();
    assert_eq!(errors.len(), 4, "{errors:?}");
    for part in ["\"lissen\"", "KEELSON_X", "\"xml\"", "budgetSeconds: invalid value \"0\""] {
        assert!(errors.iter().any(|e| e.contains(part)), "{part} in {errors:?}");
    }
}

#[test]
fn an_unreadable_or_malformed_file_is_named() {
    let missing = Path::new("/nonexistent/keelson.yaml");
    let error = resolve(&Sources { file: Some(missing), ..sources() }).err().unwrap().to_string();
    assert!(error.contains("/nonexistent/keelson.yaml") && error.contains("No such file"), "{error}");
    let file = written("- a\n- b\n");
    let error = resolve(&Sources { file: Some(file.path()), ..sources() }).err().unwrap().to_string();
    assert!(error.contains("not a mapping"), "{error}");
}

#[test]
fn a_provider_needs_https_and_a_client_and_known_algorithms() {
    let file = |text: &str| written(&format!("oidc:\n  issuerUrl: https://x.io\n{text}"));
    let good = file("  clientId: k\n  requiredClaims: [a=b, c=d]\n  signingAlgs: ES256,RS512\n");
    let (config, _) = resolve(&Sources { file: Some(good.path()), ..sources() }).unwrap();
    let provider = config.oidc.unwrap().provider;
    assert_eq!((provider.username_claim.as_str(), provider.required_claims["c"].as_str()), ("sub", "d"));
    assert_eq!(provider.signing_algorithms.len(), 2);
    assert!(resolve(&sources()).unwrap().0.oidc.is_none());
    for (text, key) in [
        ("", "oidc.clientId"),
        ("  clientId: k\n  signingAlgs: HS256\n", "oidc.signingAlgs"),
        ("  clientId: k\n  requiredClaims: a\n", "oidc.requiredClaims"),
    ] {
        let file = file(text);
        let error = resolve(&Sources { file: Some(file.path()), ..sources() }).err().unwrap().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn keys_and_variables_are_unique() {
    for (i, a) in SETTINGS.iter().enumerate() {
        assert!(SETTINGS[i + 1..].iter().all(|b| a.key != b.key && a.environment != b.environment), "{}", a.key);
    }
}

#[test]
fn pod_security_levels_are_read_with_their_versions() {
    let environment = vec![
        ("KEELSON_POD_SECURITY_ENFORCE".to_owned(), "baseline:v1.30".to_owned()),
        ("KEELSON_POD_SECURITY_EXEMPT_NAMESPACES".to_owned(), "kube-system, tools".to_owned()),
    ];
    let (config, _) = resolve(&Sources { environment, ..sources() }).unwrap();
    assert_eq!(config.pod_security.default.enforce.to_string(), "baseline:v1.30");
    assert_eq!(config.pod_security.default.warn.to_string(), "privileged:latest");
    assert_eq!(config.pod_security.exempt_namespaces, ["kube-system", "tools"]);
    let environment = vec![("KEELSON_POD_SECURITY_WARN".to_owned(), "strict".to_owned())];
    let ConfigError(errors) = resolve(&Sources { environment, ..sources() }).err().unwrap();
    assert!(errors[0].contains("podSecurity.warn: invalid value \"strict\""), "{errors:?}");
}

#[test]
fn what_is_wrong_in_a_flag_names_the_flag() {
    let flag = |key, name, value: &str| Flag { key, name, value: value.to_owned() };
    let flags = vec![
        flag("oidc.issuerUrl", "oidc-issuer-url", "http://plain"),
        flag("requestHeader.usernameHeaders", "requestheader-username-headers", "X User"),
        flag("services.clusterIpRange", "service-cluster-ip-range", "10.0.0.1/16"),
    ];
    let ConfigError(errors) = resolve(&Sources { flags, ..sources() }).err().unwrap();
    for part in [
        "flag --oidc-issuer-url: oidc.issuerUrl: invalid value \"http://plain\"",
        "flag --requestheader-username-headers: requestHeader.usernameHeaders: invalid value \"X User\"",
        "flag --service-cluster-ip-range: services.clusterIpRange: invalid value \"10.0.0.1/16\"",
    ] {
        assert!(errors.iter().any(|error| error.contains(part)), "{part} in {errors:?}");
    }
}

#[test]
fn a_range_of_services_is_for_servers_without_a_node() {
    let range = |node: &str| {
        let flag = |key, name, value: &str| Flag { key, name, value: value.to_owned() };
        let range = flag("services.clusterIpRange", "service-cluster-ip-range", "10.0.0.0/16");
        resolve(&Sources { flags: vec![range, flag("node.enabled", "no-node", node)], ..sources() })
    };
    assert_eq!(range("false").unwrap().0.service_block.unwrap().prefix, 16);
    assert!(range("true").err().unwrap().to_string().contains("must not be set where node.enabled is true"));
}

#[test]
fn what_is_wrong_with_scheduling_names_the_file_and_the_field() {
    let kind = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    let resolved = |text: &str| {
        let file = written(&format!("{kind}{text}"));
        let value = file.path().display().to_string();
        let flags = vec![Flag { key: "scheduler.config", name: "scheduler-config", value: value.clone() }];
        (value, resolve(&Sources { flags, ..sources() }).map(drop))
    };
    resolved("profiles:\n- schedulerName: own\n").1.unwrap();
    let (file, outcome) = resolved("profiles:\n- plugins:\n    filter:\n      enabled:\n      - name: Magic\n");
    let expected =
        format!("scheduler.config: {file}: profiles[0].plugins.filter.enabled[0].name: there is no plugin \"Magic\"");
    assert!(outcome.err().unwrap().to_string().contains(&expected));
}
