//! Runs that only the API remembers: the machine was rebooted, or what ran was taken down.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};

use crate::view::{Exit, Run, RunState};

/// Reason of an exit nobody saw, as upstream.
pub const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
/// Message of an exit nobody saw, as upstream.
pub const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";
/// Exit code of a container that vanished, as upstream.
pub const UNKNOWN_EXIT_CODE: i32 = 137;

/// The last run by what was reported of it; one that was running has ended by `now`, how is not known.
pub fn lost_run(known: &ContainerStatus, now: Timestamp) -> Option<Run> {
    let id = known.container_id.as_deref()?;
    let state = known.state.as_ref()?;
    let running = state.running.as_ref();
    let last = || known.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let exit = match (running, state.terminated.as_ref()) {
        (Some(running), _) => Exit { started_at: running.started_at.as_ref().map(|time| time.0), ..vanished(now) },
        (None, Some(ended)) => exit_of(ended, now),
        // It waits to be restarted.
        (None, None) => last().map_or_else(|| vanished(now), |ended| exit_of(ended, now)),
    };
    Some(Run {
        id: id.rsplit('/').next().unwrap_or(id).to_owned(),
        attempt: u32::try_from(known.restart_count).unwrap_or_default(),
        image_ref: known.image.clone(),
        image_digest: known.image_id.clone(),
        spec_hash: String::new(),
        in_current_sandbox: false,
        state: RunState::Exited(exit),
    })
}

fn vanished(now: Timestamp) -> Exit {
    Exit {
        code: UNKNOWN_EXIT_CODE,
        reason: UNKNOWN_REASON.to_owned(),
        message: UNKNOWN_MESSAGE.to_owned(),
        // The API's times have seconds.
        finished_at: Timestamp::from_second(now.as_second()).unwrap_or(now),
        ..Exit::default()
    }
}

fn exit_of(ended: &ContainerStateTerminated, now: Timestamp) -> Exit {
    Exit {
        code: ended.exit_code,
        signal: ended.signal,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone().unwrap_or_default(),
        started_at: ended.started_at.as_ref().map(|time| time.0),
        finished_at: ended.finished_at.as_ref().map_or(now, |time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lost(mut status: serde_json::Value) -> Option<Run> {
        let fixed = json!({"name": "c", "image": "i", "imageID": "d", "ready": false, "restartCount": 3});
        for (key, value) in fixed.as_object().unwrap() {
            status[key] = value.clone();
        }
        lost_run(&serde_json::from_value(status).unwrap(), Timestamp::from_second(99).unwrap())
    }

    #[test]
    fn what_ran_counts_as_ended_and_is_counted_on_from() {
        let running = json!({"running": {"startedAt": "1970-01-01T00:00:07Z"}});
        let run = lost(json!({"containerID": "keelson://abc", "state": running})).unwrap();
        assert_eq!((run.id.as_str(), run.attempt, run.is_live()), ("abc", 3, false));
        let exit = run.exit().unwrap();
        assert_eq!((exit.code, exit.reason.as_str()), (137, "ContainerStatusUnknown"));
        assert_eq!((exit.started_at.unwrap().as_second(), exit.finished_at.as_second()), (7, 99));
    }

    #[test]
    fn an_exit_that_was_reported_is_kept() {
        let ended = json!({"terminated": {"exitCode": 4, "reason": "Error", "finishedAt": "1970-01-01T00:00:08Z"}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        for (state, last) in [(ended.clone(), json!({})), (waiting.clone(), ended)] {
            let run = lost(json!({"containerID": "keelson://abc", "state": state, "lastState": last})).unwrap();
            let exit = run.exit().unwrap();
            assert_eq!((exit.code, exit.reason.as_str(), exit.finished_at.as_second()), (4, "Error", 8));
        }
        assert_eq!(lost(json!({"state": waiting})), None, "never made");
    }
}
