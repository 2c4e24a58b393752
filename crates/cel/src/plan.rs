//! Checked trees as plans: names are slots, calls are functions, loops are of their kind, constants are computed.

use std::sync::Arc;

use crate::ast::{Expr, Fold, FoldKind, Kind};
use crate::checker::{Checked, Reference};
use crate::context::Context;
use crate::cost::SELECT;
use crate::env::Meaning;
use crate::error::EvalError;
use crate::issue::Issue;
use crate::library::{Implementation, Overload, names};
use crate::operators;
use crate::types::{ObjectType, Type};
use crate::value::Value;

/// Conversions whose result is a constant when their argument is one.
const FOLDED: [&str; 10] = ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

/// An operator on two values.
pub(crate) type Binary = for<'a> fn(&Value<'a>, &Value<'a>) -> Result<Value<'a>, EvalError>;

/// A step of a plan.
#[derive(Clone)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A variable, with what reading it costs.
    Slot {
        slot: usize,
        cost: u64,
        name: Arc<str>,
    },
    /// A variable of a loop, with what reading it costs.
    Local {
        local: usize,
        cost: u64,
    },
    Select(Box<Select>),
    Has(Box<Select>),
    SelectOptional(Box<Select>),
    And(Box<[Self; 2]>),
    Or(Box<[Self; 2]>),
    Not(Box<Self>),
    Conditional(Box<[Self; 3]>),
    Equals {
        sides: Box<[Self; 2]>,
        negated: bool,
    },
    /// An order, and what of it holds.
    Order {
        sides: Box<[Self; 2]>,
        holds: fn(std::cmp::Ordering) -> bool,
    },
    /// An operator of constant cost, or one that copies text and bytes.
    Binary {
        sides: Box<[Self; 2]>,
        apply: Binary,
    },
    /// Whether a list or map holds a value. A list of constants is looked up, which costs nothing.
    In {
        sides: Box<[Self; 2]>,
        constant: bool,
    },
    /// An element or entry, with what looking it up costs.
    Index {
        sides: Box<[Self; 2]>,
        cost: u64,
    },
    IndexOptional {
        sides: Box<[Self; 2]>,
        cost: u64,
    },
    /// `a.or(b)` and `a.orValue(b)`: the second only if the first is absent.
    OrElse {
        sides: Box<[Self; 2]>,
        unwrap: bool,
    },
    Call(Box<Call>),
    List(Box<[(bool, Self)]>),
    Map(Box<[(bool, Self, Self)]>),
    Object(Box<Construct>),
    Fold(Box<Loop>),
    /// A name for a value.
    Bind {
        local: usize,
        sides: Box<[Self; 2]>,
    },
}

/// A field of an operand.
#[derive(Clone)]
pub(crate) struct Select {
    pub(crate) operand: Node,
    pub(crate) field: Arc<str>,
    /// What reading it costs.
    pub(crate) cost: u64,
    /// What asking whether it is there costs.
    pub(crate) has_cost: u64,
    /// Where the operand's declared type has the field.
    pub(crate) declared: Option<(Arc<ObjectType>, usize)>,
}

/// An object to make: its type, and its fields, each of which may be optional.
#[derive(Clone)]
pub(crate) struct Construct {
    pub(crate) ty: Arc<ObjectType>,
    pub(crate) fields: Vec<(bool, Arc<str>, Node)>,
}

/// A call of a function.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Arc<Overload>>,
    pub(crate) args: Vec<Node>,
    /// Whether kinds of arguments have to be compared with the overloads.
    pub(crate) dynamic: bool,
    /// Made for the constant arguments.
    pub(crate) prepared: Option<Implementation>,
}

/// A loop over a list or map.
#[derive(Clone)]
pub(crate) struct Loop {
    pub(crate) kind: FoldKind,
    pub(crate) range: Node,
    pub(crate) local: usize,
    pub(crate) second: Option<usize>,
    pub(crate) filter: Option<Node>,
    pub(crate) body: Node,
}

/// Plans a checked tree. Answers how many loop variables there are at most, too.
pub(crate) fn plan(checked: &Checked) -> Result<(Node, usize), Unplanned> {
    let mut planner = Planner { checked, locals: Vec::new(), locals_max: 0, issues: Vec::new(), failed: None };
    let node = planner.expr(&checked.tree.root);
    match planner.failed {
        _ if !planner.issues.is_empty() => Err(Unplanned::Issues(planner.issues)),
        Some(error) => Err(Unplanned::Constant(error)),
        None => Ok((node, planner.locals_max)),
    }
}

