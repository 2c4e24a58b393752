//! Starts one run of a container: image, configuration, creation, start, postStart hook.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Secret, Service};
use kube::{Api, Resource};
use pod_lifecycle::{
    qos::qos_class,
    view::{Activity, Role, containers, spec_hash},
};
use reconcile::{EventType, Recorder};
use runtime::{
    PullErrorKind, RuntimeError,
    api::{ContainerConfig, ContainerId, ImageStatus, RegistryAuth, SandboxId},
};

use super::{
    Done, Shared, Worker,
    observe::{CONTAINER_LABEL, HASH_ANNOTATION, UID_LABEL},
};
use crate::{
    container::{
        environment::{environment, expand_all, service_variables},
        fields::PodFacts,
        security::security,
    },
    limits::resources,
    logs,
    probes::{Target, run_handler},
    sources::{References, Sources, api_message},
    volumes::{Volumes, container_mounts},
};

/// Grace of a container whose postStart hook failed.
const HOOK_FAILED_GRACE: Duration = Duration::from_secs(2);

/// What kind of failure; decides when the next try comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The image: pull back-off.
    Image,
    /// What the spec refers to: soon again.
    Config,
    /// Creating or starting: crash back-off.
    Run,
}

/// Why a container waits.
#[derive(Clone, Debug)]
pub(super) struct StartError {
    pub(super) class: Class,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A run that began.
pub(super) struct Started;

fn config_error(message: impl ToString) -> StartError {
    StartError { class: Class::Config, reason: "CreateContainerConfigError", message: message.to_string() }
}

/// Everything a start needs, so that it runs beside the worker.
struct Start {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    attempt: u32,
    sandbox: SandboxId,
    facts: PodFacts,
    volumes: Volumes,
    pod_dir: PathBuf,
    termination_log: PathBuf,
    /// The container whose processes it is to see, or why there is none.
    target: Result<Option<ContainerId>, String>,
}

/// An event about one container.
pub(super) fn container_event(
    recorder: &Recorder,
    pod: &Pod,
    container: &str,
    kind: EventType,
    reason: &str,
    message: impl Into<String>,
) {
    let mut all = pod.spec.iter().flat_map(containers);
    let list = match all.find(|(_, own)| own.name == container) {
        Some((Role::Init | Role::Sidecar, _)) => "initContainers",
        Some((Role::Ephemeral, _)) => "ephemeralContainers",
        Some((Role::Main, _)) | None => "containers",
    };
    let about = ObjectReference {
        field_path: Some(format!("spec.{list}{{{container}}}")),
        resource_version: pod.metadata.resource_version.clone(),
        ..pod.object_ref(&())
    };
    recorder.event(&about, kind, reason, "", message);
}

impl Worker {
    pub(super) fn start(&mut self, name: String, attempt: u32, now: jiff::Timestamp) {
        let (Some((_, container)), Some(sandbox), Some(volumes)) =
            (self.container(&name), self.sandbox.clone(), self.volumes.clone())
        else {
            // Volumes of an adopted pod are still being looked at.
            self.seen(&name).retry_at = now.checked_add(super::SANDBOX_RETRY).ok();
            return;
        };
        let seen = self.seen(&name);
        seen.activity = Activity::Starting;
        if seen.current.is_some() {
            seen.crashes.advance(now);
        }
        let start = Start {
            shared: Arc::clone(&self.shared),
            pod: Arc::clone(&self.pod),
            container,
            attempt,
            sandbox,
            facts: self.facts(),
            volumes,
            pod_dir: self.shared.config.pod_dir(self.uid()),
            termination_log: self.termination_log(&name, attempt),
            target: self.target(&name),
        };
        let stale: Vec<ContainerId> = match &self.view.containers.get(&name).and_then(|seen| seen.current.clone()) {
            Some(run) if run.attempt == attempt => vec![ContainerId(run.id.clone())],
            _ => Vec::new(),
        };
        let created = name.clone();
        let operation = self.ops.spawn(async move {
            for id in stale {
                if let Err(error) = start.shared.runtime.remove_container(&id).await {
                    tracing::warn!(container = %id, %error, "cannot remove unstarted container");
                }
            }
            let result = start.run().await;
            if let Err(error) = &result {
                start.event(EventType::Warning, "Failed", format!("Error: {}", error.event_text()));
            }
            Done::Started { container: created, result }
        });
        self.containers.entry(name).or_default().start = Some(operation);
    }

    /// The container that an ephemeral one is about.
    fn target(&self, name: &str) -> Result<Option<ContainerId>, String> {
        let mut ephemeral = self.spec().into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let own = ephemeral.find(|own| own.name == name);
        let Some(target) = own.and_then(|own| own.target_container_name.as_ref()) else { return Ok(None) };
        let run = self.view.containers.get(target).and_then(|seen| seen.current.as_ref());
        let run = run.filter(|run| run.is_running());
        run.map(|run| Some(ContainerId(run.id.clone())))
            .ok_or_else(|| format!("unable to find target container {target}"))
    }

