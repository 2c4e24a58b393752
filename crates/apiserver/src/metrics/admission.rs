//! What admission counts: its two steps, the webhooks and policies asked, and how that ended.

use std::{sync::atomic::AtomicU64, time::Duration};

use super::{
    family::Family,
    head,
    histogram::{Bounds, Histogram},
};
use crate::admission::Operation;

static STEP_BOUNDS: Bounds = Bounds::seconds(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5]);
static WEBHOOK_BOUNDS: Bounds = Bounds::seconds(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0]);
static CHECK_BOUNDS: Bounds = Bounds::seconds(&[0.000_000_5, 0.001, 0.01, 0.1, 1.0]);

/// Highest code of a webhook that has a series of its own, so that a broken one cannot make any number of them.
const CODE_MAX: u16 = 600;
const OPERATIONS: [Operation; 4] = [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];

/// The two steps of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Completes objects.
    Admit,
    /// Judges them.
    Validate,
}

impl Step {
    /// The step's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }

    /// The label of the webhooks that are asked in the step.
    pub(crate) fn webhooks(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validating",
        }
    }
}

/// How asking a webhook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allowed,
    /// It said no.
    Refused(u16),
    /// It could not be asked, which counts as no.
    Unreachable(u16),
    /// It could not be asked, and the request goes on.
    FailedOpen(u16),
    /// This server could not do what it wanted.
    Internal,
}

/// What has match conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditioned {
    Webhook,
    Policy,
}

/// What was done about one validation of a policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    pub(crate) policy: &'a str,
    pub(crate) binding: &'a str,
    /// `allow`, `deny`, `warn` or `audit`.
    pub(crate) action: &'static str,
    /// What the expression got wrong.
    pub(crate) error: &'static str,
    pub(crate) took: Duration,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct AdmissionMetrics {
    /// By step, operation and whether the request was refused.
    steps: [[[Histogram; 2]; OPERATIONS.len()]; 2],
    /// Of the plug-ins that ask others or evaluate expressions; the rest together take less than a step's first bucket.
    plug_ins: Family<Histogram>,
    webhooks: Family<Histogram>,
    webhook_requests: Family<AtomicU64>,
    webhook_rejections: Family<AtomicU64>,
    webhook_fail_open: Family<AtomicU64>,
    condition_errors: Family<AtomicU64>,
    condition_exclusions: Family<AtomicU64>,
    condition_times: Family<Histogram>,
    checks: Family<AtomicU64>,
    check_times: Family<Histogram>,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        let steps = || std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(&STEP_BOUNDS)));
        Self {
            steps: [steps(), steps()],
            plug_ins: Family::new(
                "apiserver_admission_controller_admission_duration_seconds",
                "Time that admission plug-ins took which had somebody or something to ask, by name, operation and type.",
                || Histogram::new(&STEP_BOUNDS),
            ),
            webhooks: Family::new(
                "apiserver_admission_webhook_admission_duration_seconds",
                "Time that admission webhooks took, by webhook, operation and type.",
                || Histogram::new(&WEBHOOK_BOUNDS),
            ),
            webhook_requests: Family::counters(
                "apiserver_admission_webhook_request_total",
                "Requests to admission webhooks, by webhook, operation, type and answer.",
            ),
            webhook_rejections: Family::counters(
                "apiserver_admission_webhook_rejection_count",
                "Requests that admission webhooks refused, and why.",
            ),
            webhook_fail_open: Family::counters(
                "apiserver_admission_webhook_fail_open_count",
                "Requests that went on although an admission webhook could not be asked.",
            ),
            condition_errors: Family::counters(
                "apiserver_admission_match_condition_evaluation_errors_total",
                "Match conditions that could not be evaluated.",
            ),
            condition_exclusions: Family::counters(
                "apiserver_admission_match_condition_exclusions_total",
                "Requests that match conditions excluded.",
            ),
            condition_times: Family::new(
                "apiserver_admission_match_condition_evaluation_seconds",
                "Time that match conditions took.",
                || Histogram::new(&STEP_BOUNDS),
            ),
            checks: Family::counters(
                "apiserver_validating_admission_policy_check_total",
                "Validations of policies that did not simply pass, by policy, binding and what was done.",
            ),
            check_times: Family::new(
                "apiserver_validating_admission_policy_check_duration_seconds",
                "Time that validations of policies took which did not simply pass.",
                || Histogram::new(&CHECK_BOUNDS),
            ),
        }
    }
}

impl AdmissionMetrics {
    /// Notes one step of a request.
    pub(crate) fn step(&self, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let place = OPERATIONS.iter().position(|known| *known == operation).unwrap_or_default();
        self.steps[step as usize][place][usize::from(rejected)].took(took);
    }

    /// Notes what a plug-in took that had something to ask.
    pub(crate) fn plug_in(&self, name: &str, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let rejected = if rejected { "true" } else { "false" };
        let labels = [("name", name), ("operation", operation.name()), ("rejected", rejected), ("type", step.name())];
        self.plug_ins.took(&labels, took);
    }

