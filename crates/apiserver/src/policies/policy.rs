//! One policy compiled, and one binding decoded.

use cel::{Env, Type};
use schema::selector::LabelSelector;
use serde_json::Value;
use strategy::expressions::{environment, variable_environment};

use crate::{
    admission::{MatchConditions, expressions::Expression},
    matching::Matcher,
};

/// A policy.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    /// Which requests it concerns.
    pub(crate) matcher: Matcher,
    /// Whether a request goes on when the policy cannot be evaluated.
    pub(crate) fails_open: bool,
    /// `apiVersion` and kind of its parameters.
    pub(crate) param_kind: Option<(String, String)>,
    pub(super) conditions: MatchConditions,
    pub(super) env: Env,
    /// Each with the slot of its value.
    pub(super) variables: Vec<(usize, Expression)>,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<Annotation>,
}

/// What has to hold of a request.
#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    /// The reason of a refusal.
    pub(super) reason: Reason,
}

/// Why a refused request is refused, with the code that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Unauthorized,
    Forbidden,
    Invalid,
    RequestEntityTooLarge,
}

impl Reason {
    fn decode(reason: &Value) -> Self {
        match reason.as_str() {
            Some("Unauthorized") => Self::Unauthorized,
            Some("Forbidden") => Self::Forbidden,
            Some("RequestEntityTooLarge") => Self::RequestEntityTooLarge,
            _ => Self::Invalid,
        }
    }

    /// The code of the answer and its reason.
    pub(crate) fn code(self) -> (u16, &'static str) {
        match self {
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Forbidden => (403, "Forbidden"),
            Self::Invalid => (422, "Invalid"),
            Self::RequestEntityTooLarge => (413, "RequestEntityTooLarge"),
        }
    }
}

/// What the audit log is told.
#[derive(Debug)]
pub(super) struct Annotation {
    pub(super) key: String,
    pub(super) expression: Expression,
}

fn text(holder: &Value, field: &str) -> String {
    holder[field].as_str().unwrap_or_default().to_owned()
}

fn items<'a>(holder: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    holder[field].as_array().into_iter().flatten()
}

impl Policy {
    /// Compiles a stored policy.
    pub(super) fn compile(object: &Value) -> Self {
        let spec = &object["spec"];
        let has_params = spec["paramKind"].is_object();
        let mut env = variable_environment(environment(has_params));
        let mut variables = Vec::new();
        for variable in items(spec, "variables") {
            let expression = Expression::compile(&env, variable["expression"].as_str().unwrap_or_default(), &[]);
            let ty = expression.program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone());
            let name = format!("variables.{}", variable["name"].as_str().unwrap_or_default());
            env = env.extend().variable(&name, ty).build();
            variables.extend(env.slot(&name).map(|slot| (slot, expression)));
        }
        let compile = |source: &Value, expected: &[Type]| {
            Expression::compile(&env, source.as_str().unwrap_or_default(), expected)
        };
        let validations = items(spec, "validations").map(|validation| Validation {
            expression: compile(&validation["expression"], &[Type::Bool]),
            message: text(validation, "message").trim().to_owned(),
            message_expression: validation["messageExpression"]
                .is_string()
                .then(|| compile(&validation["messageExpression"], &[Type::String])),
            reason: Reason::decode(&validation["reason"]),
        });
        let annotations = items(spec, "auditAnnotations").map(|annotation| Annotation {
            key: text(annotation, "key"),
            expression: compile(&annotation["valueExpression"], &[Type::String, Type::Null]),
        });
        Self {
            name: text(&object["metadata"], "name"),
            matcher: Matcher::of_policy(&spec["matchConstraints"]),
            fails_open: spec["failurePolicy"] == "Ignore",
            param_kind: has_params.then(|| (text(&spec["paramKind"], "apiVersion"), text(&spec["paramKind"], "kind"))),
            conditions: MatchConditions::compile(&spec["matchConditions"], has_params),
            validations: validations.collect(),
            annotations: annotations.collect(),
            variables,
            env,
        }
    }
}

/// What is done about a failed validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Deny,
    Warn,
    Audit,
}

impl Action {
    /// What metrics call it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Warn => "warn",
            Self::Audit => "audit",
        }
    }

    /// The name in a binding.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::Warn => "Warn",
            Self::Audit => "Audit",
        }
    }
}

/// Which parameters a policy is evaluated with.
#[derive(Debug)]
pub(crate) struct ParamRef {
    pub(super) name: String,
    pub(super) selector: Option<LabelSelector>,
    pub(super) namespace: String,
    /// Whether the request is refused where there are none.
    pub(super) required: bool,
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) policy: String,
    /// Narrows the requests down; `None` takes all of the policy's.
    pub(crate) matcher: Option<Matcher>,
    pub(crate) params: Option<ParamRef>,
    pub(super) actions: Vec<Action>,
}

impl Binding {
    /// Decodes a stored binding.
    pub(super) fn decode(object: &Value) -> Self {
        let spec = &object["spec"];
        let reference = &spec["paramRef"];
        let selector =
            || LabelSelector::from_object(&reference["selector"]).unwrap_or_else(|_| LabelSelector::nothing());
        let actions = items(spec, "validationActions").filter_map(|action| match action.as_str() {
            Some("Deny") => Some(Action::Deny),
            Some("Warn") => Some(Action::Warn),
            Some("Audit") => Some(Action::Audit),
            _ => None,
        });
        Self {
            name: text(&object["metadata"], "name"),
            policy: text(spec, "policyName"),
            matcher: spec["matchResources"].is_object().then(|| Matcher::of_policy(&spec["matchResources"])),
            params: reference.is_object().then(|| ParamRef {
                name: text(reference, "name"),
                selector: reference["selector"].is_object().then(selector),
                namespace: text(reference, "namespace"),
                required: reference["parameterNotFoundAction"] == "Deny",
            }),
            actions: actions.collect(),
        }
    }
}
