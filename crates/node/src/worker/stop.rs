//! Stops containers in good order: preStop hook, stop signal, grace, kill.

use std::{sync::Arc, time::Duration};

use pod_lifecycle::{plan::StopReason, view::Activity};
use reconcile::EventType;
use runtime::api::ContainerId;
use tokio::time::Instant;

use super::{Done, Worker};
use crate::probes::{Target, run_handler};

/// A container gets at least this after its preStop hook, as upstream.
const GRACE_AFTER_HOOK_MIN: Duration = Duration::from_secs(2);

/// Pause before a container that could not be stopped is stopped again.
const STOP_RETRY: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn stop(&mut self, name: String, reason: &StopReason) {
        let Some((_, container)) = self.container(&name) else { return };
        let grace = Duration::from_secs(u64::try_from(self.grace_for(&name, reason)).unwrap_or_default());
        let seen = self.seen(&name);
        seen.activity = Activity::Stopping;
        let Some(run) = &seen.current else { return };
        let id = ContainerId(run.id.clone());
        let text = match reason {
            StopReason::PodEnds => format!("Stopping container {name}"),
            StopReason::Unhealthy(text) => text.clone(),
            StopReason::SpecChanged => format!("Container {name} definition changed, will be restarted"),
        };
        self.container_event(&name, EventType::Normal, "Killing", text);
        let target = Target {
            runtime: Arc::clone(&self.shared.runtime),
            id: id.clone(),
            container: Arc::new(container),
            ip: self.facts().pod_ips.first().cloned().unwrap_or_default(),
        };
        let (recorder, pod) = (self.shared.recorder.clone(), Arc::clone(&self.pod));
        self.ops.spawn(async move {
            let deadline = Instant::now() + grace;
            let hook = target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            let mut left = grace;
            if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
                let failure = match tokio::time::timeout_at(deadline, run_handler(&target, hook)).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_elapsed) => Some("PreStopHook not completed in grace period".to_owned()),
                };
                if let Some(failure) = failure {
                    let text = format!("PreStopHook failed: {failure}");
                    super::start::container_event(
                        &recorder,
                        &pod,
                        &target.container.name,
                        EventType::Warning,
                        "FailedPreStopHook",
                        text,
                    );
                }
                left = deadline.saturating_duration_since(Instant::now()).max(GRACE_AFTER_HOOK_MIN);
            }
            if let Err(error) = target.runtime.stop_container(&id, left).await {
                tracing::warn!(container = %id, %error, "cannot stop container");
                tokio::time::sleep(STOP_RETRY).await;
            }
            Done::StopTried { container: name }
        });
    }

    /// The pod's grace got shorter: stop what is being stopped with what is left now.
    pub(super) fn hurry(&mut self) {
        let grace = Duration::from_secs(u64::try_from(self.grace()).unwrap_or_default());
        for seen in self.view.containers.values().filter(|seen| seen.activity == Activity::Stopping) {
            let Some(run) = &seen.current else { continue };
            let (id, runtime) = (ContainerId(run.id.clone()), Arc::clone(&self.shared.runtime));
            self.ops.spawn(async move {
                if let Err(error) = runtime.stop_container(&id, grace).await {
                    tracing::warn!(container = %id, %error, "cannot stop container");
                }
                Done::Stopped
            });
        }
    }
}