/// Why there is no plan.
pub(crate) enum Unplanned {
    /// Literals that do not mean what they should.
    Issues(Vec<Issue>),
    /// Something constant has no value.
    Constant(EvalError),
}

struct Planner<'c> {
    checked: &'c Checked,
    locals: Vec<Arc<str>>,
    locals_max: usize,
    issues: Vec<Issue>,
    failed: Option<EvalError>,
}

impl Planner<'_> {
    fn expr(&mut self, expr: &Expr) -> Node {
        if let Some(Reference::Ident(meaning)) = &self.checked.references[expr.id as usize]
            && matches!(expr.kind, Kind::Ident(_) | Kind::Select { .. })
        {
            return match meaning {
                Meaning::Constant(value) => Node::Const(value.clone()),
                Meaning::Slot(slot) => {
                    let name = expr.qualified_name().unwrap_or_default();
                    let cost = SELECT * (1 + name.trim_start_matches('.').matches('.').count() as u64);
                    Node::Slot { slot: *slot, cost, name: name.into() }
                }
            };
        }
        match &expr.kind {
            Kind::Literal(value) => Node::Const(value.clone()),
            Kind::Ident(name) => {
                let local = self.locals.iter().rposition(|own| own == name).unwrap_or_default();
                Node::Local { local, cost: SELECT }
            }
            Kind::Select { operand, field, test } => {
                let select = self.select(operand, field);
                if *test { Node::Has(select) } else { Node::Select(select) }
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => {
                let items: Vec<_> = items.iter().map(|item| (item.optional, self.expr(&item.value))).collect();
                constant_list(&items).map_or_else(|| Node::List(items.into()), Node::Const)
            }
            Kind::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|entry| (entry.optional, self.expr(&entry.key), self.expr(&entry.value)))
                    .collect();
                constant_map(&entries).map_or_else(|| Node::Map(entries.into()), Node::Const)
            }
            Kind::Object { fields, .. } => {
                let fields = fields
                    .iter()
                    .map(|field| (field.optional, Arc::clone(&field.name), self.expr(&field.value)))
                    .collect();
                match &self.checked.types[expr.id as usize] {
                    Type::Object(ty) => Node::Object(Box::new(Construct { ty: Arc::clone(ty), fields })),
                    // The checker finds no other type.
                    _ => Node::Const(Value::Null),
                }
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn pair(&mut self, args: &[Expr]) -> Box<[Node; 2]> {
        Box::new([self.expr(&args[0]), self.expr(&args[1])])
    }

    fn select(&mut self, operand: &Expr, field: &Arc<str>) -> Box<Select> {
        let declared = match &self.checked.types[operand.id as usize] {
            Type::Object(object) => object.place(field).map(|at| (Arc::clone(object), at)),
            _ => None,
        };
        let operand = self.expr(operand);
        let (cost, has_cost) = (select_cost(&operand), select_cost(&operand) - SELECT);
        Box::new(Select { cost, has_cost, operand, field: Arc::clone(field), declared })
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Node {
        match (function, args) {
            (names::AND, [..]) => return Node::And(self.pair(args)),
            (names::OR, [..]) => return Node::Or(self.pair(args)),
            (names::NOT, [operand]) => return Node::Not(Box::new(self.expr(operand))),
            (names::CONDITIONAL, [a, b, c]) => {
                let mut parts = Box::new([self.expr(a), self.expr(b), self.expr(c)]);
                parts[1..].iter_mut().for_each(resolved);
                return Node::Conditional(parts);
            }
            (names::EQUALS | names::NOT_EQUALS, [..]) => {
                return Node::Equals { sides: self.pair(args), negated: function == names::NOT_EQUALS };
            }
            (names::LESS, [..]) => return Node::Order { sides: self.pair(args), holds: std::cmp::Ordering::is_lt },
            (names::LESS_EQUALS, [..]) => {
                return Node::Order { sides: self.pair(args), holds: std::cmp::Ordering::is_le };
            }
            (names::GREATER, [..]) => return Node::Order { sides: self.pair(args), holds: std::cmp::Ordering::is_gt },
            (names::GREATER_EQUALS, [..]) => {
                return Node::Order { sides: self.pair(args), holds: std::cmp::Ordering::is_ge };
            }
            (names::ADD, [..]) => return self.binary(args, operators::add),
            (names::SUBTRACT, [..]) => return self.binary(args, operators::subtract),
            (names::MULTIPLY, [..]) => return self.binary(args, operators::multiply),
            (names::DIVIDE, [..]) => return self.binary(args, operators::divide),
            (names::MODULO, [..]) => return self.binary(args, operators::modulo),
            (names::IN, [..]) => return is_in(self.pair(args)),
            (names::INDEX, [..]) => {
                let sides = indexed(self.pair(args));
                return Node::Index { cost: select_cost(&sides[0]), sides };
            }
            (names::INDEX_OPTIONAL, [..]) => {
                let sides = indexed(self.pair(args));
                return Node::IndexOptional { cost: select_cost(&sides[0]), sides };
            }
            (names::SELECT_OPTIONAL, [operand, Expr { kind: Kind::Literal(Value::String(field)), .. }]) => {
                return Node::SelectOptional(self.select(operand, &Arc::from(&**field)));
            }
            _ => {}
        }
        let Some(Reference::Function { name, overloads, qualified }) = &self.checked.references[expr.id as usize]
        else {
            // Every call that was checked has one.
            return Node::Const(Value::Null);
        };
        let target = target.filter(|_| !qualified);
        let operands: Vec<&Expr> = target.into_iter().chain(args).collect();
        if let ("or" | "orValue", [a, b]) = (*name, operands.as_slice())
            && overloads.iter().all(|overload| overload.id.starts_with("optional_or"))
        {
            let sides = Box::new([self.expr(a), self.expr(b)]);
            return Node::OrElse { sides, unwrap: *name == "orValue" };
        }
        self.function(name, overloads, &operands)
    }

    fn binary(&mut self, args: &[Expr], apply: Binary) -> Node {
        Node::Binary { sides: self.pair(args), apply }
    }

    fn function(&mut self, name: &'static str, overloads: &[Arc<Overload>], operands: &[&Expr]) -> Node {
        let args: Vec<Node> = operands.iter().map(|operand| self.expr(operand)).collect();
        let known = operands.iter().all(|operand| !self.checked.types[operand.id as usize].is_dynamic());
        let constants: Vec<Option<&Value<'static>>> = args.iter().map(constant).collect();
        let mut prepared = None;
        if let [overload] = overloads {
            let last = operands.iter().zip(&constants).rev().find(|(_, constant)| constant.is_some());
            let position = last.map_or(0, |(operand, _)| self.checked.tree.positions[operand.id as usize] as usize);
            let invalid = || Issue { position, text: format!("invalid {name} argument") };
            if let (true, [Some(value)]) = (FOLDED.contains(&name), constants.as_slice()) {
                let result = (overload.implementation)(&mut Context::new(u64::MAX), &[(*value).clone()]);
                match result {
                    Ok(value) => return Node::Const(value),
                    Err(_) if matches!(name, "duration" | "timestamp") => self.issues.push(invalid()),
                    Err(error) => self.failed = self.failed.take().or(Some(error)),
                }
            } else if let Some(prepare) = overload.prepare {
                match prepare(&constants) {
                    Ok(implementation) => prepared = implementation,
                    Err(_) if name == "matches" => self.issues.push(invalid()),
                    Err(text) => self.failed = self.failed.take().or_else(|| Some(EvalError::other(text))),
                }
            }
        }
        let dynamic = !known || overloads.len() > 1;
        Node::Call(Box::new(Call { name, overloads: overloads.to_vec(), args, dynamic, prepared }))
    }

    fn local(&mut self, name: &Arc<str>) -> usize {
        self.locals.push(Arc::clone(name));
        self.locals_max = self.locals_max.max(self.locals.len());
        self.locals.len() - 1
    }

    fn fold(&mut self, fold: &Fold) -> Node {
        let outer = self.locals.len();
        if fold.kind == FoldKind::Bind {
            let value = self.expr(&fold.init);
            let local = self.local(&fold.accu);
            let sides = Box::new([value, self.expr(&fold.result)]);
            self.locals.truncate(outer);
            return Node::Bind { local, sides };
        }
        let range = self.expr(&fold.range);
        let local = self.local(&fold.iter);
        let second = fold.iter2.as_ref().map(|name| self.local(name));
        let (filter, body) = parts(fold);
        let filter = filter.map(|filter| self.expr(filter));
        let body = match body {
            Some(body) => self.expr(body),
            // Every macro makes steps that have parts.
            None => Node::Const(Value::Null),
        };
        self.locals.truncate(outer);
        Node::Fold(Box::new(Loop { kind: fold.kind, range, local, second, filter, body }))
    }
}

/// The filter and the body of a loop, found in the step that its macro made.
fn parts(fold: &Fold) -> (Option<&Expr>, Option<&Expr>) {
    let Kind::Call { function, args, .. } = &fold.step.kind else { return (None, None) };
    match fold.kind {
        FoldKind::All | FoldKind::Exists => (None, args.get(1)),
        FoldKind::ExistsOne => (None, args.first()),
        FoldKind::List | FoldKind::Map | FoldKind::MapEntries => {
            let (filter, insert) = match args.as_slice() {
                [filter, Expr { kind: Kind::Call { args, .. }, .. }, _] if &**function == names::CONDITIONAL => {
                    (Some(filter), args)
                }
                _ => (None, args),
            };
            let last = insert.last();
            match last.map(|last| &last.kind) {
                Some(Kind::List(items)) if fold.kind == FoldKind::List => {
                    (filter, items.first().map(|item| &item.value))
                }
                _ => (filter, last),
            }
        }
        FoldKind::Bind => (None, None),
    }
}

/// Whether a step reads a variable, or something inside one.
fn is_attribute(node: &Node) -> bool {
    matches!(
        node,
        Node::Slot { .. }
            | Node::Local { .. }
            | Node::Select(_)
            | Node::SelectOptional(_)
            | Node::Index { .. }
            | Node::IndexOptional { .. }
            | Node::Conditional(_)
    )
}

/// What selecting from an operand costs: the reference counts an operand that is no variable as one.
fn select_cost(operand: &Node) -> u64 {
    if is_attribute(operand) { SELECT } else { 2 * SELECT }
}

/// What is indexed, and an index whose way to a variable is counted as in [`resolved`].
fn indexed(mut sides: Box<[Node; 2]>) -> Box<[Node; 2]> {
    if is_attribute(&sides[1]) {
        resolved(&mut sides[1]);
    }
    sides
}

/// Makes a step one that a conditional answers with: the reference follows the way to a variable without counting where
/// it begins.
fn resolved(node: &mut Node) {
    match node {
        Node::Slot { cost, .. } | Node::Local { cost, .. } => *cost -= SELECT,
        Node::Select(select) | Node::SelectOptional(select) if is_attribute(&select.operand) => {
            resolved(&mut select.operand);
        }
        Node::Select(select) | Node::SelectOptional(select) => select.cost -= SELECT,
        Node::Index { sides, .. } | Node::IndexOptional { sides, .. } if is_attribute(&sides[0]) => {
            resolved(&mut sides[0]);
        }
        Node::Index { cost, .. } | Node::IndexOptional { cost, .. } => *cost -= SELECT,
        _ => {}
    }
}

/// A constant list of values that can be looked up costs nothing; of an empty one nothing is asked at all.
fn is_in(sides: Box<[Node; 2]>) -> Node {
    let Node::Const(Value::List(list)) = &sides[1] else { return Node::In { sides, constant: false } };
    if list.is_empty() {
        return Node::Const(Value::Bool(false));
    }
    let simple = |item: Result<Value<'_>, EvalError>| {
        use Value::{Bool, Double, Int, Null, String, Uint};
        matches!(item, Ok(Bool(_) | Int(_) | Uint(_) | Double(_) | String(_) | Null))
    };
    let constant = list.iter().all(simple);
    Node::In { sides, constant }
}

fn constant(node: &Node) -> Option<&Value<'static>> {
    if let Node::Const(value) = node { Some(value) } else { None }
}

fn constant_list(items: &[(bool, Node)]) -> Option<Value<'static>> {
    let values = items.iter().map(|(optional, node)| constant(node).filter(|_| !optional).cloned());
    values.collect::<Option<Vec<_>>>().map(Value::list)
}

fn constant_map(entries: &[(bool, Node, Node)]) -> Option<Value<'static>> {
    let entries = entries
        .iter()
        .map(|(optional, key, value)| Some((constant(key).filter(|_| !optional)?.clone(), constant(value)?.clone())));
    crate::Map::last_of(entries.collect::<Option<Vec<_>>>()?).ok().map(Value::Map)
}
