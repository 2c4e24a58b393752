//! Rules compiled: where they stand in a schema, and what is wrong with them or their cost.

use std::cell::LazyCell;

use cel::{CompileError, Env, Program, Type};
use serde_json::Value;

use super::{
    declare::{Declared, REQUEST_BYTES, declare, escape},
    environment,
};
use crate::{
    FieldError,
    definition::{
        document::{Document, Inner},
        find_in,
    },
    path::Path,
};

/// Most that one rule may be estimated to cost for all places it applies to, and all rules of a schema together.
const RULE_COST_MAX: u64 = 10_000_000;
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// How many of the most expensive rules are named when the total is too much.
const EXPENSIVE_NAMED: usize = 4;

/// One rule, ready to run.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) program: Program,
    pub(super) message_program: Option<Program>,
    /// The rule as its author wrote it, trimmed.
    pub(super) source: String,
    pub(super) message: String,
    pub(super) reason: String,
    /// Where below the node the error belongs.
    pub(super) field: String,
    pub(super) uses_old: bool,
    pub(super) optional_old: bool,
}

/// The rules of a node and of what is below it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) rules: Vec<Rule>,
    pub(super) ty: Type,
    /// The declared `type`, which errors show instead of the value.
    pub(super) kind: String,
    /// Keys by which the items of a list are told apart.
    pub(super) keys: Vec<String>,
    pub(super) properties: Vec<(String, Node)>,
    pub(super) additional: Option<Box<Node>>,
    pub(super) items: Option<Box<Node>>,
}

/// Slots of the variables of rules, in the order in which they are declared.
pub(super) const SELF: usize = 0;
pub(super) const OLD_SELF: usize = 1;
pub(super) const VARIABLES: usize = 2;

/// What the rules of one node are compiled in.
struct Scope {
    plain: Env,
    /// `oldSelf` is an optional.
    optional: Env,
}

impl Scope {
    fn of(ty: &Type) -> Self {
        let with_old = |old| environment().extend().variable("self", ty.clone()).variable("oldSelf", old).build();
        Self { plain: with_old(ty.clone()), optional: with_old(Type::optional(ty.clone())) }
    }
}

/// The compiled rules of a schema.
#[derive(Debug)]
pub struct ValidationRules(pub(super) Node);

/// Whether a document declares any rules.
pub(super) fn has_rules(schema: Document<'_>) -> bool {
    !schema.values("x-kubernetes-validations").is_empty()
        || schema.item().is_some_and(has_rules)
        || matches!(schema.additional(), Some(Inner::Schema(value)) if has_rules(value))
        || schema.children("properties").any(|(_, property)| has_rules(property))
}

/// Compiles the rules of a stored schema; `None` where it has none. Rules that do not compile, which are not stored, are
/// left out.
pub fn compile(document: &Value) -> Option<ValidationRules> {
    let root = Document::of(document).filter(|root| has_rules(*root))?;
    let mut compiler = Compiler::default();
    compiler.node(root, Place::root(), &Path::Root).map(ValidationRules)
}

/// The same for a part of a schema; `is_resource` says whether it describes objects of their own.
pub(super) fn compile_below(schema: Document<'_>, is_resource: bool) -> Option<ValidationRules> {
    let mut compiler = Compiler::default();
    compiler.node(schema, Place { is_resource, ..Place::root() }, &Path::Root).map(ValidationRules)
}

/// What is wrong with the rules of a document that stands at `path`, and with what they are estimated to cost.
pub fn check(document: &Value, path: &str) -> Vec<FieldError> {
    let Some(root) = Document::of(document).filter(|root| has_rules(*root)) else { return Vec::new() };
    let mut compiler = Compiler::default();
    compiler.node(root, Place::root(), &Path::Field(&Path::Root, path));
    let Compiler { mut errors, total, mut expensive } = compiler;
    if total > SCHEMA_COST_MAX {
        expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in expensive.into_iter().take(EXPENSIVE_NAMED) {
            let rule = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(FieldError::forbidden(path, rule));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(path, exceeds(what, total, SCHEMA_COST_MAX)));
    }
    errors
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// What the way to a node means for its rules.
#[derive(Clone)]
struct Place<'d> {
    /// What the schema above declares the node as.
    declared: Option<&'d Declared>,
    is_resource: bool,
    /// How often the node can occur, as far as that is bounded.
    times: Option<u64>,
    /// The first place above whose elements cannot be told apart before and after an update.
    uncorrelatable: Option<String>,
}

