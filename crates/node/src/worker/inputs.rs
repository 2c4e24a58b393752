//! What the worker makes of news: a changed pod, findings of probes, operations that ended, back-off.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::{
    backoff::{Backoff, crash_loop},
    ending::grace_seconds,
    plan::Plan,
    view::{Activity, Sandbox, Waiting},
};
use reconcile::EventType;

use super::{
    CONFIG_RETRY, Done, IMAGE_ERROR_SHOWN, REFRESH_RETRY, Slot, Worker,
    start::{Class, StartError, Started},
};
use crate::probes::{Finding, Kind, Report};

impl Worker {
    pub(super) fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        let shorter = grace_seconds(&desired.pod) < grace_seconds(&self.pod) || (desired.removed && !self.removed);
        let described = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if described(&desired.pod) != described(&self.pod) {
            // Volumes may show them.
            self.refresh_at = Some(Timestamp::now());
        }
        self.pod = desired.pod;
        self.removed = desired.removed;
        if desired.sources != self.sources {
            self.sources = desired.sources;
            self.refresh_at = Some(Timestamp::now());
            for seen in self.view.containers.values_mut() {
                let by_config = seen.waiting.as_ref().is_some_and(|why| why.reason == "CreateContainerConfigError");
                if by_config {
                    seen.retry_at = None;
                }
            }
            if let Sandbox::Pending { retry_at, making: false } = &mut self.view.sandbox {
                *retry_at = None;
            }
        }
        if shorter {
            self.hurry();
        }
    }

    /// Seconds the pod's containers have left.
    pub(super) fn grace(&self) -> i64 {
        if self.removed { 0 } else { grace_seconds(&self.pod) }
    }

    pub(super) fn take_report(&mut self, report: Report) {
        let current = self.view.containers.get(&report.container).and_then(|seen| seen.current.as_ref());
        if current.is_none_or(|run| run.id != report.id.0) {
            return;
        }
        let name = report.container;
        match report.finding {
            Finding::Started => self.seen(&name).started = true,
            Finding::Ready(ready) => self.seen(&name).ready = ready,
            Finding::Failed(kind, text) => {
                // A container that is being stopped fails its probes; that is nobody's concern.
                if self.seen(&name).activity != Activity::Stopping {
                    let text = format!("{} probe failed: {text}", kind.name());
                    self.container_event(&name, EventType::Warning, "Unhealthy", text);
                }
            }
            Finding::Unhealthy(kind) => {
                let kind = if kind == Kind::Startup { "startup" } else { "liveness" };
                self.seen(&name).unhealthy = Some(format!("Container {name} failed {kind} probe, will be restarted"));
            }
        }
    }

    pub(super) fn take_done(&mut self, done: Done) {
        match done {
            Done::Sandbox(result) => self.take_sandbox(result),
            Done::SandboxStopped => self.view.sandbox = Sandbox::Stopped,
            Done::Started { container, result } => self.take_started(container, result),
            Done::StopTried { container } => {
                let seen = self.seen(&container);
                // Whatever still lives is stopped again.
                if seen.activity == Activity::Stopping {
                    seen.activity = Activity::Idle;
                }
            }
            Done::Stopped => {}
            Done::Refreshed(result) => {
                self.refreshing = false;
                // What changed while they were written has asked for the next time already.
                match result {
                    Ok(volumes) => self.volumes = Some(volumes),
                    Err(error) => {
                        self.event(EventType::Warning, "FailedMount", error.to_string());
                        self.refresh_at = self.refresh_at.or(Timestamp::now().checked_add(REFRESH_RETRY).ok());
                    }
                }
            }
            Done::Status { written } => self.take_status_written(written),
            Done::Deleted => {
                // The API's own deletion event ends the pod; until it comes nothing is left to do.
            }
            Done::Collected => self.gone = true,
        }
    }

    fn take_started(&mut self, name: String, result: Result<Started, StartError>) {
        let now = Timestamp::now();
        self.collect_old_runs(&name);
        let newest = self.containers.get(&name).and_then(|slot| slot.ids.last().cloned());
        let before = self.view.containers.get(&name).and_then(|seen| seen.current.as_ref()).map(|run| run.id.clone());
        let recorded = newest.is_some_and(|id| before.as_ref() != Some(&id.0));
        let slot = self.containers.entry(name.clone()).or_default();
        slot.start = None;
        let image_ready_at = if matches!(&result, Err(error) if error.class == Class::Image) {
            slot.image_failures.advance(now);
            Some(slot.image_failures.ready_at(now))
        } else {
            None
        };
        let seen = self.view.containers.entry(name.clone()).or_default();
        seen.activity = Activity::Idle;
        match result {
            Ok(_started) => {
                seen.waiting = None;
                seen.retry_at = None;
                slot.image_error = None;
                slot.image_failures = Backoff::default();
            }
            Err(error) => {
                seen.waiting = Some(Waiting { reason: error.reason.to_owned(), message: error.message.clone() });
                seen.retry_at = match error.class {
                    Class::Image => image_ready_at,
                    Class::Config => now.checked_add(CONFIG_RETRY).ok(),
                    // A run that left a record backs off like any other that crashed.
                    Class::Run if recorded => None,
                    Class::Run => {
                        seen.crashes.advance(now);
                        Some(seen.crashes.ready_at(now))
                    }
                };
                if error.class == Class::Image && error.reason == "ErrImagePull" {
                    slot.image_error = now.checked_add(IMAGE_ERROR_SHOWN).ok().map(|at| (at, error.message));
                }
            }
        }
    }

    /// Shows `CrashLoopBackOff` for restarts that are held back, and `ImagePullBackOff` once the pull error was seen.
    pub(super) fn note_backing_off(&mut self, decision: &Plan) {
        let (namespace, pod_name) = self.names();
        let full = format!("{pod_name}_{namespace}({})", self.uid());
        for (name, seconds) in &decision.backing_off {
            let waiting = crash_loop(name, &full, *seconds);
            if self.seen(name).waiting.as_ref() != Some(&waiting) {
                let text = format!("Back-off restarting failed container {name} in pod {full}");
                self.container_event(name, EventType::Warning, "BackOff", text);
                self.seen(name).waiting = Some(waiting);
            }
        }
        let now = Timestamp::now();
        let due = |slot: &Slot| slot.image_error.as_ref().is_some_and(|(at, _)| *at <= now);
        let flips: Vec<String> =
            self.containers.iter().filter(|(_, slot)| due(slot)).map(|(name, _)| name.clone()).collect();
        for name in flips {
            let Some((_, text)) = self.containers.get_mut(&name).and_then(|slot| slot.image_error.take()) else {
                continue;
            };
            if self.seen(&name).activity != Activity::Idle {
                continue;
            }
            let image = self.container(&name).and_then(|(_, container)| container.image).unwrap_or_default();
            let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {text}");
            self.seen(&name).waiting = Some(Waiting { reason: "ImagePullBackOff".to_owned(), message });
            self.container_event(&name, EventType::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
            self.container_event(&name, EventType::Warning, "Failed", "Error: ImagePullBackOff");
        }
    }
}
