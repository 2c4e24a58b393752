//! The mesh between real pods: what a wire between them carries, who joins and leaves, and what happens without a proxy.

use std::{
    io::Read as _,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;
use system_tests::{Instance, busybox, eventually};

/// What travels in the tests, and must not be seen on the wire.
const SECRET: &str = "the-ledger-says-forty-two";

/// A pod that answers every connection first, without being asked, and a Service in front of it; and one that only waits.
fn pods(namespace: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: {namespace}, labels: {{app: server}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: test/busybox:1
    command: [/busybox, nc, -ll, -p, "8080", -e, /busybox, sh, -c, "echo {SECRET}; exec /busybox cat"]
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {namespace}}}
spec: {{selector: {{app: server}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {namespace}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: test/busybox:1, command: [/busybox, sleep, "100000"]}}]
"#
    )
}

fn namespace(instance: &Instance, name: &str, mode: &str) {
    instance.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio.io/dataplane-mode: {mode}}}}}\n"
    ));
}

fn ready(instance: &Instance, namespace: &str, pod: &str) -> Option<Value> {
    let pod = instance.get(&["pod", pod, "-n", namespace])?;
    let conditions = pod.pointer("/status/conditions")?.as_array()?;
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(pod)
}

fn address(pod: &Value) -> String {
    pod["status"]["podIP"].as_str().expect("a ready pod has an address").to_owned()
}

/// What a pod hears from an address.
fn ask(instance: &Instance, namespace: &str, to: &str, port: u16) -> Result<String, String> {
    let command = format!("echo x | /busybox nc -w 3 {to} {port}");
    instance.try_kubectl(&["exec", "-n", namespace, "client", "--", "/busybox", "sh", "-c", &command], "")
}

fn hears(instance: &Instance, namespace: &str, to: &str, port: u16) -> bool {
    ask(instance, namespace, to, port).is_ok_and(|answer| answer.contains(SECRET))
}

