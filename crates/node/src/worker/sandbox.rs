//! The pod's surroundings: volumes, sandbox, network, and their end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    node::v1::RuntimeClass,
};
use kube::Api;
use pod_lifecycle::{ending::GRACE_SECONDS, qos::qos_class, view::Sandbox};
use reconcile::EventType;
use runtime::{
    Runtime,
    api::{SandboxConfig, SandboxId},
};

use super::{Done, SANDBOX_RETRY, SANDBOX_RETRY_MAX, Shared, Worker, observe};
use crate::{
    container::{fields::PodFacts, netfiles},
    limits::cgroup_parent,
    sources::api_message,
    volumes::{self, Purpose, Volumes},
};

/// Pause between tries to remove what a pod leaves behind.
const COLLECT_RETRY: Duration = Duration::from_secs(1);
/// Tries to remove it before it is left to the next start.
const COLLECT_TRIES_MAX: u32 = 10;

/// Handlers of RuntimeClasses that ask for what every pod gets: the one of every containerd, and our own name.
const HANDLERS: [&str; 2] = ["runc", "keelson"];

/// Reason and message of an event.
type Failure = (String, String);

impl Worker {
    pub(super) fn create_sandbox(&mut self) {
        self.view.sandbox = Sandbox::Pending { retry_at: None, making: true };
        let attempt = self.sandbox_attempts;
        self.sandbox_attempts += 1;
        let (shared, pod, facts) = (Arc::clone(&self.shared), Arc::clone(&self.pod), self.facts());
        self.ops.spawn(async move { Done::Sandbox(make(&shared, &pod, facts, attempt).await) });
    }

    pub(super) fn take_sandbox(&mut self, result: Result<(SandboxId, Vec<String>, Volumes), Failure>) {
        match result {
            Ok((id, ips, volumes)) => {
                self.sandbox = Some(id);
                self.volumes = Some(volumes);
                self.view.sandbox = Sandbox::Ready { ips };
                self.sandbox_backoff = SANDBOX_RETRY;
                // Fields such as the pod's address are known only now.
                self.refresh_at = Some(Timestamp::now());
            }
            Err((reason, message)) => {
                self.event(EventType::Warning, &reason, message);
                let retry_at = Timestamp::now().checked_add(self.sandbox_backoff).ok();
                self.view.sandbox = Sandbox::Pending { retry_at, making: false };
                self.sandbox_backoff = (self.sandbox_backoff * 2).min(SANDBOX_RETRY_MAX);
            }
        }
    }

    pub(super) fn refresh_volumes(&mut self) {
        self.refreshing = true;
        self.refresh_at = None;
        let (shared, pod, facts) = (Arc::clone(&self.shared), Arc::clone(&self.pod), self.facts());
        self.ops.spawn(async move {
            let now = Timestamp::now();
            Done::Refreshed(volumes::set_up(&shared.client, &pod, &shared.config, &facts, Purpose::Refresh, now).await)
        });
    }

    /// Ends the network and the sandbox; containers and logs stay readable.
    pub(super) fn stop_sandbox(&mut self) {
        self.view.sandbox = Sandbox::Stopping;
        let (shared, uid, sandbox) = (Arc::clone(&self.shared), self.uid().to_owned(), self.sandbox.clone());
        self.ops.spawn(async move {
            if let Some(id) = sandbox
                && let Err(error) = shared.runtime.stop_sandbox(&id).await
            {
                tracing::warn!(sandbox = %id, %error, "cannot stop sandbox");
            }
            if let Err(error) = shared.network.detach(&uid).await {
                tracing::warn!(pod = uid, %error, "cannot detach pod from the network");
            }
            Done::SandboxStopped
        });
    }

    /// Removes everything the node holds of the pod.
    pub(super) fn collect(&mut self) {
        let (namespace, name) = self.names();
        let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), self.uid().to_owned());
        let shared = Arc::clone(&self.shared);
        self.ops.spawn(async move {
            let logs = shared.config.log_dir(&namespace, &name, &uid);
            clean_up(&shared, &uid, Some(logs)).await;
            shared.table.remove(&namespace, &name, &uid);
            Done::Collected
        });
    }
}

/// Removes sandboxes, network, volumes and logs of a pod that is over. Idempotent.
pub(crate) async fn clean_up(shared: &Shared, uid: &str, logs: Option<std::path::PathBuf>) {
    for _ in 0..COLLECT_TRIES_MAX {
        let mut clean = true;
        for sandbox in shared.runtime.sandboxes().into_iter().filter(|sandbox| sandbox.config.uid == uid) {
            if let Err(error) = shared.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = %sandbox.id, %error, "cannot remove sandbox");
                clean = false;
            }
        }
        if let Err(error) = shared.network.detach(uid).await {
            tracing::warn!(pod = uid, %error, "cannot detach pod from the network");
            clean = false;
        }
        let pod_dir = shared.config.pod_dir(uid);
        let removed = tokio::task::spawn_blocking(move || volumes::tear_down(&pod_dir)).await;
        if let Err(error) = removed.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(pod = uid, %error, "cannot remove volumes");
            clean = false;
        }
        if let Some(logs) = &logs
            && let Err(error) = tokio::fs::remove_dir_all(logs).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(pod = uid, %error, "cannot remove logs");
        }
        if clean {
            return;
        }
        tokio::time::sleep(COLLECT_RETRY).await;
    }
}