    /// Keeps the newest dead run besides the current one; older ones go with their logs.
    pub(super) fn collect_old_runs(&mut self, name: &str) {
        self.rediscover(name);
        let Some(slot) = self.containers.get_mut(name) else { return };
        let surplus = slot.ids.len().saturating_sub(2);
        for id in slot.ids.drain(..surplus) {
            let runtime = Arc::clone(&self.shared.runtime);
            self.ops.spawn(async move {
                let log = runtime.container(&id).map(|status| status.log_path);
                if let Err(error) = runtime.remove_container(&id).await {
                    tracing::warn!(container = %id, %error, "cannot remove dead container");
                }
                if let Some(log) = log
                    && let Err(error) = logs::remove(&log)
                {
                    tracing::debug!(log = %log.display(), %error, "cannot remove log of dead container");
                }
                Done::Stopped
            });
        }
    }
}

impl StartError {
    fn event_text(&self) -> String {
        match self.class {
            Class::Image => self.reason.to_owned(),
            Class::Config | Class::Run => self.message.clone(),
        }
    }
}

impl Start {
    fn event(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        container_event(&self.shared.recorder, &self.pod, &self.container.name, kind, reason, message);
    }

    async fn run(&self) -> Result<Started, StartError> {
        let image = self.image().await?;
        let config = self.config(&image).await?;
        let runtime = &self.shared.runtime;
        let failed = |reason| {
            move |error: RuntimeError| match error {
                RuntimeError::RunAsNonRoot(message) => config_error(message),
                error => StartError { class: Class::Run, reason, message: error.to_string() },
            }
        };
        let id = runtime.create_container(&self.sandbox, config).await.map_err(|error| {
            let reason =
                if matches!(error, RuntimeError::Start { .. }) { "RunContainerError" } else { "CreateContainerError" };
            failed(reason)(error)
        })?;
        self.event(EventType::Normal, "Created", "Container created");
        runtime.start_container(&id).await.map_err(failed("RunContainerError"))?;
        self.event(EventType::Normal, "Started", "Container started");
        self.post_start(&id).await?;
        Ok(Started)
    }

    async fn post_start(&self, id: &ContainerId) -> Result<(), StartError> {
        let Some(handler) = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return Ok(());
        };
        let target = Target {
            runtime: Arc::clone(&self.shared.runtime),
            id: id.clone(),
            container: Arc::new(self.container.clone()),
            ip: self.facts.pod_ips.first().cloned().unwrap_or_default(),
        };
        let Err(error) = run_handler(&target, handler).await else { return Ok(()) };
        self.event(EventType::Warning, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
        self.event(EventType::Normal, "Killing", "FailedPostStartHook");
        if let Err(error) = self.shared.runtime.stop_container(id, HOOK_FAILED_GRACE).await {
            tracing::warn!(container = %id, %error, "cannot stop container after its postStart hook failed");
        }
        Err(StartError { class: Class::Run, reason: "PostStartHookError", message: error.to_string() })
    }

    /// Makes sure the image is there, as the pull policy says.
    async fn image(&self) -> Result<ImageStatus, StartError> {
        let reference = self.container.image.as_deref().unwrap_or_default();
        let runtime = &self.shared.runtime;
        let latest = !reference.contains('@')
            && reference.rsplit('/').next().is_none_or(|last| last.split(':').nth(1).is_none_or(|tag| tag == "latest"));
        let policy =
            self.container.image_pull_policy.as_deref().unwrap_or(if latest { "Always" } else { "IfNotPresent" });
        let present = runtime.image(reference);
        match (policy, present) {
            ("Never" | "IfNotPresent", Some(image)) => {
                let text = format!(
                    "Container image \"{reference}\" already present on machine and can be accessed by the pod"
                );
                self.event(EventType::Normal, "Pulled", text);
                Ok(image)
            }
            ("Never", None) => {
                let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
                self.event(EventType::Warning, "ErrImageNeverPull", message.clone());
                Err(StartError { class: Class::Image, reason: "ErrImageNeverPull", message })
            }
            _ => self.pull(reference).await,
        }
    }

    async fn pull(&self, reference: &str) -> Result<ImageStatus, StartError> {
        self.event(EventType::Normal, "Pulling", format!("Pulling image \"{reference}\""));
        let began = Instant::now();
        let auth = self.registry_auth(reference).await;
        match self.shared.runtime.pull(reference, auth).await {
            Ok(image) => {
                let took = Duration::from_millis(began.elapsed().as_millis() as u64);
                let text = format!(
                    "Successfully pulled image \"{reference}\" in {took:?} ({took:?} including waiting). Image size: {} bytes.",
                    image.size_bytes
                );
                self.event(EventType::Normal, "Pulled", text);
                Ok(image)
            }
            Err(error) if error.kind == PullErrorKind::InvalidReference => {
                let message = format!("Failed to apply default image tag \"{reference}\": {}", error.message);
                self.event(EventType::Warning, "InspectFailed", message.clone());
                Err(StartError { class: Class::Image, reason: "InvalidImageName", message })
            }
            Err(error) => {
                self.event(EventType::Warning, "Failed", format!("Failed to pull image \"{reference}\": {error}"));
                Err(StartError { class: Class::Image, reason: "ErrImagePull", message: error.to_string() })
            }
        }
    }