/// Everything that passes the links of this machine, as long as it lives.
struct Wire {
    seen: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Wire {
    /// Listens for packets that carry the secret from a pod to anybody but its node, whose probes hear it, too.
    fn listen(from: &str) -> Self {
        let from: std::net::Ipv4Addr = from.parse().expect("an address of a pod");
        let [a, b, _, _] = from.octets();
        let (from, node) = (from.octets(), [a, b, 0, 1]);
        const EVERY_PROTOCOL: u16 = libc::ETH_P_ALL as u16;
        // SAFETY: the call takes no pointers; the descriptor it returns is checked and owned from here on.
        let fd = unsafe {
            let fd =
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(EVERY_PROTOCOL.to_be()));
            assert!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let patience = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
        // SAFETY: the pointer and length describe the local `patience`, which outlives the call.
        let set = unsafe {
            let (value, size) = ((&raw const patience).cast(), size_of::<libc::timeval>() as libc::socklen_t);
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size)
        };
        assert_eq!(set, 0);
        let (seen, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (found, ended) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut socket = std::fs::File::from(fd);
            let mut packet = vec![0; 1 << 16];
            while !ended.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut packet) else { continue };
                let (Some(source), Some(destination)) = (packet.get(26..30), packet.get(30..34)) else { continue };
                let between_pods = source == from && destination != node;
                if between_pods && packet[..length].windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
                    found.store(true, Ordering::Relaxed);
                }
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// Whether the text was seen until now.
    fn saw(mut self) -> bool {
        // what has passed is read within the socket's patience
        std::thread::sleep(std::time::Duration::from_millis(200));
        self.end();
        self.seen.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn what_pods_of_the_mesh_say_is_not_seen_on_the_wire() {
    let Some(mut instance) = busybox::instance("what_pods_of_the_mesh_say_is_not_seen_on_the_wire") else {
        return;
    };
    namespace(&instance, "shop", "none");
    instance.apply(&pods("shop"));
    let server = eventually("the server is ready", || ready(&instance, "shop", "server"));
    let to = address(&server);
    eventually("the client runs", || ready(&instance, "shop", "client"));

    // outside the mesh everything is seen, which also proves that this test would see it
    let wire = Wire::listen(&to);
    assert!(hears(&instance, "shop", &to, 8080));
    assert!(wire.saw());

    // running pods join by a label; a Service and a server that speaks first work as before
    namespace(&instance, "shop", "ambient");
    eventually("nothing is seen any more", || {
        let wire = Wire::listen(&to);
        (hears(&instance, "shop", &to, 8080) && !wire.saw()).then_some(())
    });
    let wire = Wire::listen(&to);
    assert!(hears(&instance, "shop", "server", 80), "by the name of the Service");
    assert!(hears(&instance, "shop", &to, 8080), "by the pod's address");
    assert!(!wire.saw());
    let metrics = instance.kubectl(&["get", "--raw", "/metrics"]);
    let counted = metrics.lines().any(|line| {
        line.starts_with("istio_tcp_connections_opened_total{reporter=\"destination\"")
            && line.contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/default\"")
            && line.contains("connection_security_policy=\"mutual_tls\"")
    });
    assert!(counted, "{metrics}");
    assert!(ready(&instance, "shop", "server").is_some(), "probes reach the pod");

    // a stranger gets in until the mesh is strict
    namespace(&instance, "outside", "none");
    instance.apply(&pods("outside"));
    eventually("the stranger runs", || ready(&instance, "outside", "client"));
    assert!(hears(&instance, "outside", &to, 8080), "permissive");
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    instance.apply(strict);
    eventually("a stranger is refused", || (!hears(&instance, "outside", &to, 8080)).then_some(()));
    assert!(hears(&instance, "shop", &to, 8080), "who is known is not");

    // without a proxy nothing gets through, and after a restart everything does
    instance.kill();
    assert!(std::net::TcpStream::connect((to.as_str(), 8080)).is_ok(), "the pod lives on, for the node");
    instance.resume();
    eventually("the pods are served again", || hears(&instance, "shop", &to, 8080).then_some(()));
    assert!(!hears(&instance, "outside", &to, 8080), "and strict again");

    // they leave as they came
    instance.kubectl(&["delete", "peerauthentication", "default", "-n", "shop"]);
    namespace(&instance, "shop", "none");
    eventually("it is seen again", || {
        let wire = Wire::listen(&to);
        (hears(&instance, "shop", &to, 8080) && wire.saw()).then_some(())
    });
}

#[test]
fn a_job_of_the_mesh_is_captured_from_its_first_process_on_and_ends() {
    let Some(instance) = busybox::instance("a_job_of_the_mesh_is_captured_from_its_first_process_on_and_ends") else {
        return;
    };
    namespace(&instance, "shop", "ambient");
    instance.apply(&pods("shop"));
    let server = eventually("the server is ready", || ready(&instance, "shop", "server"));
    let to = address(&server);
    let ask = format!("/busybox nc -w 5 {to} 8080 < /dev/null | /busybox grep -q {SECRET}");
    let wire = Wire::listen(&to);
    instance.apply(&format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: once, namespace: shop}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      initContainers: [{{name: first, image: test/busybox:1, command: [/busybox, sh, -c, "{ask}"]}}]
      containers: [{{name: then, image: test/busybox:1, command: [/busybox, sh, -c, "{ask}"]}}]
"#
    ));
    eventually("the job succeeds", || {
        let job = instance.get(&["job", "once", "-n", "shop"])?;
        assert_ne!(job.pointer("/status/failed").and_then(Value::as_i64), Some(1), "{job}");
        (job.pointer("/status/succeeded").and_then(Value::as_i64) == Some(1)).then_some(())
    });
    assert!(!wire.saw());
}

