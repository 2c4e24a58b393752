//! Credentials that the cluster gives out, by real kubectl: certificates and tokens.

use std::path::PathBuf;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use system_tests::{Instance, Options, eventually, kubectl};

/// Somebody else's kubeconfig for the same cluster.
fn kubeconfig(instance: &Instance, name: &str, user: Value) -> PathBuf {
    let admin = std::fs::read(instance.kubeconfig()).unwrap();
    let mut document: Value = serde_json::from_slice(&admin).unwrap();
    document["users"][0]["user"] = user;
    let path = instance.data_dir().join(format!("{name}.kubeconfig"));
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

/// Who the holder of a kubeconfig is, as the server sees it; the server's refusal when it is nobody.
fn whoami(instance: &Instance, kubeconfig: &PathBuf) -> Result<Value, String> {
    let mut command = std::process::Command::new(kubectl::binary());
    command.arg("--kubeconfig").arg(kubeconfig).args(["auth", "whoami", "-o", "json"]);
    let output = command.env("HOME", instance.data_dir()).env_remove("KUBECONFIG").output().unwrap();
    if output.status.success() {
        let review: Value = serde_json::from_slice(&output.stdout).unwrap();
        Ok(review["status"]["userInfo"].clone())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn an_approved_certificate_authenticates_and_a_denied_request_gets_none() {
    let instance = Instance::start(Options::default());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "jane");
    params.distinguished_name.push(DnType::OrganizationName, "developers");
    let request = BASE64_STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap());
    for name in ["jane", "joe"] {
        let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name}, "spec": {"request": request, "expirationSeconds": 3600,
                "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["digital signature", "client auth"]}});
        instance.apply(&object.to_string());
    }
    assert!(instance.kubectl(&["get", "csr"]).contains("Pending"));
    instance.kubectl(&["certificate", "approve", "jane"]);
    instance.kubectl(&["certificate", "deny", "joe"]);
    let issued = eventually("the certificate", || {
        let request = instance.get(&["csr", "jane"])?;
        request["status"]["certificate"].as_str().map(str::to_owned)
    });
    let listed = instance.kubectl(&["get", "csr"]);
    assert!(listed.contains("Approved,Issued") && listed.contains("Denied"), "{listed}");
    assert!(instance.get(&["csr", "joe"]).unwrap()["status"]["certificate"].is_null());
    let user =
        json!({"client-certificate-data": issued, "client-key-data": BASE64_STANDARD.encode(key.serialize_pem())});
    let jane = whoami(&instance, &kubeconfig(&instance, "jane", user)).unwrap();
    assert_eq!((&jane["username"], &jane["groups"]), (&json!("jane"), &json!(["developers", "system:authenticated"])));
}

#[test]
fn tokens_are_made_bound_and_end_with_what_they_are_bound_to() {
    let instance = Instance::start(Options::default());
    eventually("the default account", || instance.get(&["serviceaccount", "default"]));
    let who = |name: &str, token: &str| whoami(&instance, &kubeconfig(&instance, name, json!({"token": token.trim()})));
    let plain = who("plain", &instance.kubectl(&["create", "token", "default", "--duration=10m"])).unwrap();
    assert_eq!(plain["username"], "system:serviceaccount:default:default");
    let elsewhere = instance.kubectl(&["create", "token", "default", "--audience=https://vault.example.com"]);
    assert!(who("elsewhere", &elsewhere).unwrap_err().contains("Unauthorized"));
    instance.kubectl(&["create", "secret", "generic", "anchor"]);
    let secret = instance.get(&["secret", "anchor"]).unwrap();
    let uid = secret["metadata"]["uid"].as_str().unwrap();
    let bound = ["create", "token", "default", "--bound-object-kind=Secret", "--bound-object-name=anchor"];
    let token = instance.kubectl(&[&bound[..], &["--bound-object-uid", uid]].concat());
    who("bound", &token).unwrap();
    let error = instance.kubectl_fails(&[&bound[..], &["--bound-object-uid", "other"]].concat(), "");
    assert!(error.contains("does not match the UID in record"), "{error}");
    instance.kubectl(&["delete", "secret", "anchor"]);
    assert!(who("bound", &token).unwrap_err().contains("Unauthorized"));
    let error = instance.kubectl_fails(&["create", "token", "default", "--duration=1m"], "");
    assert!(error.contains("may not specify a duration less than 10 minutes"), "{error}");
    let account = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "kept", "annotations": {"kubernetes.io/service-account.name": "default"}}});
    instance.apply(&account.to_string());
    let kept = eventually("the token", || {
        let secret = instance.get(&["secret", "kept"])?;
        secret["data"]["token"].as_str().map(str::to_owned)
    });
    let kept = String::from_utf8(BASE64_STANDARD.decode(kept).unwrap()).unwrap();
    assert_eq!(who("kept", &kept).unwrap()["username"], "system:serviceaccount:default:default");
}

/// Asks who one is, with a certificate and headers; gives the user's name and groups, or what went wrong.
fn seen_as(instance: &Instance, pair: &identity::KeyPair, headers: &[(&str, &str)]) -> Result<Value, String> {
    let text = std::fs::read_to_string(instance.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({
        "client-certificate-data": BASE64_STANDARD.encode(&pair.certificate_pem),
        "client-key-data": BASE64_STANDARD.encode(&pair.key_pem),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let kubeconfig: kube::config::Kubeconfig = serde_json::from_value(config).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let mut request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(review.to_string().into_bytes()).unwrap();
        let answer: Value = client.request(request).await.map_err(|error| error.to_string())?;
        Ok(answer["status"]["userInfo"].clone())
    })
}

#[test]
fn only_front_proxies_name_users_in_headers() {
    let instance = Instance::start(Options::default());
    let (pki, now) = (instance.data_dir().join("pki"), jiff::Timestamp::now());
    let front = identity::Authority::load_or_create_named(&pki, "front-proxy-ca", "front", now).unwrap();
    let ann = [("X-Remote-User", "ann"), ("X-Remote-Group", "dev"), ("X-Remote-Extra-Team", "a")];
    let proxy = front.client("front-proxy-client", None, now).unwrap();
    let user = seen_as(&instance, &proxy, &ann).unwrap();
    assert_eq!((&user["username"], &user["extra"]["team"]), (&json!("ann"), &json!(["a"])));
    assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    // without headers it is nobody, and so is another certificate of its authority
    assert!(seen_as(&instance, &proxy, &[]).unwrap_err().contains("Unauthorized"));
    let other = front.client("someone", Some("system:masters"), now).unwrap();
    assert!(seen_as(&instance, &other, &ann).unwrap_err().contains("Unauthorized"));
    // and an ordinary client's headers say nothing
    let authority = identity::Authority::load_or_create(&pki, now).unwrap();
    let client = authority.client("bob", None, now).unwrap();
    assert_eq!(seen_as(&instance, &client, &ann).unwrap()["username"], "bob");

    let published = instance.get(&["configmap", "extension-apiserver-authentication", "-n", "kube-system"]).unwrap();
    assert_eq!(published["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    assert_eq!(published["data"]["client-ca-file"], authority.trusted_pem());
    assert_eq!(published["data"]["requestheader-client-ca-file"], front.trusted_pem());
}
