//! Macros: calls that become other expressions before they are checked.

use std::sync::Arc;

use super::{Parser, Result};
use crate::ast::{Expr, Fold, FoldKind, Id, Item, Kind};
use crate::issue::Issue;
use crate::library::names;
use crate::value::Value;

/// The accumulator of loops; no source can name it.
pub(crate) const ACCUMULATOR: &str = "@result";
/// What is said of a variable that is none.
const SIMPLE: &str = "argument must be a simple name";
/// What the accumulator was called before, which no variable may be called since.
const RESULT: &str = "__result__";
/// The list that `sortBy` sorts; no source can name it.
const SORTED: &str = "@__sortBy_input__";
/// The optional that `optMap` looks into; no source can name it either.
const OPTIONAL: &str = "@optional";
/// The variable of loops that do not loop.
const UNUSED: &str = "#unused";

/// One or two variables that a macro introduces, and its other arguments.
type Variables = (Arc<str>, Option<Arc<str>>, Vec<Expr>);

impl Parser<'_> {
    pub(super) fn global_call(&mut self, open: usize, function: &str, mut args: Vec<Expr>) -> Result<Expr> {
        if function == "has" && args.len() == 1 {
            let arg = args.swap_remove(0);
            return match arg.kind {
                Kind::Select { operand, field, test: false } => {
                    Ok(self.expr(open, Kind::Select { operand, field, test: true }))
                }
                _ => Err(self.issue(arg.id, "invalid argument to has() macro")),
            };
        }
        Ok(self.call(open, function, args))
    }

    pub(super) fn member_call(&mut self, open: usize, target: Expr, name: &str, args: Vec<Expr>) -> Result<Expr> {
        let two_variables = args.len() >= 3 && name != "map";
        match (name, args.len()) {
            ("all" | "exists" | "exists_one", 2 | 3) | ("existsOne", 3) => self.quantifier(open, target, name, args),
            ("filter", 2) | ("map", 2 | 3) => self.list(open, target, name, args, two_variables),
            ("transformList", 3 | 4) => self.list(open, target, name, args, two_variables),
            ("transformMap" | "transformMapEntry", 3 | 4) => self.map(open, target, name, args),
            ("sortBy", 2) => self.sort_by(open, target, args),
            ("optMap" | "optFlatMap", 2) => self.optional_map(open, target, name, args),
            _ => Ok(self.method(open, target, name, args)),
        }
    }

    fn issue(&self, id: Id, text: &str) -> Issue {
        Issue { position: self.positions[id as usize] as usize, text: text.to_owned() }
    }

    fn method(&mut self, open: usize, target: Expr, name: &str, args: Vec<Expr>) -> Expr {
        self.expr(open, Kind::Call { function: name.into(), target: Some(Box::new(target)), args })
    }

    fn ident(&mut self, open: usize, name: &str) -> Expr {
        self.expr(open, Kind::Ident(name.into()))
    }

    fn literal(&mut self, open: usize, value: Value<'static>) -> Expr {
        self.expr(open, Kind::Literal(value))
    }

    /// The name that an argument introduces.
    fn variable(&self, arg: &Expr, message: &str) -> Result<Arc<str>> {
        match &arg.kind {
            Kind::Ident(name) if **name == *RESULT => {
                Err(self.issue(arg.id, "iteration variable overwrites accumulator variable"))
            }
            Kind::Ident(name) if !name.starts_with('.') => Ok(Arc::clone(name)),
            _ => Err(self.issue(arg.id, message)),
        }
    }

    /// One or two variables at the front of the arguments, and the rest.
    fn variables(&self, mut args: Vec<Expr>, two: bool) -> Result<Variables> {
        let rest = args.split_off(if two { 2 } else { 1 });
        let first = self.variable(&args[0], SIMPLE)?;
        let Some(second) = args.get(1) else { return Ok((first, None, rest)) };
        let name = self.variable(second, SIMPLE)?;
        if name == first {
            return Err(self.issue(second.id, &format!("duplicate variable name: {name}")));
        }
        Ok((first, Some(name), rest))
    }

    fn fold(&mut self, open: usize, fold: Fold) -> Expr {
        self.expr(open, Kind::Fold(Box::new(fold)))
    }

    fn quantifier(&mut self, open: usize, range: Expr, name: &str, args: Vec<Expr>) -> Result<Expr> {
        let two = args.len() == 3;
        let (iter, iter2, mut rest) = self.variables(args, two)?;
        let predicate = rest.swap_remove(0);
        let accu = self.ident(open, ACCUMULATOR);
        let (kind, init, condition, step, result) = match name {
            "all" => {
                let condition = self.call(open, names::NOT_STRICTLY_FALSE, vec![accu.clone()]);
                let step = self.call(open, names::AND, vec![accu.clone(), predicate]);
                (FoldKind::All, Value::Bool(true), condition, step, accu)
            }
            "exists" => {
                let not = self.call(open, names::NOT, vec![accu.clone()]);
                let condition = self.call(open, names::NOT_STRICTLY_FALSE, vec![not]);
                let step = self.call(open, names::OR, vec![accu.clone(), predicate]);
                (FoldKind::Exists, Value::Bool(false), condition, step, accu)
            }
            _ => {
                let condition = self.literal(open, Value::Bool(true));
                let one = self.literal(open, Value::Int(1));
                let more = self.call(open, names::ADD, vec![accu.clone(), one.clone()]);
                let step = self.call(open, names::CONDITIONAL, vec![predicate, more, accu.clone()]);
                let result = self.call(open, names::EQUALS, vec![accu, one]);
                (FoldKind::ExistsOne, Value::Int(0), condition, step, result)
            }
        };
        let init = self.literal(open, init);
        Ok(self.fold(open, Fold { kind, range, iter, iter2, accu: ACCUMULATOR.into(), init, condition, step, result }))
    }

    /// `map`, `filter` and `transformList`.
    fn list(&mut self, open: usize, range: Expr, name: &str, args: Vec<Expr>, two: bool) -> Result<Expr> {
        if !two {
            self.variable(&args[0], "argument is not an identifier")?;
        }
        let (iter, iter2, mut rest) = self.variables(args, two)?;
        let last = rest.pop();
        let (filter, transform) = match (name, last) {
            ("filter", predicate) => (predicate, Some(self.ident(open, &iter))),
            (_, transform) => (rest.pop(), transform),
        };
        let accu = self.ident(open, ACCUMULATOR);
        let items = transform.map(|value| Item { optional: false, value }).into_iter().collect();
        let element = self.expr(open, Kind::List(items));
        let mut step = self.call(open, names::ADD, vec![accu.clone(), element]);
        if let Some(filter) = filter {
            step = self.call(open, names::CONDITIONAL, vec![filter, step, accu.clone()]);
        }
        let init = self.expr(open, Kind::List(Vec::new()));
        let condition = self.literal(open, Value::Bool(true));
        let fold = Fold {
            kind: FoldKind::List,
            range,
            iter,
            iter2,
            accu: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result: accu,
        };
        Ok(self.fold(open, fold))
    }

    /// `transformMap` and `transformMapEntry`.
    fn map(&mut self, open: usize, range: Expr, name: &str, args: Vec<Expr>) -> Result<Expr> {
        let (iter, iter2, mut rest) = self.variables(args, true)?;
        let transform = rest.pop();
        let filter = rest.pop();
        let accu = self.ident(open, ACCUMULATOR);
        let mut insert = vec![accu.clone()];
        let kind = if name == "transformMap" {
            insert.push(self.ident(open, &iter));
            FoldKind::Map
        } else {
            FoldKind::MapEntries
        };
        insert.extend(transform);
        let mut step = self.call(open, names::MAP_INSERT, insert);
        if let Some(filter) = filter {
            step = self.call(open, names::CONDITIONAL, vec![filter, step, accu.clone()]);
        }
        let init = self.expr(open, Kind::Map(Vec::new()));
        let condition = self.literal(open, Value::Bool(true));
        let accu_name = ACCUMULATOR.into();
        Ok(self.fold(open, Fold { kind, range, iter, iter2, accu: accu_name, init, condition, step, result: accu }))
    }

    /// A name for a value: a loop that never runs, whose accumulator is the name.
    fn named(&mut self, open: usize, name: Arc<str>, value: Expr, result: Expr) -> Expr {
        let range = self.expr(open, Kind::List(Vec::new()));
        let condition = self.literal(open, Value::Bool(false));
        let step = self.ident(open, &name);
        let iter = UNUSED.into();
        let kind = FoldKind::Bind;
        self.fold(open, Fold { kind, range, iter, iter2: None, accu: name, init: value, condition, step, result })
    }

    /// `sortBy`: the list gets a name, and is sorted by the list of what the key is of each element.
    fn sort_by(&mut self, open: usize, target: Expr, args: Vec<Expr>) -> Result<Expr> {
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Object { .. }) {
            let text = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Err(self.issue(target.id, text));
        }
        let list = self.ident(open, SORTED);
        let keys = self.list(open, list.clone(), "map", args, false)?;
        let sorted = self.method(open, list, "@sortByAssociatedKeys", vec![keys]);
        Ok(self.named(open, SORTED.into(), target, sorted))
    }

    fn optional_map(&mut self, open: usize, target: Expr, macro_name: &str, mut args: Vec<Expr>) -> Result<Expr> {
        let message = format!("{macro_name}() variable name must be a simple identifier");
        let name = self.variable(&args[0], &message)?;
        let body = args.swap_remove(1);
        // The target gets a name rather than being copied: copies of copies grow without bound.
        let held = self.ident(open, OPTIONAL);
        let present = self.method(open, held.clone(), "hasValue", Vec::new());
        let value = self.method(open, held, "value", Vec::new());
        let mapped = self.named(open, name, value, body);
        let then = if macro_name == "optMap" { self.call(open, "optional.of", vec![mapped]) } else { mapped };
        let none = self.call(open, "optional.none", Vec::new());
        let result = self.call(open, names::CONDITIONAL, vec![present, then, none]);
        Ok(self.named(open, OPTIONAL.into(), target, result))
    }
}
