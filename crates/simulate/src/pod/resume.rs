//! Takes a pod over from its status, as an earlier run left it: what ran then runs on.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;
use pod_lifecycle::{
    lost::lost_run,
    view::{ContainerView, RunState, Sandbox, containers, spec_hash},
};

use super::{SimulatedPod, after};

impl SimulatedPod {
    pub(super) fn resume(&mut self, now: Timestamp) {
        let pod = std::sync::Arc::clone(&self.pod);
        let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return };
        if status.pod_ip.is_none() {
            return;
        }
        self.view.sandbox = Sandbox::Ready { ips: vec![self.address.clone()] };
        for (role, container) in containers(spec) {
            let lists =
                [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
            let mut known = lists.into_iter().flatten().flatten();
            let Some(known) = known.find(|known| known.name == container.name) else { continue };
            let Some(seen) = view_of(known, &spec_hash(&container), now) else { continue };
            let running = seen.current.as_ref().and_then(|run| match run.state {
                RunState::Running { started_at } => Some((run.attempt, started_at)),
                RunState::Created | RunState::Exited(_) => None,
            });
            self.view.containers.insert(container.name.clone(), seen);
            if let Some((attempt, started_at)) = running {
                self.decide(spec, role, &container, attempt, started_at);
            }
        }
    }
}

/// A container by what was reported of it.
fn view_of(known: &ContainerStatus, hash: &str, now: Timestamp) -> Option<ContainerView> {
    let mut run = lost_run(known, now)?;
    run.in_current_sandbox = true;
    run.spec_hash = hash.to_owned();
    if let Some(running) = known.state.as_ref().and_then(|state| state.running.as_ref()) {
        let started_at = running.started_at.as_ref().map_or(now, |time| time.0);
        run.state = RunState::Running { started_at };
    }
    let mut seen =
        ContainerView { started: known.started == Some(true), ready: known.ready, ..ContainerView::default() };
    if let Some(exit) = run.exit().filter(|_| run.attempt > 0) {
        // how long restarts had been held back is not kept: the least of the waits is
        seen.crashes.advance(after(exit.finished_at, jiff::SignedDuration::ZERO));
    }
    seen.current = Some(run);
    Some(seen)
}