    /// Notes how asking a webhook ended.
    pub(crate) fn asked(&self, webhook: &str, step: Step, operation: Operation, answer: Answer, took: Duration) {
        let (kind, operation) = (step.webhooks(), operation.name());
        let (code, error) = match answer {
            Answer::Allowed => (200, None),
            Answer::Refused(code) => (code, Some("no_error")),
            Answer::Unreachable(code) => (code, Some("calling_webhook_error")),
            Answer::FailedOpen(code) => (code, None),
            Answer::Internal => (0, Some("apiserver_internal_error")),
        };
        let code = code.min(CODE_MAX).to_string();
        let rejected = if error.is_some() { "true" } else { "false" };
        if let Some(error) = error {
            self.webhook_rejections.count(&[
                ("error_type", error),
                ("name", webhook),
                ("operation", operation),
                ("rejection_code", &code),
                ("type", kind),
            ]);
        }
        if matches!(answer, Answer::FailedOpen(_)) {
            self.webhook_fail_open.count(&[("name", webhook), ("type", kind)]);
        }
        let of_webhook = [("name", webhook), ("operation", operation), ("rejected", rejected), ("type", kind)];
        self.webhooks.took(&of_webhook, took);
        let [name, operation, rejected, kind] = of_webhook;
        self.webhook_requests.count(&[("code", &code), name, operation, rejected, kind]);
    }

    /// Notes what match conditions said: whether they hold, `None` where they could not be evaluated.
    pub(crate) fn conditions(
        &self,
        (of, name): (Conditioned, &str),
        step: Step,
        operation: Operation,
        holds: Option<bool>,
        took: Duration,
    ) {
        let (of, kind) = match of {
            Conditioned::Webhook => ("webhook", step.webhooks()),
            Conditioned::Policy => ("policy", step.name()),
        };
        let labels = [("kind", of), ("name", name), ("operation", operation.name()), ("type", kind)];
        self.condition_times.took(&labels, took);
        match holds {
            Some(true) => {}
            Some(false) => self.condition_exclusions.count(&labels),
            None => self.condition_errors.count(&labels),
        }
    }

    /// Notes what was done about a validation.
    pub(crate) fn checked(&self, check: Check<'_>) {
        let labels = [
            ("enforcement_action", check.action),
            ("error_type", check.error),
            ("policy", check.policy),
            ("policy_binding", check.binding),
        ];
        self.checks.count(&labels);
        self.check_times.took(&labels, check.took);
    }

    /// Appends the metrics.
    pub(crate) fn render(&self, out: &mut String) {
        let name = "apiserver_admission_step_admission_duration_seconds";
        head(out, name, "histogram", "Time that the steps of admission took, by operation and type.");
        for step in [Step::Admit, Step::Validate] {
            for (operation, histograms) in OPERATIONS.iter().zip(&self.steps[step as usize]) {
                for (rejected, histogram) in [false, true].iter().zip(histograms).filter(|(_, known)| known.is_used()) {
                    let operation = operation.name();
                    let kind = step.name();
                    let labels = format!("operation=\"{operation}\",rejected=\"{rejected}\",type=\"{kind}\"");
                    histogram.render(name, &labels, out);
                }
            }
        }
        self.plug_ins.render(out);
        self.webhooks.render(out);
        self.webhook_requests.render("counter", out);
        self.webhook_rejections.render("counter", out);
        self.webhook_fail_open.render("counter", out);
        self.condition_errors.render("counter", out);
        self.condition_exclusions.render("counter", out);
        self.condition_times.render(out);
        self.checks.render("counter", out);
        self.check_times.render(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_fails_open_rejects_nothing() {
        let metrics = AdmissionMetrics::default();
        let (step, operation) = (Step::Admit, Operation::Create);
        metrics.asked("w.example.com", step, operation, Answer::FailedOpen(503), Duration::ZERO);
        metrics.asked("w.example.com", step, operation, Answer::Refused(999), Duration::ZERO);
        metrics.step(Step::Validate, Operation::Delete, true, Duration::ZERO);
        metrics.plug_in("ValidatingAdmissionPolicy", Step::Validate, operation, true, Duration::ZERO);
        let mut out = String::new();
        metrics.render(&mut out);
        for line in [
            "apiserver_admission_webhook_fail_open_count{name=\"w.example.com\",type=\"admit\"} 1",
            "apiserver_admission_webhook_request_total{code=\"503\",name=\"w.example.com\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"} 1",
            "apiserver_admission_webhook_rejection_count{error_type=\"no_error\",name=\"w.example.com\",operation=\"CREATE\",rejection_code=\"600\",type=\"admit\"} 1",
            "apiserver_admission_webhook_admission_duration_seconds_count{name=\"w.example.com\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"} 1",
            "apiserver_admission_controller_admission_duration_seconds_count{name=\"ValidatingAdmissionPolicy\",operation=\"CREATE\",rejected=\"true\",type=\"validate\"} 1",
            "apiserver_admission_step_admission_duration_seconds_count{operation=\"DELETE\",rejected=\"true\",type=\"validate\"} 1",
        ] {
            assert!(out.lines().any(|known| known == line), "{line}\n{out}");
        }
    }
}