impl Place<'_> {
    fn root() -> Self {
        Self { declared: None, is_resource: true, times: Some(1), uncorrelatable: None }
    }
}

#[derive(Default)]
struct Compiler {
    errors: Vec<FieldError>,
    total: u64,
    expensive: Vec<(String, u64)>,
}

impl Compiler {
    fn node(&mut self, schema: Document<'_>, place: Place<'_>, path: &Path<'_>) -> Option<Node> {
        let own;
        let declared = match place.declared {
            Some(declared) => declared,
            None => {
                let Some(declared) = declare(schema, place.is_resource, "object") else {
                    let detail = "internal error: failed to retrieve type information for x-kubernetes-validations";
                    let path = Path::Field(path, "x-kubernetes-validations").bracketed();
                    self.errors.push(FieldError::internal(path, detail));
                    return None;
                };
                own = declared;
                &own
            }
        };
        let mut node = Node {
            rules: Vec::new(),
            ty: declared.ty.clone(),
            kind: schema.text("type").to_owned(),
            keys: Vec::new(),
            properties: Vec::new(),
            additional: None,
            items: None,
        };
        self.children(schema, &place, declared, path, &mut node);
        let list = Path::Field(path, "x-kubernetes-validations");
        let scope = LazyCell::new(|| Scope::of(&declared.ty));
        for (at, rule) in schema.list("x-kubernetes-validations").enumerate() {
            let path = Path::Item(&list, at);
            if let Some(rule) = self.rule(schema, rule, &place, declared, &scope, &path) {
                node.rules.push(rule);
            }
        }
        let empty = node.rules.is_empty() && node.properties.is_empty();
        (!empty || node.items.is_some() || node.additional.is_some()).then_some(node)
    }

    fn children(
        &mut self,
        schema: Document<'_>,
        place: &Place<'_>,
        declared: &Declared,
        path: &Path<'_>,
        node: &mut Node,
    ) {
        let is_resource = |schema: Document<'_>| schema.flag("x-kubernetes-embedded-resource");
        let times = |limit: &str| {
            let limit = schema.get(limit).and_then(Value::as_u64);
            Some(place.times?.saturating_mul(limit?))
        };
        if let Some(Inner::Schema(value)) = schema.additional()
            && has_rules(value)
        {
            let times = times("maxProperties");
            let below = Place { declared: declared.element(), is_resource: is_resource(value), times, ..place.clone() };
            let path = Path::Field(path, "additionalProperties");
            node.additional = self.node(value, below, &path).map(Box::new);
        }
        let properties = Path::Field(path, "properties");
        for (name, property) in schema.children("properties").filter(|(_, property)| has_rules(*property)) {
            let field = match escape(name) {
                // fields of unknown types are left out of validation by rules
                Some(escaped) => match declared.field(&escaped) {
                    Some(field) => Some(field),
                    None => continue,
                },
                None => None,
            };
            let below = Place { declared: field, is_resource: is_resource(property), ..place.clone() };
            if let Some(child) = self.node(property, below, &Path::Key(&properties, name)) {
                node.properties.push((name.to_owned(), child));
            }
        }
        if let Some(item) = schema.item().filter(|item| has_rules(*item)) {
            let told_apart = schema.text("x-kubernetes-list-type") == "map";
            if told_apart {
                node.keys = schema.words("x-kubernetes-list-map-keys").map(str::to_owned).collect();
            }
            let mut below = Place {
                declared: declared.element(),
                is_resource: is_resource(item),
                times: times("maxItems"),
                ..place.clone()
            };
            if !told_apart && below.uncorrelatable.is_none() {
                below.uncorrelatable = Some(path.bracketed());
            }
            node.items = self.node(item, below, &Path::Field(path, "items")).map(Box::new);
        }
    }

