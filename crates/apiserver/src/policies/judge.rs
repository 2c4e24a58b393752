//! What a policy says of a request with one set of parameters, and what all of them together say.

use std::time::{Duration, Instant};

use serde_json::json;

use super::policy::{Action, Binding, Policy, Reason, Validation};
use crate::{
    admission::expressions::{Failure, Inputs, OUT_OF_BUDGET, POLICY_COST_MAX},
    metrics::{AdmissionMetrics, Check, Conditioned, Step},
};

/// Longest message that an expression may make; longer ones are replaced.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// Longest value of an audit annotation; longer ones are cut off.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// What policies said of a request.
#[derive(Debug)]
pub(crate) struct Verdict<'m> {
    metrics: &'m AdmissionMetrics,
    /// The first refusal.
    pub(crate) denied: Option<(String, Reason)>,
    pub(crate) warnings: Vec<String>,
    /// For the audit log.
    pub(crate) annotations: Vec<(String, String)>,
}

/// One validation's outcome, where it is not "allowed".
#[derive(Debug)]
struct Objection {
    /// Index of the validation.
    index: usize,
    message: String,
    reason: Reason,
    took: Duration,
}

impl Objection {
    /// Of what could not be evaluated.
    fn failed(index: usize, message: String, took: Duration) -> Self {
        Self { index, message, reason: Reason::Invalid, took }
    }
}

/// What metrics call an error of an expression with this message.
fn error_type(message: &str) -> &'static str {
    if message.starts_with("compilation") {
        "compile_error"
    } else if message.starts_with(OUT_OF_BUDGET) {
        "out_of_budget"
    } else {
        "invalid_error"
    }
}

impl<'m> Verdict<'m> {
    /// Nothing said yet.
    pub(crate) fn new(metrics: &'m AdmissionMetrics) -> Self {
        Self { metrics, denied: None, warnings: Vec::new(), annotations: Vec::new() }
    }

    fn count(&self, policy: &Policy, binding: &Binding, action: &'static str, message: &str, took: Duration) {
        let error = error_type(message);
        self.metrics.checked(Check { policy: &policy.name, binding: &binding.name, action, error, took });
    }

    fn deny(&mut self, policy: &Policy, binding: Option<&Binding>, message: &str, reason: Reason) {
        if self.denied.is_some() {
            return;
        }
        let with = binding.map(|binding| format!(" with binding '{}'", binding.name)).unwrap_or_default();
        let text = format!("ValidatingAdmissionPolicy '{}'{with} denied request: {message}", policy.name);
        self.denied = Some((text, reason));
    }

    /// The policy, or its binding, cannot be applied to the cluster as it is: the failure policy decides.
    pub(crate) fn misconfigured(&mut self, policy: &Policy, binding: Option<&Binding>, why: &str) {
        if !policy.fails_open {
            let what = if binding.is_some() { "binding" } else { "policy" };
            self.deny(policy, binding, &format!("failed to configure {what}: {why}"), Reason::Invalid);
        }
    }