/// A web server of one version, with a Service of its own and one for all versions.
fn web(namespace: &str, version: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: web-{version}, namespace: {namespace}, labels: {{app: web, version: {version}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: test/busybox:1
    command:
    - /busybox
    - sh
    - -c
    - >-
      /busybox mkdir -p /www/open /www/closed;
      for at in . open closed; do echo "{SECRET} {version} $at" > /www/$at/index.html; done;
      exec /busybox httpd -f -p 8080 -h /www
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
    volumeMounts: [{{name: www, mountPath: /www}}]
  volumes: [{{name: www, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web-{version}, namespace: {namespace}}}
spec: {{selector: {{app: web, version: {version}}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
"#
    )
}

/// What the client of a namespace gets when it asks an address for a path so often: the last line of each answer.
fn fetch(instance: &Instance, namespace: &str, times: usize, (to, port): (&str, u16), path: &str) -> Vec<String> {
    let request = format!("GET {path} HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n");
    let one = format!("echo -ne '{request}' | /busybox nc -w 3 {to} {port} | /busybox tail -n 1; echo");
    let command = format!("i=0; while [ $i -lt {times} ]; do {one}; i=$((i+1)); done");
    let got = instance.try_kubectl(&["exec", "-n", namespace, "client", "--", "/busybox", "sh", "-c", &command], "");
    got.unwrap_or_default().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Splits requests to `web`, and leads those for a path and with a header to one version.
const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - backendRefs: [{name: web-v1, port: 80, weight: 1}, {name: web-v2, port: 80, weight: 3}]
  - matches: [{path: {value: /open}, headers: [{name: host, value: web}]}]
    backendRefs: [{name: web-v1, port: 80}]
"#;

/// Keeps everybody from a path.
const CLOSED: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/closed*"]}}]}]
"#;

#[test]
fn requests_between_pods_of_the_mesh_are_routed_refused_and_encrypted() {
    let Some(instance) = busybox::instance("requests_between_pods_of_the_mesh_are_routed_refused_and_encrypted") else {
        return;
    };
    namespace(&instance, "shop", "ambient");
    namespace(&instance, "outside", "none");
    for (namespace, more) in [("shop", web("shop", "v1") + &web("shop", "v2")), ("outside", String::new())] {
        instance.apply(&(more + &pods(namespace)));
    }
    let servers = ["web-v1", "web-v2"].map(|name| {
        let pod = eventually("a web server is ready", || ready(&instance, "shop", name));
        address(&pod)
    });
    for namespace in ["shop", "outside"] {
        eventually("the client runs", || ready(&instance, namespace, "client"));
    }
    instance.apply(ROUTE);
    eventually("the route is accepted", || {
        let route = instance.get(&["httproute", "web", "-n", "shop"])?;
        let parent = route.pointer("/status/parents/0")?.clone();
        let accepted = parent["conditions"].as_array()?.iter().all(|condition| condition["status"] == "True");
        (accepted && parent["controllerName"] == "keelson.dev/mesh").then_some(())
    });
    let service = ("web", 80);
    eventually("requests for the path are led to v1", || {
        let got = fetch(&instance, "shop", 12, service, "/open/");
        (got.len() == 12 && got.iter().all(|line| line.contains(" v1 open"))).then_some(())
    });

    let wires = servers.each_ref().map(|server| Wire::listen(server));
    let got = fetch(&instance, "shop", 80, service, "/");
    let of = |version: &str| got.iter().filter(|line| line.contains(version)).count();
    let (v1, v2) = (of(" v1 "), of(" v2 "));
    // Four standard deviations of a split by a quarter are 16 requests.
    assert!(v1 + v2 == 80 && (4..=36).contains(&v1), "{v1} and {v2}: {got:?}");
    assert!(wires.into_iter().all(|wire| !wire.saw()), "encrypted on the way");
    let metrics = instance.kubectl(&["get", "--raw", "/metrics"]);
    let counted = ["web-v1.shop.svc", "web-v2.shop.svc"].map(|service| {
        let of = |line: &&str| {
            line.starts_with("istio_requests_total{reporter=\"source\"")
                && line.contains(&format!("destination_service=\"{service}.cluster.local\""))
                && line.contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/default\"")
                && line.contains("route_name=\"HTTPRoute shop/web\"")
                && line.contains("response_code=\"200\"")
                && line.contains("connection_security_policy=\"mutual_tls\"")
        };
        let line = metrics.lines().find(of).unwrap_or_else(|| panic!("{service} in {metrics}"));
        line.rsplit(' ').next().and_then(|count| count.parse::<usize>().ok()).expect("a count")
    });
    assert!(counted[0] >= v1 && counted[1] == v2, "{counted:?} for {v1} and {v2}");

    // a path is closed to everybody, whatever way they come, and however they write it
    instance.apply(CLOSED);
    let refused = |got: &[String]| got == ["RBAC: access denied"];
    eventually("the path is closed", || refused(&fetch(&instance, "shop", 1, service, "/closed/")).then_some(()));
    let pod = (servers[0].as_str(), 8080);
    for (namespace, to, path, closed) in [
        ("shop", service, "/open/", false),
        ("shop", service, "//closed/", true),
        ("shop", pod, "/open/", false),
        ("shop", pod, "/open/../closed/", true),
        ("outside", pod, "/open/", false),
        ("outside", pod, "/%63losed/", true),
    ] {
        let got = fetch(&instance, namespace, 1, to, path);
        assert_eq!(refused(&got), closed, "{path} of {to:?} from {namespace}: {got:?}");
        assert_eq!(got.iter().any(|line| line.contains(SECRET)), !closed, "{path} of {to:?} from {namespace}: {got:?}");
    }
    assert!(ready(&instance, "shop", "web-v1").is_some(), "probes reach the pod");
}
