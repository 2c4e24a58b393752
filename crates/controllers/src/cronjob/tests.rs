use serde_json::{Value, json};

use super::plan::{Plan, decide, job_of, name_of, timetable};
use super::timing::Missed;
use super::*;

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

/// A CronJob made at 09:00 that runs at each full hour; `spec` is laid over that.
fn cron(spec: Value, status: Value) -> CronJob {
    let mut whole = json!({"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}},
            "spec": {"template": {}}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "cron",
        "creationTimestamp": at("09:00:00").to_string()}, "spec": whole, "status": status}))
    .unwrap()
}

/// A Job that began at an hour, and how it ended.
fn job(hour: u32, end: &str) -> Arc<Job> {
    let conditions = if end.is_empty() { json!([]) } else { json!([{"type": end, "status": "True"}]) };
    let completed = (end == "Complete").then(|| at(&format!("{hour:02}:10:00")).to_string());
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": format!("j{hour}"), "namespace": "n", "uid": format!("j{hour}")},
            "status": {"startTime": at(&format!("{hour:02}:00:00")).to_string(), "conditions": conditions,
                "completionTime": completed}}),
        )
        .unwrap(),
    )
}

fn active(hours: &[u32]) -> Value {
    let list: Vec<Value> = hours
        .iter()
        .map(|hour| json!({"kind": "Job", "name": format!("j{hour}"), "uid": format!("j{hour}")}))
        .collect();
    json!({"active": list})
}

fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    decide(cron, jobs, &TimeZone::UTC, at(now))
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|(_, reason, _)| *reason).collect()
}

#[test]
fn a_run_that_is_due_is_started_once_and_in_time() {
    for (spec, status, now, start, reason) in [
        (json!({}), json!({}), "09:30:00", None, None),
        (json!({}), json!({}), "10:00:00", Some("10:00:00"), None),
        (json!({}), json!({}), "10:40:00", Some("10:00:00"), None),
        (json!({}), json!({}), "12:40:00", Some("12:00:00"), None),
        (json!({}), json!({"lastScheduleTime": "2026-01-01T10:00:00Z"}), "10:40:00", None, None),
        (json!({}), json!({"lastScheduleTime": "2026-01-01T10:00:00Z"}), "11:00:01", Some("11:00:00"), None),
        (json!({"suspend": true}), json!({}), "10:00:00", None, None),
        (json!({"startingDeadlineSeconds": 60}), json!({}), "10:00:30", Some("10:00:00"), None),
        (json!({"startingDeadlineSeconds": 60}), json!({}), "10:02:00", None, None),
        (json!({"schedule": "* * * *"}), json!({}), "10:00:00", None, Some("UnparseableSchedule")),
        (json!({"timeZone": "Nowhere"}), json!({}), "10:00:00", None, Some("UnknownTimeZone")),
        (json!({"timeZone": "Asia/Kolkata"}), json!({}), "09:45:00", Some("09:30:00"), None),
        (
            json!({"schedule": "TZ=Asia/Kolkata 0 * * * *"}),
            json!({}),
            "09:45:00",
            Some("09:30:00"),
            Some("UnsupportedSchedule"),
        ),
        (json!({"schedule": "* * * * *"}), json!({}), "10:30:20", Some("10:30:00"), None),
        (json!({"schedule": "* * * * *"}), json!({}), "11:00:20", Some("11:00:00"), Some("TooManyMissedTimes")),
        (
            json!({"schedule": "* * * * *", "startingDeadlineSeconds": 200}),
            json!({}),
            "11:00:20",
            Some("11:00:00"),
            None,
        ),
        (json!({"schedule": "59 23 31 2 *"}), json!({}), "11:00:20", None, None),
    ] {
        let plan = plan(&cron(spec.clone(), status.clone()), &[], now);
        assert_eq!(plan.start, start.map(at), "{spec} {status} {now}");
        assert_eq!(reasons(&plan), reason.into_iter().collect::<Vec<_>>(), "{spec} {status} {now}");
    }
    let mut leaving = cron(json!({}), json!({}));
    leaving.metadata.deletion_timestamp = Some(Time(at("09:59:00")));
    assert_eq!(plan(&leaving, &[], "10:00:00").start, None);
}

#[test]
fn a_run_that_was_missed_within_the_deadline_is_told() {
    // the deadline is looked back from now, and from the run: only at the very edge is a run seen and too late
    let cron = cron(json!({"startingDeadlineSeconds": 60}), json!({}));
    let now = "2026-01-01T10:01:00.5Z".parse().unwrap();
    let late = decide(&cron, &[], &TimeZone::UTC, now);
    assert_eq!((late.start, late.events.len()), (None, 0));
}

