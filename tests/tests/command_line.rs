//! The command line: what works without root, and what bad input gets.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Output};

use serde_json::Value;
use system_tests::{Instance, Options, instance::run};

fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "an error is one line: {text}");
    text
}

fn up(arguments: &[&str]) -> Output {
    let mut all = vec!["up", "--no-node", "--listen", "127.0.0.1:0"];
    all.extend_from_slice(arguments);
    run(&all)
}

#[test]
fn ready_means_the_kubeconfig_is_there_private_and_works() {
    let instance = Instance::start(Options::default());
    let mode = fs::metadata(instance.kubeconfig()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ready: Vec<_> = instance.log().into_iter().filter(|l| l.contains("keelson is ready")).collect();
    assert_eq!(ready.len(), 1, "{ready:?}");
    assert!(ready[0].contains("ms"), "{ready:?}");
    assert!(instance.kubectl(&["get", "namespaces", "-o", "name"]).contains("namespace/kube-system"));
}

#[test]
fn status_tells_what_runs_and_fails_where_nothing_does() {
    let mut instance = Instance::start(Options::default());
    let running = instance.keelson(&["status"]);
    assert!(running.status.success());
    assert!(String::from_utf8_lossy(&running.stdout).contains("https://127.0.0.1:"));
    assert!(instance.terminate().success());
    let stopped = instance.keelson(&["status"]);
    assert_eq!(stopped.status.code(), Some(7));
    assert!(error_line(&stopped).contains("nothing runs from"));
}

#[test]
fn a_taken_port_is_named_with_the_fix() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let output = run(&["up", "--no-node", "--listen", &address, "--data-dir", &data.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(5));
    let error = error_line(&output);
    assert!(error.contains(&address) && error.contains("--listen"), "{error}");
}

#[test]
fn a_data_directory_in_use_or_of_a_newer_version_is_refused() {
    let instance = Instance::start(Options::default());
    let used = up(&["--data-dir", &instance.data_dir().display().to_string()]);
    assert_eq!(used.status.code(), Some(5));
    assert!(error_line(&used).contains(&format!("in use by process {}", instance.pid())));

    let newer = tempfile::tempdir().unwrap();
    fs::write(newer.path().join("version"), "99\n").unwrap();
    let refused = up(&["--data-dir", &newer.path().display().to_string()]);
    assert_eq!(refused.status.code(), Some(6));
    assert!(error_line(&refused).contains("99"));
    assert_eq!(fs::read_to_string(newer.path().join("version")).unwrap(), "99\n", "nothing is half done");
}

#[test]
fn configuration_errors_name_file_key_and_rule() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().display().to_string();
    let file = data.path().join("keelson.yaml");
    let path = file.display().to_string();
    let missing = up(&["--data-dir", &data_dir, "--config", &path]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(error_line(&missing).contains(&path));
    fs::write(&file, "lissten: 127.0.0.1:1\nlog: {format: xml}\n").unwrap();
    let wrong = up(&["--data-dir", &data_dir, "--config", &path]);
    assert_eq!(wrong.status.code(), Some(3));
    let error = error_line(&wrong);
    assert!(error.contains("\"lissten\"") && error.contains("log.format: invalid value \"xml\""), "{error}");
}

#[test]
fn config_explain_shows_each_value_and_its_origin() {
    let output = run(&["config", "explain", "--listen", "127.0.0.1:7777"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("listen = \"127.0.0.1:7777\"\n    from flag"), "{text}");
    assert!(text.contains("log.level = \"info\"\n    from default"), "{text}");
}

#[test]
fn merging_a_kubeconfig_keeps_what_is_there() {
    let instance = Instance::start(Options::default());
    let file = instance.data_dir().join("user.kubeconfig");
    let theirs = "apiVersion: v1\nkind: Config\ncurrent-context: prod\nclusters:\n- name: prod\n  cluster: {server: 'https://prod'}\n";
    fs::write(&file, theirs).unwrap();
    let path = file.display().to_string();
    let merged = instance.keelson(&["kubeconfig", "merge", "--into", &path]);
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    let names = instance.kubectl(&["--kubeconfig", &path, "--context", "keelson", "get", "ns", "-o", "name"]);
    assert!(names.contains("namespace/default"));
    let document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(document["current-context"], "prod");

    fs::write(&file, "clusters: [").unwrap();
    let broken = instance.keelson(&["kubeconfig", "merge", "--into", &path]);
    assert!(!broken.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "clusters: [", "nothing was changed");
}

#[test]
fn down_is_safe_to_run_twice_and_where_nothing_ever_ran() {
    let nowhere = tempfile::tempdir().unwrap();
    let path = nowhere.path().join("never").display().to_string();
    assert!(run(&["down", "--data-dir", &path]).status.success());
    let mut instance = Instance::start(Options::default());
    let pid = instance.pid();
    assert!(instance.keelson(&["down"]).status.success());
    instance.kill();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(instance.keelson(&["down"]).status.success());
    instance.resume();
    assert!(instance.keelson(&["down", "--purge"]).status.success());
    assert!(!instance.data_dir().exists());
}

#[test]
fn ingresses_are_translated_from_files_and_from_the_instance() {
    let instance = Instance::start(Options::default());
    let ingress = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "shop", "annotations": {
            "nginx.ingress.kubernetes.io/limit-connections": "2",
            "nginx.ingress.kubernetes.io/limit-rps": "5",
        }},
        "spec": {"rules": [{"host": "shop.test", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
        ]}}]},
    });
    instance.apply(&ingress.to_string());
    let file = instance.data_dir().join("ingress.yaml");
    fs::write(&file, ingress.to_string()).unwrap();
    let from_file = run(&["gateway", "translate", "-f", &file.display().to_string()]);
    let from_cluster = instance.keelson(&["gateway", "translate", "-A"]);
    let text = String::from_utf8_lossy(&from_file.stdout);
    assert_eq!(text, String::from_utf8_lossy(&from_cluster.stdout), "it is the same Ingress");
    assert!(String::from_utf8_lossy(&from_file.stderr).contains("Ingress default/shop: limit-connections has no equi"));
    for kind in ["Gateway", "HTTPRoute", "BackendTrafficPolicy"] {
        assert!(text.contains(&format!("kind: {kind}\n")), "{kind}: {text}");
    }
    // Every object is one that the API takes.
    instance.apply(&text);
    let nothing = run(&["gateway", "translate", "-f", "/dev/null"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(error_line(&nothing).contains("there is no Ingress"));
}

#[test]
fn certificates_for_development_are_vouched_for_by_the_root_that_is_exported() {
    let instance = Instance::start(Options::default());
    let export = || String::from_utf8(instance.keelson(&["gateway", "ca", "--export"]).stdout).unwrap();
    let root = export();
    assert!(root.starts_with("-----BEGIN CERTIFICATE-----") && root == export(), "it stays");
    let made = instance.keelson(&["gateway", "ca", "shop.test", "*.shop.test", "127.0.0.1", "--secret", "shop-tls"]);
    instance.apply(&String::from_utf8(made.stdout).unwrap());
    let secret = instance.get(&["secret", "shop-tls"]).unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let key = instance.data_dir().join("pki/gateway-ca.key");
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(&["gateway", "ca"]).status.code(), Some(2), "a certificate needs a name");
}

#[test]
fn completions_and_version_are_printed() {
    assert!(String::from_utf8_lossy(&run(&["version"]).stdout).starts_with("keelson 0."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(String::from_utf8_lossy(&run(&["completions", shell]).stdout).contains("kubeconfig"), "{shell}");
    }
}
