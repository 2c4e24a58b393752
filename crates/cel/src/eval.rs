//! Running plans. Costs are charged as the work is done; the budget's end stops everything.

use std::sync::Arc;

use crate::ast::FoldKind;
use crate::context::Context;
use crate::cost::{LIST_CREATE, MAP_CREATE, OBJECT_CREATE, SELECT, STRING_TRAVERSAL_FACTOR, scale};
use crate::error::EvalError;
use crate::library::comparison_cost;
use crate::operators;
use crate::plan::{Call, Construct, Loop, Node, Select};
use crate::program::{Binding, Bindings};
use crate::value::{List, Map, Object, Value};

type Outcome<'a> = Result<Value<'a>, EvalError>;

/// The state of one evaluation.
pub(crate) struct Frame<'a, 'b> {
    pub(crate) bindings: &'b Bindings<'a>,
    pub(crate) locals: Vec<Outcome<'a>>,
    pub(crate) context: Context,
}

/// A loop's outcome so far of `all` and `exists`: what the loop says if nothing decides it earlier.
struct Quantified {
    decided: bool,
    error: Option<EvalError>,
}

impl<'a> Frame<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.context.charge(cost)
    }

    /// The value of a step.
    pub(crate) fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.reborrow()),
            Node::Slot { slot, cost, name } => {
                self.charge(*cost)?;
                self.slot(*slot, name)
            }
            Node::Local { local, cost } => {
                self.charge(*cost)?;
                self.locals[*local].clone()
            }
            Node::Select(select) => self.select(select),
            Node::Has(select) => {
                let operand = self.eval(&select.operand)?;
                self.charge(select.has_cost)?;
                operators::has(&operand, &select.field).map(Value::Bool)
            }
            Node::SelectOptional(select) => {
                let operand = self.eval(&select.operand)?;
                let found = operators::select_optional(&operand, &select.field)?;
                self.optional(found, select.cost)
            }
            Node::And(sides) => self.logical(sides, false),
            Node::Or(sides) => self.logical(sides, true),
            Node::Not(operand) => {
                let operand = self.eval(operand)?;
                self.charge(1)?;
                Ok(Value::Bool(!operand.bool()?))
            }
            Node::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.eval(condition)?.bool()? { self.eval(then) } else { self.eval(otherwise) }
            }
            Node::Equals { sides, negated } => {
                let (a, b) = self.both(sides)?;
                self.charge(comparison_cost(&a, &b))?;
                Ok(Value::Bool(a.equals(&b)? != *negated))
            }
            Node::Order { sides, holds } => {
                let (a, b) = self.both(sides)?;
                self.charge(comparison_cost(&a, &b))?;
                a.compare(&b).map(|order| Value::Bool(holds(order)))
            }
            Node::Binary { sides, apply } => {
                let (a, b) = self.both(sides)?;
                self.charge(copying_cost(&a, &b))?;
                apply(&a, &b)
            }
            Node::In { sides, constant } => {
                let (a, b) = self.both(sides)?;
                self.charge(match &b {
                    _ if *constant => 0,
                    Value::List(list) => list.len() as u64,
                    _ => 1,
                })?;
                operators::is_in(&a, &b).map(Value::Bool)
            }
            Node::Index { sides, cost } => {
                let (a, b) = self.both(sides)?;
                self.charge(*cost)?;
                operators::index(&a, &b)
            }
            Node::IndexOptional { sides, cost } => {
                let (a, b) = self.both(sides)?;
                let found = operators::index_optional(&a, &b)?;
                self.optional(found, *cost)
            }
            Node::OrElse { sides, unwrap } => self.or_else(sides, *unwrap),
            Node::Call(call) => self.call(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Object(construct) => self.object(construct),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { local, sides } => self.bind(*local, sides),
        }
    }

    fn bind(&mut self, local: usize, sides: &'a [Node; 2]) -> Outcome<'a> {
        let [value, result] = sides;
        // An error of the value counts where the name is used; the end of the budget counts at once.
        let value = self.eval(value);
        if value.as_ref().err() == Some(&EvalError::BudgetExceeded) {
            return value;
        }
        self.locals[local] = value;
        self.eval(result)
    }

    fn slot(&mut self, slot: usize, name: &str) -> Outcome<'a> {
        let bindings = self.bindings;
        match bindings.get(slot) {
            Some(Binding::Value(value)) => Ok(value.clone()),
            Some(Binding::Lazy { program, value }) => {
                if let Some(value) = value.get() {
                    return value.clone();
                }
                let found = program.run(bindings, &mut self.context).map_err(|error| match error {
                    EvalError::BudgetExceeded => error,
                    error => {
                        let name = name.rsplit('.').next().unwrap_or(name);
                        EvalError::other(format!("composited variable \"{name}\" fails to evaluate: {error}"))
                    }
                });
                value.get_or_init(|| found).clone()
            }
            Some(Binding::Unset) | None => Err(EvalError::other(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, select: &'a Select) -> Outcome<'a> {
        let operand = self.eval(&select.operand)?;
        self.charge(select.cost)?;
        if let (Value::Object(object), Some((ty, at))) = (&operand, &select.declared)
            && let Some(found) = object.declared(ty, *at)
        {
            return found?.ok_or_else(|| EvalError::NoSuchKey((*select.field).into()));
        }
        operators::select(&operand, &select.field)
    }

    /// What was looked up and may be absent: looking for what is not there costs nothing.
    fn optional(&mut self, found: Value<'a>, cost: u64) -> Outcome<'a> {
        let absent = matches!(found, Value::Optional(None));
        self.charge(if absent { cost - SELECT } else { cost })?;
        Ok(found)
    }

    fn both(&mut self, sides: &'a [Node; 2]) -> Result<(Value<'a>, Value<'a>), EvalError> {
        let a = self.eval(&sides[0])?;
        Ok((a, self.eval(&sides[1])?))
    }

    /// `&&` and `||`: `decisive` on either side is the answer, whatever the other side is.
    fn logical(&mut self, sides: &'a [Node; 2], decisive: bool) -> Outcome<'a> {
        let left = self.truth(&sides[0]);
        match left {
            Ok(value) if value == decisive => return Ok(Value::Bool(value)),
            Err(EvalError::BudgetExceeded) => return Err(EvalError::BudgetExceeded),
            _ => {}
        }
        let right = self.truth(&sides[1]);
        match (left, right) {
            (_, Ok(value)) if value == decisive => Ok(Value::Bool(value)),
            (_, Err(EvalError::BudgetExceeded)) => Err(EvalError::BudgetExceeded),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(value)) => Ok(Value::Bool(value)),
        }
    }

    fn truth(&mut self, node: &'a Node) -> Result<bool, EvalError> {
        self.eval(node)?.bool()
    }

    fn or_else(&mut self, sides: &'a [Node; 2], unwrap: bool) -> Outcome<'a> {
        match self.eval(&sides[0])? {
            Value::Optional(Some(value)) if unwrap => Ok(Value::clone(&value)),
            first @ Value::Optional(Some(_)) => Ok(first),
            Value::Optional(None) => self.eval(&sides[1]),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn call(&mut self, call: &'a Call) -> Outcome<'a> {
        match call.args.as_slice() {
            [a] => {
                let args = [self.eval(a)?];
                self.apply(call, &args)
            }
            [a, b] => {
                let args = [self.eval(a)?, self.eval(b)?];
                self.apply(call, &args)
            }
            more => {
                let args = more.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                self.apply(call, &args)
            }
        }
    }

    fn apply(&mut self, call: &'a Call, args: &[Value<'a>]) -> Outcome<'a> {
        let overload = if call.dynamic {
            call.overloads.iter().find(|overload| overload.takes(args))
        } else {
            call.overloads.first()
        };
        let Some(overload) = overload else { return Err(no_such_overload(call, args)) };
        let implementation = call.prepared.as_ref().unwrap_or(&overload.implementation);
        let result = implementation(&mut self.context, args);
        let answer = result.as_ref().unwrap_or(&Value::Null);
        self.charge(overload.cost.map_or(1, |cost| cost(args, answer)))?;
        result
    }

    fn list(&mut self, items: &'a [(bool, Node)]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (optional, node) in items {
            let value = self.eval(node)?;
            if *optional {
                values.extend(present(value)?);
            } else {
                values.push(value);
            }
        }
        self.charge(LIST_CREATE)?;
        Ok(Value::list(values))
    }

    fn map(&mut self, entries: &'a [(bool, Node, Node)]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(entries.len());
        for (optional, key, value) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            if *optional {
                values.extend(present(value)?.map(|value| (key, value)));
            } else {
                values.push((key, value));
            }
        }
        self.charge(MAP_CREATE)?;
        Map::last_of(values).map(Value::Map)
    }

    fn object(&mut self, construct: &'a Construct) -> Outcome<'a> {
        let Construct { ty, fields } = construct;
        let mut values = Vec::with_capacity(fields.len());
        for (optional, name, node) in fields {
            let value = self.eval(node)?;
            let value = if *optional { present(value)? } else { Some(value) };
            values.extend(value.map(|value| (Arc::clone(name), value)));
        }
        self.charge(OBJECT_CREATE)?;
        Ok(Value::Object(Object::new(Arc::clone(ty), values)))
    }

    fn fold(&mut self, fold: &'a Loop) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        match fold.kind {
            FoldKind::All | FoldKind::Exists => self.quantify(fold, &range),
            FoldKind::ExistsOne => {
                let mut count = 0_u64;
                self.each(fold, &range, |frame| {
                    let holds = frame.truth(&fold.body)?;
                    // the accumulator is read and one added to it
                    frame.charge(if holds { SELECT + 1 } else { 0 })?;
                    count += u64::from(holds);
                    Ok(true)
                })?;
                self.charge(2)?;
                Ok(Value::Bool(count == 1))
            }
            FoldKind::List => {
                let mut items = Vec::new();
                self.each(fold, &range, |frame| {
                    if frame.passes(fold)? {
                        items.push(frame.eval(&fold.body)?);
                        // The accumulator is read, a list of one element is made and added.
                        frame.charge(SELECT + LIST_CREATE + 1)?;
                    }
                    Ok(true)
                })?;
                self.charge(SELECT)?;
                Ok(Value::List(List::new(items)))
            }
            FoldKind::Map | FoldKind::MapEntries => self.entries(fold, &range),
            // Planned as a node of its own.
            FoldKind::Bind => Err(EvalError::NoSuchOverload),
        }
    }

    /// `all` and `exists`: errors count only if no element decides.
    fn quantify(&mut self, fold: &'a Loop, range: &Value<'a>) -> Outcome<'a> {
        let decisive = fold.kind == FoldKind::Exists;
        // The condition of the loop looks at the accumulator, negated for `exists`, before every element.
        let condition = if decisive { 3 } else { 2 };
        let mut so_far = Quantified { decided: false, error: None };
        self.each(fold, range, |frame| {
            frame.charge(condition)?;
            if so_far.decided {
                return Ok(false);
            }
            frame.charge(SELECT)?;
            match frame.truth(&fold.body) {
                Ok(value) => so_far.decided = value == decisive,
                Err(EvalError::BudgetExceeded) => return Err(EvalError::BudgetExceeded),
                Err(error) => {
                    so_far.error.get_or_insert(error);
                }
            }
            Ok(true)
        })?;
        self.charge(SELECT)?;
        match so_far {
            Quantified { decided: true, .. } => Ok(Value::Bool(decisive)),
            Quantified { error: Some(error), .. } => Err(error),
            Quantified { error: None, .. } => Ok(Value::Bool(!decisive)),
        }
    }

    fn entries(&mut self, fold: &'a Loop, range: &Value<'a>) -> Outcome<'a> {
        let mut entries = Vec::new();
        self.each(fold, range, |frame| {
            if frame.passes(fold)? {
                let value = frame.eval(&fold.body)?;
                if fold.kind == FoldKind::Map {
                    entries.push((frame.locals[fold.local].clone()?, value));
                    frame.charge(2 * SELECT + 1)?;
                } else {
                    for (key, value) in value.as_map()?.iter() {
                        entries.push((key, value?));
                    }
                    frame.charge(SELECT + 1)?;
                }
            }
            Ok(true)
        })?;
        self.charge(SELECT)?;
        Map::new(entries).map(Value::Map).map_err(|error| match error {
            EvalError::Other(text) => match text.strip_prefix("Failed with repeated key: ") {
                Some(key) => EvalError::other(format!("insert failed: key {key} already exists")),
                None => EvalError::Other(text),
            },
            error => error,
        })
    }

    fn passes(&mut self, fold: &'a Loop) -> Result<bool, EvalError> {
        fold.filter.as_ref().map_or(Ok(true), |filter| self.truth(filter))
    }

    /// Runs `step` with the variables of the loop set to each element, until it answers false.
    fn each(
        &mut self,
        fold: &'a Loop,
        range: &Value<'a>,
        mut step: impl FnMut(&mut Self) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        match range {
            Value::List(list) => {
                for (at, item) in list.iter().enumerate() {
                    match fold.second {
                        Some(second) => {
                            self.locals[fold.local] = Ok(Value::Int(at as i64));
                            self.locals[second] = item;
                        }
                        None => self.locals[fold.local] = item,
                    }
                    if !step(self)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    self.locals[fold.local] = Ok(key);
                    if let Some(second) = fold.second {
                        self.locals[second] = value;
                    }
                    if !step(self)? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::NoSuchOverload),
        }
        Ok(())
    }
}

fn present(value: Value<'_>) -> Result<Option<Value<'_>>, EvalError> {
    match value {
        Value::Optional(value) => Ok(value.map(|value| Value::clone(&value))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// What an arithmetic operator costs: text and bytes are copied.
fn copying_cost(a: &Value<'_>, b: &Value<'_>) -> u64 {
    match (a, b) {
        (Value::String(_), Value::String(_)) | (Value::Bytes(_), Value::Bytes(_)) => {
            let size = a.size().unwrap_or(0).saturating_add(b.size().unwrap_or(0));
            scale(size, STRING_TRAVERSAL_FACTOR)
        }
        _ => 1,
    }
}

fn no_such_overload(call: &Call, args: &[Value<'_>]) -> EvalError {
    let types: Vec<String> = args.iter().map(|arg| arg.ty().name().to_owned()).collect();
    let member = call.overloads.first().is_some_and(|overload| overload.member);
    let text = match types.split_first() {
        Some((target, rest)) if member => format!("{target}.{}({})", call.name, rest.join(", ")),
        _ => format!("{}({})", call.name, types.join(", ")),
    };
    EvalError::other(format!("no such overload: {text}"))
}
