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
