//! Rules applied to objects.

use cel::{Bindings, EvalError, Program, Value as Cel};
use serde_json::{Map, Value};

use super::program::{Node, OLD_SELF, Rule, SELF, VARIABLES, ValidationRules};
use crate::{FieldError, path::Path};

/// What all rules may cost for one request.
pub const RULE_BUDGET: u64 = 10_000_000;
/// What one rule may cost for one value.
const CALL_BUDGET: u64 = 1_000_000;
/// Longest message that an expression may make.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// What upstream prints for errors of the object as a whole.
const NOWHERE: &str = "<nil>";

/// What the rules of a schema say to an object.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Rules that the object breaks.
    pub errors: Vec<FieldError>,
    /// Rules that it breaks where it did not change, so that they are not held against it.
    pub forgiven: Vec<FieldError>,
}

impl ValidationRules {
    /// Applies the rules to an object; `old` is its state before an update.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Outcome {
        let mut outcome = self.apply(object, old);
        for error in outcome.errors.iter_mut().chain(&mut outcome.forgiven) {
            if error.path.is_empty() {
                error.path = NOWHERE.to_owned();
            }
        }
        outcome
    }

    /// The same, with nothing where an error is about the value as a whole.
    pub(super) fn apply(&self, value: &Value, old: Option<&Value>) -> Outcome {
        let mut run = Run { outcome: Outcome::default(), budget: Some(RULE_BUDGET) };
        run.node(&self.0, value, old, None, &Path::Root);
        run.outcome
    }
}

/// A value and its counterpart before the update.
type Pair<'a> = (&'a Value, &'a Value);

struct Run {
    outcome: Outcome,
    /// What is left; `None` once no further rule may run.
    budget: Option<u64>,
}