    fn rule(
        &mut self,
        schema: Document<'_>,
        rule: Document<'_>,
        place: &Place<'_>,
        declared: &Declared,
        scope: &Scope,
        path: &Path<'_>,
    ) -> Option<Rule> {
        let source = rule.text("rule");
        let at = |name: &str| Path::Field(path, name).bracketed();
        let optional_old = rule.flag("optionalOldSelf");
        let env = if optional_old { &scope.optional } else { &scope.plain };
        if source.trim().is_empty() {
            // said of the definition's form
            return None;
        }
        let program = match env.compile(source, &[Type::Bool]) {
            Ok(program) => program,
            Err(error) => {
                let detail = match error {
                    CompileError::Issues(_) | CompileError::Constant(_) => error.to_string(),
                    CompileError::ResultType(_) => "cel expression must evaluate to a bool".to_owned(),
                };
                self.errors.push(FieldError::invalid(at("rule"), rule.to_value(), detail));
                return None;
            }
        };
        self.charge(&program, place, declared, at("rule"), "estimated rule cost");
        let uses_old = program.uses_slot(OLD_SELF);
        if let Some(within) = place.uncorrelatable.as_ref().filter(|_| uses_old) {
            let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            self.errors.push(FieldError::invalid(at("rule"), rule.text("rule"), detail));
        }
        if !uses_old && rule.get("optionalOldSelf").is_some() {
            let detail = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(at("optionalOldSelf"), optional_old, detail));
        }
        let field = rule.text("fieldPath");
        Some(Rule {
            message_program: self.message(rule, place, declared, env, path),
            program,
            source: source.trim().to_owned(),
            message: rule.text("message").trim().to_owned(),
            reason: rule.text("reason").to_owned(),
            field: find_in(schema, field, true).map(|found| found.path).unwrap_or_default(),
            uses_old,
            optional_old,
        })
    }

    fn message(
        &mut self,
        rule: Document<'_>,
        place: &Place<'_>,
        declared: &Declared,
        env: &Env,
        path: &Path<'_>,
    ) -> Option<Program> {
        let source = rule.text("messageExpression");
        if source.trim().is_empty() {
            return None;
        }
        let at = Path::Field(path, "messageExpression").bracketed();
        match env.compile(source, &[Type::String]) {
            Ok(program) => {
                self.charge(&program, place, declared, at, "estimated messageExpression cost");
                Some(program)
            }
            Err(error) => {
                let detail = match error {
                    CompileError::Issues(_) => format!("messageExpression {error}"),
                    CompileError::Constant(cause) => format!("messageExpression instantiation failed: {cause}"),
                    CompileError::ResultType(_) => "messageExpression must evaluate to a string".to_owned(),
                };
                self.errors.push(FieldError::invalid(at, rule.to_value(), detail));
                None
            }
        }
    }

    /// Adds up what a program can cost in all places that it can run for.
    fn charge(&mut self, program: &Program, place: &Place<'_>, declared: &Declared, path: String, what: &str) {
        // without a bound above, as often as the smallest values fit into a request
        let times = place.times.unwrap_or_else(|| REQUEST_BYTES / (declared.min_bytes + 1));
        let once = program.estimate(declared).max;
        let cost = once.saturating_mul(times);
        if cost > RULE_COST_MAX {
            self.errors.push(FieldError::forbidden(path.clone(), exceeds(what, cost, RULE_COST_MAX)));
        }
        self.total = self.total.saturating_add(cost);
        self.expensive.push((path, cost));
    }
}

impl ValidationRules {
    /// How many rules there are.
    pub fn count(&self) -> usize {
        fn count(node: &Node) -> usize {
            let below = node.properties.iter().map(|(_, node)| count(node)).sum::<usize>();
            let inner = [&node.items, &node.additional].into_iter().flatten().map(|node| count(node)).sum::<usize>();
            node.rules.len() + below + inner
        }
        count(&self.0)
    }
}