async fn make(
    shared: &Shared,
    pod: &Pod,
    mut facts: PodFacts,
    attempt: u32,
) -> Result<(SandboxId, Vec<String>, Volumes), Failure> {
    let spec = pod.spec.as_ref().ok_or_else(|| failure("FailedCreatePodSandBox", "pod has no spec"))?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mounted = volumes::set_up(&shared.client, pod, &shared.config, &facts, Purpose::Start, Timestamp::now()).await;
    let volumes = mounted.map_err(|error| failure("FailedMount", &error))?;
    let config = sandbox_config(shared, pod, spec, attempt);
    let failed = |what: &dyn std::fmt::Display| {
        failure("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {what}"))
    };
    if let Some(class) = spec.runtime_class_name.as_deref().filter(|class| !class.is_empty()) {
        check_handler(shared, class).await.map_err(|error| failed(&error))?;
    }
    let sandbox = shared.runtime.run_sandbox(config).await.map_err(|error| failed(&error))?;
    let ips = match &sandbox.netns {
        Some(netns) => match shared.network.attach(uid, netns).await {
            Ok(address) => vec![address.ip.to_string()],
            Err(error) => {
                discard(&shared.runtime, &sandbox.id).await;
                return Err(failed(&error));
            }
        },
        None => vec![shared.config.node_ip.to_string()],
    };
    facts.pod_ips.clone_from(&ips);
    let host_file = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let hosts = netfiles::hosts(pod, &ips, &shared.config.cluster_domain, &host_file);
    let path = shared.runtime.sandbox_dir(&sandbox.id).join("hosts");
    if let Err(error) = tokio::fs::write(&path, hosts).await {
        discard(&shared.runtime, &sandbox.id).await;
        return Err(failed(&format!("write {}: {error}", path.display())));
    }
    Ok((sandbox.id, ips, volumes))
}

/// Whether pods of a RuntimeClass can be run: one that is to be kept apart by a virtual machine is not to run without.
async fn check_handler(shared: &Shared, class: &str) -> Result<(), String> {
    let classes: Api<RuntimeClass> = Api::all(shared.client.clone());
    let found = classes.get(class).await;
    let handler = found.map_err(|error| format!("get RuntimeClass {class}: {}", api_message(&error)))?.handler;
    let known = handler.is_empty() || HANDLERS.contains(&handler.as_str());
    known.then_some(()).ok_or_else(|| format!("no runtime for {handler:?} is configured"))
}

fn failure(reason: &str, message: impl ToString) -> Failure {
    (reason.to_owned(), message.to_string())
}

async fn discard(runtime: &Runtime, id: &SandboxId) {
    if let Err(error) = runtime.remove_sandbox(id).await {
        tracing::warn!(sandbox = %id, %error, "cannot remove sandbox that was not finished");
    }
}

fn sandbox_config(shared: &Shared, pod: &Pod, spec: &PodSpec, attempt: u32) -> SandboxConfig {
    let config = &shared.config;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (name, namespace, uid) = (text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid));
    let host_network = spec.host_network == Some(true);
    // A resolver file that cannot be read leaves the cluster's own settings.
    let host_resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let dns_ip = config.cluster_dns.to_string();
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let hostname = if host_network {
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| config.name.clone())
    } else {
        netfiles::hostname(pod)
    };
    let grace = spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS);
    SandboxConfig {
        attempt,
        hostname,
        resolv_conf: netfiles::resolv_conf(spec, &namespace, &dns_ip, &config.cluster_domain, &host_resolv),
        log_directory: config.log_dir(&namespace, &name, &uid),
        host_network,
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        cgroup_parent: cgroup_parent(qos_class(spec), &uid),
        labels: BTreeMap::from([(observe::UID_LABEL.to_owned(), uid.clone())]),
        annotations: BTreeMap::from([(observe::GRACE_ANNOTATION.to_owned(), grace.to_string())]),
        name,
        namespace,
        uid,
    }
}

/// Stops the containers of a pod that the API has forgotten, with the grace it had; returns its log directory.
pub(crate) async fn stop_orphan(shared: &Shared, uid: &str) -> Option<std::path::PathBuf> {
    let mut logs = None;
    for sandbox in shared.runtime.sandboxes().into_iter().filter(|sandbox| sandbox.config.uid == uid) {
        let grace = sandbox.config.annotations.get(observe::GRACE_ANNOTATION).and_then(|text| text.parse().ok());
        let grace = Duration::from_secs(grace.unwrap_or(GRACE_SECONDS.unsigned_abs()));
        let own = shared.runtime.containers().into_iter().filter(|container| container.sandbox == sandbox.id);
        let stops = own.map(|container| async move {
            if let Err(error) = shared.runtime.stop_container(&container.id, grace).await {
                tracing::warn!(container = %container.id, %error, "cannot stop container");
            }
        });
        futures::future::join_all(stops).await;
        logs = Some(sandbox.config.log_directory);
    }
    logs
}
