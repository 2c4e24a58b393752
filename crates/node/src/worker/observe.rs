//! Reads the runtime's records into the pod's view.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use pod_lifecycle::{
    lost::{UNKNOWN_EXIT_CODE, UNKNOWN_MESSAGE, UNKNOWN_REASON},
    view::{Activity, Exit, Run, RunState, Sandbox, containers},
};
use runtime::api::{ContainerId, ContainerState, ContainerStatus, SandboxState};

use super::{Slot, Worker};
use crate::server::{ContainerRecord, PodRecord};

/// Label of the pod's UID on sandboxes and containers.
pub(crate) const UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Label of the container's name.
pub(crate) const CONTAINER_LABEL: &str = "io.kubernetes.container.name";
/// Annotation with the hash of the spec a container was made from.
pub(crate) const HASH_ANNOTATION: &str = "keelson.dev/container-hash";
/// Annotation with the pod's grace, for pods that are deleted while Keelson is down.
pub(crate) const GRACE_ANNOTATION: &str = "keelson.dev/grace-seconds";

/// Bytes of a termination message file, as upstream.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Bytes of log that stand in for a missing termination message, as upstream.
const LOG_MESSAGE_BYTES_MAX: u64 = 2048;
/// Lines of log that stand in for a missing termination message, as upstream.
const LOG_MESSAGE_LINES_MAX: usize = 80;

fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 {
        return None;
    }
    // The API's times have seconds; a finer one would make every status differ from what is read back.
    Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000)).ok()
}

/// Reason of an exit, in upstream's words.
fn reason(exit_code: i32, oom_killed: bool, started: bool, message: &str) -> &'static str {
    match (oom_killed, started, exit_code) {
        (true, ..) => "OOMKilled",
        (_, false, _) if !message.is_empty() => "StartError",
        (.., 0) => "Completed",
        _ => "Error",
    }
}

impl Worker {
    /// Takes over what an earlier process left.
    pub(super) async fn adopt(&mut self) {
        let Some(id) = self.sandbox.clone() else { return };
        let status = self.shared.runtime.sandbox(&id);
        let ready = status.as_ref().is_some_and(|status| status.state == SandboxState::Ready);
        if !ready {
            return;
        }
        let host_network = self.spec().is_some_and(|spec| spec.host_network == Some(true));
        let ips = if host_network {
            vec![self.shared.config.node_ip.to_string()]
        } else {
            let netns = status.and_then(|status| status.netns);
            match (self.shared.network.address(self.uid()), netns) {
                (Some(address), _) => vec![address.ip.to_string()],
                (None, Some(netns)) => match self.shared.network.attach(self.uid(), &netns).await {
                    Ok(address) => vec![address.ip.to_string()],
                    Err(error) => {
                        // Its containers run; a missing address is no reason to end them.
                        tracing::warn!(pod = self.names().1, %error, "cannot attach adopted pod to the network");
                        Vec::new()
                    }
                },
                (None, None) => Vec::new(),
            }
        };
        self.view.sandbox = Sandbox::Ready { ips };
        self.refresh_at = Some(Timestamp::now());
    }

    /// Brings the view up to date.
    pub(super) fn observe(&mut self, now: Timestamp) {
        self.view.ending = self.ending(now);
        self.observe_sandbox();
        let Some(spec) = self.pod.spec.clone() else { return };
        for (_, container) in containers(&spec) {
            self.observe_container(&container);
        }
        self.tend_probes();
        let due = self.refresh_at.or(self.volumes.as_ref().and_then(|volumes| volumes.renew_at));
        let alive = matches!(self.view.sandbox, Sandbox::Ready { .. }) && self.view.ending.is_none();
        if alive && !self.refreshing && due.is_some_and(|due| due <= now) {
            self.refresh_volumes();
        }
    }

    fn observe_sandbox(&mut self) {
        let Some(id) = &self.sandbox else { return };
        let ready = self.shared.runtime.sandbox(id).is_some_and(|status| status.state == SandboxState::Ready);
        if !ready && matches!(self.view.sandbox, Sandbox::Ready { .. }) {
            self.view.sandbox = Sandbox::Absent;
        }
    }

    fn observe_container(&mut self, container: &Container) {
        let name = container.name.as_str();
        let slot = self.containers.entry(name.to_owned()).or_default();
        slot.ids.retain(|id| self.shared.runtime.container(id).is_some());
        let (newest, before) = (slot.ids.last().cloned(), slot.ids.iter().rev().nth(1).cloned());
        let lost = slot.lost.clone();
        let known = newest.and_then(|id| self.run_of(container, &id));
        let known_before = before.and_then(|id| self.run_of(container, &id));
        let (current, previous) = match known {
            Some(run) => (Some(run), known_before.or(lost)),
            None => (lost, None),
        };
        let live = current.as_ref().is_some_and(Run::is_live);
        let seen = self.seen(name);
        if !live && seen.activity == Activity::Stopping {
            seen.activity = Activity::Idle;
        }
        if live && seen.activity == Activity::Idle {
            seen.waiting = None;
        }
        seen.current = current;
        seen.previous = previous;
    }