    /// Credentials for the image's registry among the pod's pull secrets.
    async fn registry_auth(&self, reference: &str) -> Option<RegistryAuth> {
        let names = self.pod.spec.as_ref()?.image_pull_secrets.as_ref()?;
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.shared.client.clone(), namespace);
        for reference_to in names {
            let secret = match secrets.get_opt(&reference_to.name).await {
                Ok(secret) => secret,
                Err(error) => {
                    tracing::debug!(secret = reference_to.name, %error, "cannot read pull secret");
                    continue;
                }
            };
            let found = secret.and_then(|secret| {
                let data = secret.data?;
                let config = data.get(".dockerconfigjson")?;
                credentials(&config.0, reference)
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    async fn config(&self, image: &ImageStatus) -> Result<ContainerConfig, StartError> {
        let spec = self.pod.spec.as_ref().ok_or_else(|| config_error("pod has no spec"))?;
        let metadata = &self.pod.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let wanted = References::of_environment(&self.container);
        let sources = Sources::fetch(&self.shared.client, namespace, &wanted)
            .await
            .map_err(|error| config_error(api_message(&error)))?;
        if !self.shared.services.synced().await {
            return Err(config_error("services have not yet been read at least once, cannot construct envvars"));
        }
        let services: Vec<Arc<Service>> =
            [namespace, "default"].iter().flat_map(|from| self.shared.services.namespace(from)).collect();
        let links = spec.enable_service_links.unwrap_or(true);
        let variables = service_variables(services.iter().map(AsRef::as_ref), namespace, links);
        let container = &self.container;
        let env = environment(&self.pod, container, &self.facts, &sources, &variables).map_err(config_error)?;
        let pod_name = format!(
            "{}_{namespace}({})",
            metadata.name.as_deref().unwrap_or_default(),
            metadata.uid.as_deref().unwrap_or_default()
        );
        let shares_processes_with = self.target.clone().map_err(config_error)?;
        let security = security(spec, &pod_name, container, &self.shared.config.seccomp_dir()).map_err(config_error)?;
        let mounts = container_mounts(container, &self.volumes, &self.pod_dir, &env, &self.termination_log);
        let labels = [
            (UID_LABEL, metadata.uid.clone().unwrap_or_default()),
            (CONTAINER_LABEL, container.name.clone()),
            ("io.kubernetes.pod.name", metadata.name.clone().unwrap_or_default()),
            ("io.kubernetes.pod.namespace", namespace.to_owned()),
        ];
        Ok(ContainerConfig {
            name: container.name.clone(),
            attempt: self.attempt,
            image_id: image.id.clone(),
            image_ref: container.image.clone().unwrap_or_default(),
            command: expand_all(container.command.as_ref(), &env),
            args: expand_all(container.args.as_ref(), &env),
            working_dir: container.working_dir.clone().filter(|directory| !directory.is_empty()),
            mounts: mounts.map_err(config_error)?,
            devices: Vec::new(),
            resources: resources(qos_class(spec), container, self.shared.memory_bytes),
            security,
            log_path: PathBuf::from(&container.name).join(format!("{}.log", self.attempt)),
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
            shares_processes_with,
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            annotations: [(HASH_ANNOTATION.to_owned(), spec_hash(container))].into(),
            env,
        })
    }
}

/// The entry of a `.dockerconfigjson` for the registry of an image.
fn credentials(config: &[u8], reference: &str) -> Option<RegistryAuth> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let first = reference.split('/').next().unwrap_or_default();
    let has_host = reference.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let registry = if has_host { first } else { "docker.io" };
    let host_of = |key: &str| -> String {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let host = key.split('/').next().unwrap_or_default();
        if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
    };
    let (_, entry) = config.get("auths")?.as_object()?.iter().find(|(key, _)| host_of(key) == registry)?;
    let text = |name: &str| entry.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryAuth { username, password });
    }
    let auth = String::from_utf8(STANDARD.decode(text("auth")?).ok()?).ok()?;
    let (username, password) = auth.split_once(':')?;
    Some(RegistryAuth { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_secrets_are_found_by_registry() {
        let config =
            br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"ghcr.io":{"username":"g","password":"h"}}}"#;
        let user = |reference: &str| credentials(config, reference).map(|auth| auth.username);
        assert_eq!(user("nginx:1").as_deref(), Some("u"));
        assert_eq!(user("library/nginx").as_deref(), Some("u"));
        assert_eq!(user("ghcr.io/a/b:1").as_deref(), Some("g"));
        assert_eq!(user("localhost:5000/x"), None);
    }
}
