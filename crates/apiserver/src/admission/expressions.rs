//! Expressions of admission at work: match conditions of webhooks and policies, and what policies are made of.
//!
//! What an expression sees is said in [`strategy::expressions`]. Its work is bounded twice: by itself, and together with
//! the other expressions of its policy or webhook.

use cel::{Bindings, CompileError, Env, EvalError, Program, Type};
use serde_json::Value;
use strategy::expressions::{
    NAMESPACE, NAMESPACE_TYPE, OBJECT, OLD_OBJECT, PARAMS, REQUEST, REQUEST_TYPE, environment,
};

use super::Operation;

/// Cost of one expression at most, as upstream.
const EXPRESSION_COST_MAX: u64 = 1_000_000;
/// Cost of all match conditions of a webhook or policy together.
const CONDITIONS_COST_MAX: u64 = 2_500_000;
/// Cost of all validations of a policy with one set of parameters, together with their messages.
pub(crate) const POLICY_COST_MAX: u64 = 10_000_000;
/// What is said when the common budget does not suffice.
pub(crate) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What a request shows to expressions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) operation: Operation,
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
    pub(crate) request: &'a Value,
    pub(crate) namespace: Option<&'a Value>,
    pub(crate) params: Option<&'a Value>,
}

impl<'a> Inputs<'a> {
    /// The variables of an environment that begins as [`environment`] does.
    pub(crate) fn bindings(&self, env: &Env) -> Bindings<'a> {
        let mut bindings = Bindings::new(env);
        let dynamic = |object: Option<&'a Value>| object.map_or(cel::Value::Null, cel::Value::dynamic);
        let typed = |object: &'a Value, ty: &'static Type| cel::Value::json(object, ty).unwrap_or(cel::Value::Null);
        bindings.set(OBJECT, dynamic(self.object));
        bindings.set(OLD_OBJECT, dynamic(self.old));
        bindings.set(REQUEST, typed(self.request, &REQUEST_TYPE));
        bindings.set(NAMESPACE, self.namespace.map_or(cel::Value::Null, |object| typed(object, &NAMESPACE_TYPE)));
        if env.slot("params") == Some(PARAMS) {
            bindings.set(PARAMS, dynamic(self.params));
        }
        bindings
    }
}

/// Why an expression gave no value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// This one failed.
    Expression(String),
    /// The common budget is used up: none of the others will do better.
    Budget,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expression(why) => f.write_str(why),
            Self::Budget => f.write_str(OUT_OF_BUDGET),
        }
    }
}

/// An expression, compiled or known to be wrong.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) source: String,
    pub(crate) program: Result<Program, CompileError>,
}

impl Expression {
    /// Compiles. What is stored has been validated, so that a mistake only shows when the language has changed.
    pub(crate) fn compile(env: &Env, source: &str, expected: &[Type]) -> Self {
        Self { source: source.to_owned(), program: env.compile(source, expected) }
    }

    /// The value, paid for out of `budget`.
    pub(crate) fn evaluate<'a>(&'a self, bindings: &Bindings<'a>, budget: &mut u64) -> Result<cel::Value<'a>, Failure> {
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return Err(Failure::Expression(format!("compilation error: {error}"))),
        };
        let allowed = EXPRESSION_COST_MAX.min(*budget);
        let mut left = allowed;
        let result = program.evaluate(bindings, &mut left);
        *budget -= allowed - left;
        match result {
            Ok(value) => Ok(value),
            Err(EvalError::BudgetExceeded) if *budget == 0 => Err(Failure::Budget),
            Err(error) => Err(Failure::Expression(format!("expression '{}' resulted in error: {error}", self.source))),
        }
    }
}

/// Conditions that all have to hold for a webhook or policy to concern itself with a request.
#[derive(Debug)]
pub(crate) struct MatchConditions {
    conditions: Vec<Expression>,
    params: bool,
}

impl MatchConditions {
    /// Compiles `matchConditions`; `params` says whether they may use parameters.
    pub(crate) fn compile(conditions: &Value, params: bool) -> Self {
        let conditions = conditions.as_array().into_iter().flatten().map(|condition| {
            let source = condition["expression"].as_str().unwrap_or_default().trim();
            Expression::compile(environment(params), source, &[Type::Bool])
        });
        Self { conditions: conditions.collect(), params }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether all hold. One that does not decides, whatever is wrong with others.
    pub(crate) fn evaluate<'a>(&'a self, inputs: &Inputs<'a>) -> Result<bool, String> {
        if self.is_empty() {
            return Ok(true);
        }
        let bindings = inputs.bindings(environment(self.params));
        let mut budget = CONDITIONS_COST_MAX;
        let mut failures: Vec<String> = Vec::new();
        for condition in &self.conditions {
            match condition.evaluate(&bindings, &mut budget) {
                Ok(cel::Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(Failure::Budget) => return Err(OUT_OF_BUDGET.to_owned()),
                Err(Failure::Expression(why)) => failures.push(why),
            }
        }
        match failures.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(conditions: &[&str]) -> Result<bool, String> {
        let conditions: Value =
            conditions.iter().map(|expression| json!({"name": "n", "expression": expression})).collect();
        let object = json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"replicas": 3}});
        let request =
            json!({"operation": "CREATE", "userInfo": {"username": "ann", "groups": ["devs"]}, "dryRun": false});
        let namespace = json!({"metadata": {"name": "n", "creationTimestamp": "2024-01-01T00:00:00Z"}});
        let inputs = Inputs {
            operation: Operation::Create,
            object: Some(&object),
            old: None,
            request: &request,
            namespace: Some(&namespace),
            params: Some(&object),
        };
        MatchConditions::compile(&conditions, true).evaluate(&inputs)
    }

    #[test]
    fn conditions_see_the_request() {
        for condition in [
            "object.metadata.labels.app == 'web' && object.spec.replicas == params.spec.replicas",
            "oldObject == null",
            "request.operation == 'CREATE' && 'devs' in request.userInfo.groups && !request.dryRun",
            "!has(request.subResource)",
            "namespaceObject.metadata.creationTimestamp.getFullYear() == 2024",
            "quantity('1Gi').isGreaterThan(quantity('1Mi')) && 'a,b'.split(',').isSorted()",
        ] {
            assert_eq!(evaluate(&[condition]), Ok(true), "{condition}");
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_outweighs_errors() {
        let broken = "object.spec.none == 1";
        assert_eq!(evaluate(&[broken, "false"]), Ok(false));
        let why = "expression 'object.spec.none == 1' resulted in error: no such key: none";
        assert_eq!(evaluate(&[broken, "true"]), Err(why.to_owned()));
        assert_eq!(evaluate(&[broken, broken]), Err(format!("[{why}, {why}]")));
    }

    #[test]
    fn conditions_share_a_budget() {
        let heavy = "[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, \
                     [0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, a + b + c + d + e < 99)))))";
        assert_eq!(evaluate(&[heavy, heavy, heavy, heavy]), Err(OUT_OF_BUDGET.to_owned()));
    }
}