impl Run {
    /// `nearest`: the closest value above that has a counterpart.
    fn node<'a>(
        &mut self,
        node: &'a Node,
        value: &'a Value,
        old: Option<&'a Value>,
        nearest: Option<Pair<'a>>,
        path: &Path<'_>,
    ) {
        if value.is_null() || self.budget.is_none() {
            return;
        }
        let unchanged = || match (old, nearest) {
            (Some(old), _) => old == value,
            (None, Some((new, old))) => old == new,
            (None, None) => false,
        };
        self.rules(node, value, old.filter(|old| !old.is_null()), &unchanged, path);
        let nearest = old.map(|old| (value, old)).or(nearest);
        match value {
            Value::Object(map) => self.map(node, map, old, nearest, path),
            Value::Array(items) => {
                let Some(inner) = &node.items else { return };
                for (at, item) in items.iter().enumerate() {
                    let before = counterpart(&node.keys, item, old);
                    self.node(inner, item, before, nearest, &Path::Item(path, at));
                }
            }
            _ => {}
        }
    }

    fn map<'a>(
        &mut self,
        node: &'a Node,
        map: &'a Map<String, Value>,
        old: Option<&'a Value>,
        nearest: Option<Pair<'a>>,
        path: &Path<'_>,
    ) {
        if let Some(inner) = &node.additional {
            for (key, value) in map {
                let before = old.and_then(|old| old.get(key));
                self.node(inner, value, before, nearest, &Path::Key(path, key));
            }
        }
        for (name, inner) in &node.properties {
            if let Some(value) = map.get(name) {
                let before = old.and_then(|old| old.get(name));
                self.node(inner, value, before, nearest, &Path::Field(path, name));
            }
        }
    }

    fn rules<'a>(
        &mut self,
        node: &'a Node,
        value: &'a Value,
        old: Option<&'a Value>,
        unchanged: &dyn Fn() -> bool,
        path: &Path<'_>,
    ) {
        if node.rules.is_empty() {
            return;
        }
        if self.budget == Some(0) {
            let detail = "validation failed due to running out of cost budget, no further validation rules will be run";
            return self.stop(FieldError::invalid(path.bracketed(), node.kind.as_str(), detail));
        }
        let view = |json: &'a Value| Cel::json(json, &node.ty);
        let (this, before) = (view(value), old.map(view).transpose());
        let (Ok(this), Ok(before)) = (this, before) else {
            let detail = "cannot be viewed as the type that its schema declares";
            return self.outcome.errors.push(FieldError::invalid(path.bracketed(), node.kind.as_str(), detail));
        };
        // the rules of a node differ at most in how they see what was there before
        let mut bound = [None, None];
        for rule in &node.rules {
            if rule.uses_old && before.is_none() && !rule.optional_old {
                continue;
            }
            let bindings = bound[usize::from(rule.optional_old)]
                .get_or_insert_with(|| bindings(rule.optional_old, &this, before.as_ref()));
            self.rule(node, rule, bindings, unchanged, path);
            if self.budget.is_none() {
                return;
            }
        }
    }

    fn rule<'a>(
        &mut self,
        node: &'a Node,
        rule: &'a Rule,
        bound: &Bindings<'a>,
        unchanged: &dyn Fn() -> bool,
        path: &Path<'_>,
    ) {
        let mut left = CALL_BUDGET;
        let result = rule.program.evaluate(bound, &mut left);
        let error = |detail: String| FieldError::invalid(path.bracketed(), node.kind.as_str(), detail);
        if !self.spend(CALL_BUDGET - left) {
            let detail = "validation failed due to running out of cost budget, no further validation rules will be run";
            return self.stop(error(detail.to_owned()));
        }
        let shown = if rule.message.is_empty() { &rule.source } else { &rule.message };
        match result {
            Ok(Cel::Bool(true)) => return,
            Ok(_) => {}
            Err(cause @ EvalError::BudgetExceeded) => {
                return self.stop(error(format!(
                    "'{cause}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                )));
            }
            Err(cause @ EvalError::NoSuchOverload) => {
                return self.outcome.errors.push(error(format!(
                    "'{cause}': call arguments did not match a supported operator, function or macro signature for \
                     rule: {shown}"
                )));
            }
            Err(cause) => return self.outcome.errors.push(error(format!("{cause} evaluating rule: {shown}"))),
        }
        let place = match (path.bracketed(), rule.field.as_str()) {
            (path, "") => path,
            (path, field) if path.is_empty() => field.to_owned(),
            (path, field) => format!("{path}.{field}"),
        };
        let detail = match rule.message_program.as_ref().map(|program| self.message(program, bound)) {
            Some(Message::Made(message)) => message,
            Some(Message::Stop(detail)) => {
                let error = FieldError::invalid(place, node.kind.as_str(), detail);
                return self.stop(error);
            }
            Some(Message::Failed) | None if rule.message.is_empty() => format!("failed rule: {}", rule.source),
            Some(Message::Failed) | None => rule.message.clone(),
        };
        let broken = match rule.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(place, detail),
            "FieldValueRequired" => FieldError::required(place, detail),
            "FieldValueDuplicate" => FieldError::duplicate(place, node.kind.as_str()),
            _ => FieldError::invalid(place, node.kind.as_str(), detail),
        };
        // a rule about the change is never about what did not change
        if !rule.uses_old && unchanged() {
            self.outcome.forgiven.push(broken);
        } else {
            self.outcome.errors.push(broken);
        }
    }

    fn message<'a>(&mut self, program: &'a Program, bindings: &Bindings<'a>) -> Message {
        let mut left = CALL_BUDGET;
        let result = run_message(program, bindings, &mut left);
        if !self.spend(CALL_BUDGET - left) {
            let detail = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                rules will be run";
            return Message::Stop(detail.to_owned());
        }
        match result {
            Err(EvalError::BudgetExceeded) => Message::Stop(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression"
                    .to_owned(),
            ),
            Ok(Some(text)) => Message::Made(text),
            Ok(None) | Err(_) => Message::Failed,
        }
    }

    /// Takes from the budget; false when it does not hold that much.
    fn spend(&mut self, cost: u64) -> bool {
        self.budget = self.budget.and_then(|budget| budget.checked_sub(cost));
        self.budget.is_some()
    }

    fn stop(&mut self, error: FieldError) {
        self.outcome.errors.push(error);
        self.budget = None;
    }
}

enum Message {
    Made(String),
    /// The rule's own message takes its place.
    Failed,
    /// No further rule may run.
    Stop(String),
}

fn run_message<'a>(program: &'a Program, bindings: &Bindings<'a>, left: &mut u64) -> Result<Option<String>, EvalError> {
    let value = program.evaluate(bindings, left)?;
    let text = value.str()?.trim();
    let fits = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
    Ok(fits.then(|| text.to_owned()))
}

/// The variables of rules; those with an optional `oldSelf` have one even where nothing was there before.
fn bindings<'a>(optional: bool, this: &Cel<'a>, before: Option<&Cel<'a>>) -> Bindings<'a> {
    let mut bindings = Bindings::with_slots(VARIABLES);
    bindings.set(SELF, this.clone());
    match (optional, before) {
        (true, before) => bindings.set(OLD_SELF, before.map_or_else(Cel::none, |before| Cel::some(before.clone()))),
        (false, Some(before)) => bindings.set(OLD_SELF, before.clone()),
        (false, None) => {}
    }
    bindings
}

/// The same item before the update; only items of map-like lists can be told.
fn counterpart<'a>(keys: &[String], item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    if keys.is_empty() {
        return None;
    }
    old?.as_array()?.iter().find(|old| keys.iter().all(|key| old.get(key) == item.get(key)))
}
