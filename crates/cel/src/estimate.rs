//! Cost estimates: what the work of an expression can come to, from what is known of the sizes of its data.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Fold, FoldKind, Id, Kind};
use crate::checker::{Checked, Reference};
use crate::cost::{
    Call, CallEstimate, CostEstimate, LIST_CREATE, MAP_CREATE, OBJECT_CREATE, Operand, SELECT, SizeEstimate, Sizes,
};
use crate::env::Meaning;
use crate::library::names;
use crate::types::Type;
use crate::value::Value;

/// Estimates a checked expression.
pub(crate) fn estimate(checked: &Checked, sizes: &dyn Sizes) -> CostEstimate {
    let mut coster = Coster {
        checked,
        sizes,
        paths: HashMap::new(),
        locals: Vec::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(&checked.tree.root)
}

/// Sizes of what a list or map holds, where both are known.
#[derive(Clone, Copy, Debug)]
struct EntrySize {
    is_list: bool,
    key: SizeEstimate,
    value: SizeEstimate,
}

impl EntrySize {
    fn union(self, other: Self) -> Self {
        Self { is_list: self.is_list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

/// A variable of a loop, or a name for a value.
#[derive(Clone, Debug)]
struct Local {
    name: Arc<str>,
    path: Vec<String>,
    size: Option<SizeEstimate>,
    entry: Option<EntrySize>,
}

struct Coster<'c> {
    checked: &'c Checked,
    sizes: &'c dyn Sizes,
    /// Where in the declared data an expression leads.
    paths: HashMap<Id, Vec<String>>,
    locals: Vec<Local>,
    computed: HashMap<Id, SizeEstimate>,
    entries: HashMap<Id, EntrySize>,
}

impl Coster<'_> {
    fn ty(&self, expr: &Expr) -> &Type {
        &self.checked.types[expr.id as usize]
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn path(&self, expr: &Expr) -> Vec<String> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn child(&self, expr: &Expr, step: &str) -> Vec<String> {
        let mut path = self.path(expr);
        // Also where no path leads to what it goes on from: the reference takes the first step for a variable then, and
        // rules that it accepts count on that.
        path.push(step.to_owned());
        path
    }

    fn cost(&mut self, expr: &Expr) -> CostEstimate {
        match &expr.kind {
            Kind::Literal(_) => CostEstimate::default(),
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => name.trim_start_matches('.').split('.').map(str::to_owned).collect(),
                };
                self.paths.insert(expr.id, path);
                CostEstimate::fixed(SELECT)
            }
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => {
                let mut sum = CostEstimate::fixed(LIST_CREATE);
                let mut size: Option<SizeEstimate> = None;
                for item in items {
                    sum = sum.plus(self.cost(&item.value));
                    let own = self.size_or_unknown(&item.value);
                    size = Some(size.map_or(own, |size| size.union(own)));
                }
                let value = size.unwrap_or(SizeEstimate::fixed(0));
                self.entries.insert(expr.id, EntrySize { is_list: true, key: SizeEstimate::fixed(1), value });
                sum
            }
            Kind::Map(entries) => {
                let mut sum = CostEstimate::fixed(MAP_CREATE);
                let mut sizes: Option<(SizeEstimate, SizeEstimate)> = None;
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
                    sizes = Some(sizes.map_or((key, value), |(keys, values)| (keys.union(key), values.union(value))));
                }
                let (key, value) = sizes.unwrap_or((SizeEstimate::fixed(0), SizeEstimate::fixed(0)));
                self.entries.insert(expr.id, EntrySize { is_list: false, key, value });
                sum
            }
            Kind::Object { fields, .. } => {
                fields.iter().fold(CostEstimate::fixed(OBJECT_CREATE), |sum, field| sum.plus(self.cost(&field.value)))
            }
            Kind::Fold(fold) if fold.kind == FoldKind::Bind => self.bind(expr, fold),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> CostEstimate {
        if let Some(Reference::Ident(meaning)) = &self.checked.references[expr.id as usize] {
            let name = expr.qualified_name().unwrap_or_default();
            let path: Vec<String> = match meaning {
                // a type has one name, however many dots there are in it
                Meaning::Constant(_) => vec![name],
                Meaning::Slot(_) => name.split('.').map(str::to_owned).collect(),
            };
            let parts = path.len() as u64;
            self.paths.insert(expr.id, path);
            return CostEstimate::fixed(SELECT * parts);
        }
        let mut sum = self.cost(operand);
        // Asking whether there is a field is free, as Kubernetes configures it.
        if test {
            return sum;
        }
        if matches!(self.ty(operand), Type::Map(_) | Type::Object(_) | Type::Param(_)) {
            sum = sum.plus(CostEstimate::fixed(SELECT));
        }
        let path = self.child(operand, field);
        self.paths.insert(expr.id, path);
        sum
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> CostEstimate {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg).plus(CostEstimate::fixed(1));
            self.copy_sizes(expr, arg);
            return cost;
        }
        let costs: Vec<CostEstimate> = args.iter().map(|arg| self.cost(arg)).collect();
        let Some(Reference::Function { overloads, qualified, .. }) = &self.checked.references[expr.id as usize] else {
            return CostEstimate::default();
        };
        let target = target.filter(|_| !qualified);
        let mut sum = target.map_or(CostEstimate::default(), |target| self.cost(target));
        let arguments = costs.iter().fold(CostEstimate::default(), |sum, cost| sum.plus(*cost));
        match (function, costs.as_slice()) {
            (names::AND | names::OR, [left, right]) => {
                // The right side may not be looked at.
                return CostEstimate { min: left.min, max: left.plus(*right).max };
            }
            (names::CONDITIONAL, [condition, then, otherwise]) => {
                let size = self.size_or_unknown(&args[1]).union(self.size_or_unknown(&args[2]));
                if let (Some(a), Some(b)) = (self.entry(&args[1]), self.entry(&args[2])) {
                    self.entries.insert(expr.id, a.union(b));
                }
                self.computed.insert(expr.id, size);
                return condition.plus(then.union(*otherwise));
            }
            _ => {}
        }
        let operands: Vec<&Expr> = target.into_iter().chain(args).collect();
        let mut range: Option<CostEstimate> = None;
        let mut size: Option<SizeEstimate> = None;
        for overload in overloads {
            let estimated = match overload.estimate {
                Some(estimate) => estimate(&self.describe(function, overload.id, &operands)),
                None => CallEstimate::fixed(1),
            };
            range = Some(range.map_or(estimated.cost, |range| range.union(estimated.cost)));
            size = match (size, estimated.size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            self.follow(expr, overload.id, args, &mut size);
            if size.is_none() {
                size = self.size(expr);
            }
        }
        if let Some(size) = size {
            self.computed.insert(expr.id, size);
        }
        sum = sum.plus(arguments);
        range.map_or(sum, |range| sum.plus(range))
    }

    /// Where indexing and adding lead.
    fn follow(&mut self, expr: &Expr, overload: &str, args: &[Expr], size: &mut Option<SizeEstimate>) {
        match overload {
            "index_list" | "index_map" => {
                *size = self.entry(&args[0]).map(|entry| entry.value);
                let path = self.child(&args[0], if overload == "index_list" { "@items" } else { "@values" });
                self.paths.insert(expr.id, path);
            }
            "add_list" | "add_string" | "add_bytes" => {
                if let (Some(a), Some(b)) = (self.entry(&args[0]), self.entry(&args[1])) {
                    self.entries.insert(expr.id, a.union(b));
                }
            }
            _ => {}
        }
    }

    /// A call as its overload's estimate sees it.
    fn describe<'e>(&mut self, function: &'e str, overload: &'e str, operands: &[&'e Expr]) -> Call<'e> {
        let operands = operands.iter().map(|expr| {
            let ty = self.ty(expr).clone();
            let size = self.size_or_unknown(expr);
            let item_size = match &ty {
                Type::List(list) => {
                    let path = if self.path(expr).is_empty() { Vec::new() } else { self.child(expr, "@items") };
                    let known = self.sizes.size(&path, &list.item);
                    Some(known.unwrap_or(SizeEstimate::UNKNOWN))
                }
                _ => None,
            };
            let literal = match &expr.kind {
                Kind::Literal(value) => Some(value),
                _ => None,
            };
            Operand { ty, size, item_size, literal }
        });
        Call { function, overload, operands: operands.collect() }
    }

    fn bind(&mut self, expr: &Expr, fold: &Fold) -> CostEstimate {
        // The empty range that the macro made is a list, too.
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push(&fold.accu, &fold.init);
        sum = sum.plus(self.cost(&fold.result));
        self.copy_sizes(expr, &fold.result);
        self.locals.pop();
        sum
    }

    fn push(&mut self, name: &Arc<str>, value: &Expr) {
        let local =
            Local { name: Arc::clone(name), path: self.path(value), size: self.size(value), entry: self.entry(value) };
        self.locals.push(local);
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> CostEstimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let outer = self.locals.len();
        self.push(&fold.accu, &fold.init);
        let entry = self.entry(&fold.range);
        let is_list = entry.map_or(matches!(self.ty(&fold.range), Type::List(_)), |entry| entry.is_list);
        let variable = |coster: &Self, name: &Arc<str>, step: &str, size| Local {
            name: Arc::clone(name),
            path: coster.child(&fold.range, step),
            size,
            entry: None,
        };
        let key = entry.map(|entry| entry.key);
        let value = entry.map(|entry| entry.value);
        let (first, second) = match (&fold.iter2, is_list) {
            (None, true) => (variable(self, &fold.iter, "@items", value), None),
            (None, false) => (variable(self, &fold.iter, "@keys", key), None),
            (Some(two), true) => {
                (variable(self, &fold.iter, "@indices", key), Some(variable(self, two, "@items", value)))
            }
            (Some(two), false) => {
                (variable(self, &fold.iter, "@keys", key), Some(variable(self, two, "@values", value)))
            }
        };
        let inner = self.locals.len();
        self.locals.push(first);
        self.locals.extend(second);
        let each = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(inner);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.truncate(outer);
        let count = self.size_or_unknown(&fold.range);
        sum = sum.plus(count.times(each));
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.computed.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.computed.insert(expr.id, count);
                if let Some(entry) = self.entry(&fold.step) {
                    self.entries.insert(expr.id, entry);
                }
            }
            _ => {}
        }
        sum
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.computed.insert(to.id, size);
        }
        if let Some(entry) = self.entry(from) {
            self.entries.insert(to.id, entry);
        }
    }

    fn entry(&self, expr: &Expr) -> Option<EntrySize> {
        if let Some(entry) = self.entries.get(&expr.id) {
            return Some(*entry);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.entry,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> SizeEstimate {
        self.size(expr).unwrap_or(SizeEstimate::UNKNOWN)
    }

    fn size(&mut self, expr: &Expr) -> Option<SizeEstimate> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        let literal = match &expr.kind {
            Kind::Literal(value @ (Value::String(_) | Value::Bytes(_))) => value.size(),
            Kind::Literal(_) => Some(1),
            Kind::List(items) => Some(items.len() as u64),
            Kind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(size) = literal {
            return Some(SizeEstimate::fixed(size));
        }
        if let Some(size) = self.sizes.size(&self.path(expr), self.ty(expr)) {
            // A variable of a loop is another one in the next loop, though the expression may be shared.
            if !matches!(&expr.kind, Kind::Ident(name) if self.local(name).is_some()) {
                self.computed.insert(expr.id, size);
            }
            return Some(size);
        }
        if self.ty(expr).is_scalar() {
            return Some(SizeEstimate::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }
}