    fn object(&mut self, policy: &Policy, binding: &Binding, objection: &Objection) {
        for action in &binding.actions {
            self.count(policy, binding, action.label(), &objection.message, objection.took);
            match action {
                Action::Deny => self.deny(policy, Some(binding), &objection.message, objection.reason),
                Action::Warn => self.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, objection.message
                )),
                Action::Audit => {
                    let actions: Vec<&str> = binding.actions.iter().map(|action| action.name()).collect();
                    let failure = json!([{"message": objection.message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": objection.index, "validationActions": actions}]);
                    let key = "validation.policy.admission.k8s.io/validation_failure".to_owned();
                    self.annotations.push((key, failure.to_string()));
                }
            }
        }
    }

    /// Adds a value of an annotation; distinct values of one key are listed.
    fn annotate(&mut self, key: String, value: &str) {
        match self.annotations.iter_mut().find(|(own, _)| *own == key) {
            Some((_, values)) => {
                if !values.split(", ").any(|own| own == value) {
                    values.push_str(", ");
                    values.push_str(value);
                }
            }
            None => self.annotations.push((key, value.to_owned())),
        }
    }
}

/// Evaluates a policy with one set of parameters and adds what it says to the verdict.
pub(crate) fn judge<'a>(policy: &'a Policy, binding: &Binding, inputs: &Inputs<'a>, verdict: &mut Verdict<'_>) {
    if !is_concerned(policy, binding, inputs, verdict) {
        return;
    }
    let mut bindings = inputs.bindings(&policy.env);
    for (slot, variable) in &policy.variables {
        if let Ok(program) = &variable.program {
            bindings.set_lazy(*slot, program);
        }
    }
    let mut budget = POLICY_COST_MAX;
    let mut outcomes = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        let began = Instant::now();
        let outcome = validation.expression.evaluate(&bindings, &mut budget);
        if matches!(outcome, Err(Failure::Budget)) {
            // none of the outcomes counts then
            if !policy.fails_open {
                let objection = Objection::failed(0, Failure::Budget.to_string(), began.elapsed());
                verdict.object(policy, binding, &objection);
            }
            return;
        }
        outcomes.push((outcome, began.elapsed()));
    }
    for (index, (validation, (outcome, took))) in policy.validations.iter().zip(outcomes).enumerate() {
        let objection = match outcome {
            Ok(cel::Value::Bool(true)) => continue,
            Ok(_) => {
                let message = message(validation, &bindings, &mut budget);
                Objection { index, message, reason: validation.reason, took }
            }
            Err(failure) if policy.fails_open => {
                verdict.count(policy, binding, "allow", &failure.to_string(), took);
                continue;
            }
            Err(failure) => Objection::failed(index, failure.to_string(), took),
        };
        verdict.object(policy, binding, &objection);
    }
    annotate(policy, binding, &bindings, verdict);
}

/// Whether the policy's conditions hold. Where they cannot be evaluated, its failure policy decides.
fn is_concerned(policy: &Policy, binding: &Binding, inputs: &Inputs<'_>, verdict: &mut Verdict<'_>) -> bool {
    if policy.conditions.is_empty() {
        return true;
    }
    let began = Instant::now();
    let outcome = policy.conditions.evaluate(inputs);
    let took = began.elapsed();
    let holds = outcome.as_ref().ok().copied();
    let conditioned = (Conditioned::Policy, policy.name.as_str());
    verdict.metrics.conditions(conditioned, Step::Validate, inputs.operation, holds, took);
    match outcome {
        Ok(holds) => holds,
        Err(message) => {
            if !policy.fails_open {
                verdict.object(policy, binding, &Objection::failed(0, message, took));
            }
            false
        }
    }
}

/// What a client is told: the message that an expression makes, the fixed one, or the expression itself.
fn message<'a>(validation: &'a Validation, bindings: &cel::Bindings<'a>, budget: &mut u64) -> String {
    let made = validation.message_expression.as_ref().and_then(|made| match made.evaluate(bindings, budget) {
        Ok(cel::Value::String(text)) => Some(text.trim().to_owned()),
        _ => None,
    });
    let usable = |text: &String| !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
    made.filter(usable)
        .or_else(|| Some(validation.message.clone()).filter(|text| !text.is_empty()))
        .unwrap_or_else(|| format!("failed expression: {}", validation.expression.source.trim()))
}

fn annotate<'a>(policy: &'a Policy, binding: &Binding, bindings: &cel::Bindings<'a>, verdict: &mut Verdict<'_>) {
    let mut budget = POLICY_COST_MAX;
    for annotation in &policy.annotations {
        let began = Instant::now();
        match annotation.expression.evaluate(bindings, &mut budget) {
            Ok(cel::Value::String(text)) => {
                let value = text.trim();
                let end = (0..=value.len().min(ANNOTATION_BYTES_MAX)).rev().find(|at| value.is_char_boundary(*at));
                if !value.is_empty() {
                    verdict.annotate(format!("{}/{}", policy.name, annotation.key), &value[..end.unwrap_or(0)]);
                }
            }
            Ok(_) => {}
            // a failure counts as a refusal, whatever the binding's actions are
            Err(failure) if !policy.fails_open => {
                let message = failure.to_string();
                verdict.count(policy, binding, "deny", &message, began.elapsed());
                verdict.deny(policy, Some(binding), &message, Reason::Invalid);
            }
            Err(_) => {}
        }
    }
}