    fn run_of(&mut self, container: &Container, id: &ContainerId) -> Option<Run> {
        let status = self.shared.runtime.container(id)?;
        let state = match &status.state {
            ContainerState::Created => RunState::Created,
            ContainerState::Running { started_at_ns, .. } => {
                RunState::Running { started_at: time(*started_at_ns).unwrap_or_default() }
            }
            ContainerState::Exited { exit_code, signal, oom_killed, started_at_ns, finished_at_ns, message } => {
                let started_at = time(*started_at_ns);
                let why = reason(*exit_code, *oom_killed, started_at.is_some(), message);
                let (reason, message) = self.last_words(container, &status, why, *exit_code, message);
                RunState::Exited(Exit {
                    code: *exit_code,
                    signal: *signal,
                    reason,
                    message,
                    started_at,
                    finished_at: time(*finished_at_ns).unwrap_or_default(),
                })
            }
            ContainerState::Unknown => RunState::Exited(Exit {
                code: UNKNOWN_EXIT_CODE,
                reason: UNKNOWN_REASON.to_owned(),
                message: UNKNOWN_MESSAGE.to_owned(),
                finished_at: time(status.created_at_ns).unwrap_or_default(),
                ..Exit::default()
            }),
        };
        Some(Run {
            id: id.0.clone(),
            attempt: status.config.attempt,
            image_ref: status.config.image_ref.clone(),
            image_digest: status.image_digest_ref.clone(),
            spec_hash: status.config.annotations.get(HASH_ANNOTATION).cloned().unwrap_or_default(),
            in_current_sandbox: self.sandbox.as_ref() == Some(&status.sandbox),
            state,
        })
    }

    /// The termination message of an exit, read once.
    fn last_words(
        &mut self,
        container: &Container,
        status: &ContainerStatus,
        reason: &str,
        exit_code: i32,
        message: &str,
    ) -> (String, String) {
        let file = self.termination_log(&container.name, status.config.attempt);
        let slot: &mut Slot = self.containers.entry(container.name.clone()).or_default();
        if let Some(known) = slot.exits.get(&status.id) {
            return known.clone();
        }
        let mut text = read_head(&file, MESSAGE_BYTES_MAX);
        let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if text.is_empty() && from_log && exit_code != 0 {
            text = read_log_tail(&status.log_path);
        }
        if text.is_empty() {
            text = message.to_owned();
        }
        let words = (reason.to_owned(), text);
        let ids = &slot.ids;
        slot.exits.retain(|id, _| ids.contains(id));
        slot.exits.insert(status.id.clone(), words.clone());
        words
    }

    pub(super) fn termination_log(&self, container: &str, attempt: u32) -> std::path::PathBuf {
        self.shared.config.pod_dir(self.uid()).join("containers").join(container).join(attempt.to_string())
    }

    /// Looks for containers an aborted start may have made.
    pub(super) fn rediscover(&mut self, name: &str) {
        let uid = self.uid().to_owned();
        let slot = self.containers.entry(name.to_owned()).or_default();
        for status in self.shared.runtime.containers() {
            let labels = &status.config.labels;
            let ours =
                labels.get(UID_LABEL) == Some(&uid) && labels.get(CONTAINER_LABEL).is_some_and(|own| own == name);
            if ours && !slot.ids.contains(&status.id) {
                slot.ids.push(status.id);
            }
        }
    }

    /// Tells the HTTP service where the pod's containers are.
    pub(super) fn publish(&self) {
        let mut record =
            PodRecord { uid: self.uid().to_owned(), sandbox: self.sandbox.clone(), ..PodRecord::default() };
        for (name, seen) in &self.view.containers {
            let id = |run: &Option<Run>| run.as_ref().map(|run| ContainerId(run.id.clone()));
            let waiting = seen.waiting.as_ref().map_or("ContainerCreating", |why| why.reason.as_str());
            let slots = ContainerRecord {
                current: id(&seen.current),
                previous: id(&seen.previous),
                waiting: waiting.to_owned(),
            };
            record.containers.insert(name.clone(), slots);
        }
        let (namespace, name) = self.names();
        self.shared.table.set(namespace, name, record);
    }
}

fn read_head(path: &Path, limit: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path)
        && let Err(error) = file.take(limit).read_to_end(&mut bytes)
    {
        tracing::debug!(path = %path.display(), %error, "cannot read termination message");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a log without its CRI prefixes.
fn read_log_tail(path: &Path) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    // Prefixes take room that does not count.
    let span = LOG_MESSAGE_BYTES_MAX * 3;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(size.saturating_sub(span))).is_err()
        || file.take(span).read_to_end(&mut bytes).is_err()
    {
        return String::new();
    }
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let mut text = Vec::new();
    for line in lines.iter().skip(lines.len().saturating_sub(LOG_MESSAGE_LINES_MAX + 1)) {
        if let Some(line) = crate::logs::parse(line) {
            text.extend_from_slice(line.text);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    let from = text.len().saturating_sub(LOG_MESSAGE_BYTES_MAX as usize);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_have_upstreams_reasons() {
        let cases = [
            ((0, false, true, ""), "Completed"),
            ((1, false, true, ""), "Error"),
            ((137, true, true, ""), "OOMKilled"),
            ((127, false, false, "exec: no such file"), "StartError"),
        ];
        for ((code, oom, started, message), expected) in cases {
            assert_eq!(reason(code, oom, started, message), expected);
        }
    }

    #[test]
    fn the_end_of_a_log_stands_in_for_a_message() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let log: String = (0..100).map(|line| format!("2026-01-01T00:00:01Z stderr F line {line}\n")).collect();
        std::fs::write(&path, log).unwrap();
        let tail = read_log_tail(&path);
        assert_eq!(tail.lines().count(), 80);
        assert!(tail.ends_with("line 98\nline 99\n"));
        assert_eq!(read_log_tail(&directory.path().join("none")), "");
    }
}