#[test]
fn the_next_look_is_at_the_next_run() {
    let wait = |status: Value, now: &str| plan(&cron(json!({}), status), &[], now).wake.unwrap();
    let padded = |seconds: u64| Duration::from_millis(seconds * 1000 + 100);
    assert_eq!(wait(json!({}), "09:30:00"), padded(1800));
    assert_eq!(wait(json!({}), "10:00:00"), padded(3600));
    assert_eq!(wait(json!({}), "12:59:00"), padded(60));
    assert_eq!(wait(json!({"lastScheduleTime": "2026-01-01T12:00:00Z"}), "12:59:00"), padded(60));
    let timetable = timetable(&cron(json!({}), json!({})).spec, &TimeZone::UTC);
    let Ok(timetable) = timetable else { panic!("no timetable") };
    let missed = |now: &str| timetable.recent(&cron(json!({}), json!({})), at(now), true).missed;
    assert_eq!(["09:10:00", "10:10:00", "11:10:00"].map(missed), [Missed::None, Missed::None, Missed::Few]);
}

#[test]
fn concurrency_is_allowed_forbidden_or_ended() {
    let running = [job(9, "")];
    for (policy, start, replaced, told) in
        [("Allow", true, 0, vec![]), ("Forbid", false, 0, vec!["JobAlreadyActive"]), ("Replace", true, 1, vec![])]
    {
        let plan = plan(&cron(json!({"concurrencyPolicy": policy}), active(&[9])), &running, "10:00:00");
        assert_eq!((plan.start.is_some(), plan.replaced.len(), reasons(&plan)), (start, replaced, told), "{policy}");
    }
    let ended = plan(&cron(json!({"concurrencyPolicy": "Forbid"}), active(&[9])), &[job(9, "Failed")], "10:00:00");
    assert_eq!((ended.start.is_some(), reasons(&ended)), (true, vec!["SawCompletedJob"]));
}

#[test]
fn the_list_of_active_jobs_follows_the_jobs() {
    let list =
        |plan: &Plan| plan.status.active.iter().flatten().filter_map(|active| active.name.clone()).collect::<Vec<_>>();
    let seen = plan(&cron(json!({}), active(&[7, 8, 9])), &[job(7, "Complete"), job(9, ""), job(6, "")], "09:30:00");
    assert_eq!(list(&seen), ["j9"]);
    assert_eq!(reasons(&seen), ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
    assert_eq!(seen.events[0].2, "Saw completed job: j7, condition: Complete");
    assert_eq!(seen.events[2].2, "Active job went missing: j8");
    assert_eq!(seen.status.last_successful_time, Some(Time(at("07:10:00"))));
    let later = json!({"lastSuccessfulTime": "2026-01-01T08:00:00Z"});
    let seen = plan(&cron(json!({}), later), &[job(7, "Complete"), job(8, "Failed")], "09:30:00");
    assert_eq!(seen.status.last_successful_time, Some(Time(at("08:00:00"))));
}

#[test]
fn only_the_latest_finished_jobs_are_kept() {
    let jobs =
        [job(5, "Complete"), job(3, "Complete"), job(4, "Complete"), job(1, "Failed"), job(2, "Failed"), job(6, "")];
    for (limits, expired) in [
        (json!({}), vec!["j1"]),
        (json!({"successfulJobsHistoryLimit": 1}), vec!["j3", "j4", "j1"]),
        (json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0}), vec!["j3", "j4", "j5", "j1", "j2"]),
        (json!({"successfulJobsHistoryLimit": null, "failedJobsHistoryLimit": null}), vec![]),
    ] {
        let plan = plan(&cron(limits.clone(), json!({})), &jobs, "09:30:00");
        let names: Vec<String> = plan.expired.iter().map(|job| job.name_any()).collect();
        assert_eq!(names, expired, "{limits}");
    }
}

#[test]
fn a_runs_job_is_named_after_its_minute_and_knows_its_moment() {
    let run: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
    let there = |zone: Value| job_of(&cron(json!({"timeZone": zone}), json!({})), run);
    let job = there(json!(null));
    assert_eq!(job.name_any(), format!("c-{}", run.as_second() / 60));
    assert_eq!(job.name_any(), name_of(&cron(json!({}), json!({})), run));
    let of = |job: &Job| job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"].clone();
    assert_eq!(of(&job), "2026-01-01T10:00:00Z");
    assert_eq!(of(&there(json!("Asia/Kolkata"))), "2026-01-01T15:30:00+05:30");
    assert_eq!((job.labels()["a"].as_str(), job.annotations()["x"].as_str()), ("b", "y"));
    let owner = owners::controller_of(&job.metadata).unwrap();
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.block_owner_deletion), ("CronJob", "cron", Some(true)));
}
