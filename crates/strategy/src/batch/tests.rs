use serde_json::{Value, json};

use crate::fixture::*;

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u-1"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    }})
}

#[test]
fn a_job_selects_its_own_pods() {
    let jobs = resource("batch", "jobs");
    let made = prepared(&jobs, job());
    let spec = &made["spec"];
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": "u-1", "controller-uid": "u-1",
            "batch.kubernetes.io/job-name": "j", "job-name": "j"})
    );
    assert_eq!(
        (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"], &spec["completionMode"]),
        (&json!(1), &json!(1), &json!(6), &json!("NonIndexed"))
    );
    assert_eq!(created(&jobs, job()), "[]");
    let mut always = job();
    always["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    assert_eq!(
        created(&jobs, always),
        r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#
    );
    let mut new = made.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into();
    assert!(updated(&jobs, new, &made).starts_with("spec.template: Invalid value: "));
}

#[test]
fn schedules() {
    let jobs = resource("batch", "cronjobs");
    let cron = |schedule: &str| json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": job()["spec"]}}});
    assert_eq!(created(&jobs, cron("@daily")), "[]");
    assert_eq!(
        created(&jobs, cron("61 * * * *")),
        r#"spec.schedule: Invalid value: "61 * * * *": end of range (61) above maximum (59): 61"#
    );
    assert_eq!(prepared(&jobs, cron("@daily"))["spec"]["successfulJobsHistoryLimit"], 3);
}

#[test]
fn a_condition_of_a_failure_policy_is_meant_to_be_true() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    let mut whole = job();
    whole["spec"]["podFailurePolicy"] = json!({"rules": rules});
    whole["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let made = prepared(&resource("batch", "jobs"), whole);
    assert_eq!(made["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
}
