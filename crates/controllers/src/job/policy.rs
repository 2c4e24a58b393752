//! What a Job's policies say: of a failed pod, whether it counts and what it ends; of the succeeded indexes, whether they
//! are enough.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::indexes::Indexes;

/// What a rule does with a failed pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    FailJob,
    FailIndex,
    Ignore,
    Count,
}

impl Action {
    fn of(name: &str) -> Option<Self> {
        match name {
            "FailJob" => Some(Self::FailJob),
            "FailIndex" => Some(Self::FailIndex),
            "Ignore" => Some(Self::Ignore),
            "Count" => Some(Self::Count),
            _ => None,
        }
    }

    /// As the API calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FailJob => "FailJob",
            Self::FailIndex => "FailIndex",
            Self::Ignore => "Ignore",
            Self::Count => "Count",
        }
    }
}

/// The judgement on a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// What the first rule that matched does.
    pub(super) action: Option<Action>,
    /// Why the Job fails, for [`Action::FailJob`].
    pub(super) message: Option<String>,
}

impl Judgement {
    /// Whether the failure counts towards the back-off limits.
    pub(super) fn counts(&self) -> bool {
        self.action != Some(Action::Ignore)
    }
}

/// Judges a failed pod; a pod that no rule matches counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Judgement {
    let name = || {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
    };
    for (at, rule) in policy.iter().flat_map(|policy| &policy.rules).enumerate() {
        let Some(action) = Action::of(&rule.action) else { continue };
        let matched = if let Some(codes) = &rule.on_exit_codes {
            matching_container(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {} failed with exit code {code} matching {} rule at index {at}",
                    name(),
                    rule.action
                )
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            matching_condition(pod, patterns).map(|condition| {
                format!("Pod {} has condition {} matching {} rule at index {at}", name(), condition.type_, rule.action)
            })
        };
        if let Some(message) = matched {
            return Judgement { action: Some(action), message: (action == Action::FailJob).then_some(message) };
        }
    }
    Judgement { action: None, message: None }
}

/// Name and exit code of the first container that ended as required.
fn matching_container<'a>(pod: &'a Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let statuses = [&status.container_statuses, &status.init_container_statuses];
    statuses.into_iter().flat_map(|statuses| statuses.iter().flatten()).find_map(|container: &ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let meant = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = codes.values.contains(&code);
        let wanted = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (meant && code != 0 && wanted).then_some((container.name.as_str(), code))
    })
}

fn matching_condition<'a>(
    pod: &'a Pod,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            condition.type_ == pattern.type_ && condition.status == pattern.status.as_deref().unwrap_or("True")
        })
    })
}

/// Says which rule of the policy the succeeded indexes satisfy.
pub(super) fn success(policy: Option<&SuccessPolicy>, succeeded: &Indexes, completions: u32) -> Option<String> {
    if succeeded.total() == 0 {
        return None;
    }
    let enough = |count: Option<i32>, have: usize| {
        count.is_some_and(|count| usize::try_from(count).is_ok_and(|count| have >= count))
    };
    let rules = &policy?.rules;
    let at = rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let required = Indexes::parse(text, completions);
            let have = required.overlap(succeeded);
            required.total() > 0 && (have == required.total() || enough(rule.succeeded_count, have))
        }
        None => enough(rule.succeeded_count, succeeded.total()),
    })?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": status})).unwrap()
    }

    fn exited(code: i32) -> Value {
        json!({"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code}}})
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [3, 42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [4]}},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [7]}}]}))
        .unwrap();
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        for (status, action, message) in [
            (
                json!({"containerStatuses": [exited(42)]}),
                Some(Action::FailJob),
                Some("Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1"),
            ),
            (json!({"containerStatuses": [exited(42)], "conditions": disrupted}), Some(Action::Ignore), None),
            (json!({"initContainerStatuses": [exited(4)]}), Some(Action::FailIndex), None),
            (json!({"containerStatuses": [exited(1)]}), Some(Action::Count), None),
            (json!({"containerStatuses": [exited(7)]}), None, None),
            (json!({"containerStatuses": [exited(0)]}), None, None),
            (json!({}), None, None),
        ] {
            let judgement = judge(Some(&policy), &pod(status.clone()));
            assert_eq!((judgement.action, judgement.message.as_deref()), (action, message), "{status}");
            assert_eq!(judgement.counts(), action != Some(Action::Ignore));
        }
        assert!(judge(None, &pod(json!({}))).counts());
    }

    #[test]
    fn a_condition_can_fail_the_job() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue"}]}]}))
        .unwrap();
        let judgement = judge(Some(&policy), &pod(json!({"conditions": [{"type": "ConfigIssue", "status": "True"}]})));
        assert_eq!(
            judgement.message.as_deref(),
            Some("Pod n/p has condition ConfigIssue matching FailJob rule at index 0")
        );
    }

    #[test]
    fn a_success_policy_wants_indexes_or_a_number_of_them() {
        for (rules, succeeded, expected) in [
            (json!([{"succeededIndexes": "0,2"}]), "0,2", Some("Matched rules at index 0")),
            (json!([{"succeededIndexes": "0,2"}]), "0,1", None),
            (json!([{"succeededIndexes": "0-4", "succeededCount": 2}]), "3,4", Some("Matched rules at index 0")),
            (json!([{"succeededIndexes": "0"}, {"succeededCount": 2}]), "3,4", Some("Matched rules at index 1")),
            (json!([{"succeededCount": 3}]), "3,4", None),
            (json!([{"succeededIndexes": "x"}]), "3,4", None),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            let met = success(Some(&policy), &Indexes::parse(succeeded, 10), 10);
            assert_eq!(met.as_deref(), expected, "{rules} {succeeded}");
        }
        assert_eq!(success(None, &Indexes::parse("0", 1), 1), None);
    }
}
