//! What literals have to keep to once the types of an expression are known: the elements of a list and the entries of a
//! map are of one type, and a literal format fits the literal arguments that it is given.

use super::{Checked, Reference};
use crate::ast::{Entry, Expr, Id, Item, Kind};
use crate::issue::Issue;
use crate::library::format;
use crate::types::Type;
use crate::value::Value;

/// The overload whose arguments may be of many types.
const FORMAT: &str = "string_format";

/// What is wrong with the literals of an expression that has no other mistakes.
pub(super) fn check(checked: &Checked) -> Vec<Issue> {
    let mut literals = Literals { checked, issues: Vec::new() };
    literals.walk(&checked.tree.root, false);
    literals.issues
}

struct Literals<'c> {
    checked: &'c Checked,
    issues: Vec<Issue>,
}

impl<'c> Literals<'c> {
    fn ty(&self, id: Id) -> &'c Type {
        &self.checked.types[id as usize]
    }

    fn report(&mut self, id: Id, text: String) {
        self.issues.push(Issue { position: self.checked.tree.positions[id as usize] as usize, text });
    }

    /// `formatted`: whether a format is to be applied to it, or to something that it is part of.
    fn walk(&mut self, expr: &Expr, formatted: bool) {
        let mut formatted = formatted;
        match &expr.kind {
            Kind::List(items) if !formatted => self.items(items),
            Kind::Map(entries) if !formatted => self.entries(entries),
            Kind::Call { function, target, args } if **function == *"format" => {
                formatted = true;
                self.format(expr, target.as_deref(), args);
            }
            _ => {}
        }
        for child in expr.kind.children() {
            self.walk(child, formatted);
        }
    }

    /// The type of an element, or of what is in it where it may be absent.
    fn element(&self, value: &Expr, optional: bool) -> &'c Type {
        match self.ty(value.id) {
            Type::Optional(of) if optional => of,
            ty => ty,
        }
    }

    fn differs(&mut self, id: Id, wanted: &Type, found: &Type) -> bool {
        let differs = wanted != found;
        if differs {
            self.report(id, format!("expected type '{wanted}' but found '{found}'"));
        }
        differs
    }

    fn items(&mut self, items: &[Item]) {
        let Some((first, rest)) = items.split_first() else { return };
        let wanted = self.element(&first.value, first.optional);
        for item in rest {
            let found = self.element(&item.value, item.optional);
            if self.differs(item.value.id, wanted, found) {
                return;
            }
        }
    }

    fn entries(&mut self, entries: &[Entry]) {
        let Some((first, rest)) = entries.split_first() else { return };
        let (key, value) = (self.ty(first.key.id), self.element(&first.value, first.optional));
        for entry in rest {
            self.differs(entry.key.id, key, self.ty(entry.key.id));
            self.differs(entry.value.id, value, self.element(&entry.value, entry.optional));
        }
    }

    /// A call of `format` with a literal format and a literal list.
    fn format(&mut self, call: &Expr, target: Option<&Expr>, args: &[Expr]) {
        let (Some(Expr { kind: Kind::Literal(Value::String(pattern)), .. }), [Expr { kind: Kind::List(items), .. }]) =
            (target, args)
        else {
            return;
        };
        let is_format = matches!(&self.checked.references[call.id as usize],
            Some(Reference::Function { overloads, .. }) if overloads.iter().any(|overload| overload.id == FORMAT));
        if !is_format {
            return;
        }
        let mut wrong = call.id;
        let mut used = 0;
        let result = format::clauses(pattern, |piece| {
            let format::Piece::Clause { at, verb, .. } = piece else { return Ok(()) };
            used = at + 1;
            let item = items.get(at).ok_or_else(|| format::out_of_range(at))?;
            match self.unfit(verb, &item.value) {
                Some(id) => {
                    wrong = id;
                    Err(format::refused(verb, self.ty(id).name()))
                }
                None => Ok(()),
            }
        });
        match result {
            Err(error) => self.report(wrong, error.to_string()),
            Ok(()) if items.len() > used => {
                let given = items.len();
                let text = format!("too many arguments supplied to string.format (expected {used}, got {given})");
                self.report(call.id, text);
            }
            Ok(()) => {}
        }
    }

    /// The expression within an argument whose type a clause cannot show.
    fn unfit(&self, verb: char, value: &Expr) -> Option<Id> {
        let ty = self.ty(value.id);
        let fits = match (verb, ty) {
            (_, Type::Dyn) => true,
            ('d' | 'o', ty) => matches!(ty, Type::Int | Type::Uint),
            // text may be the name of a number that is none
            ('f' | 'e', ty) => matches!(ty, Type::Double | Type::String),
            ('b', ty) => matches!(ty, Type::Int | Type::Uint | Type::Bool),
            ('x' | 'X', ty) => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
            (_, ty) => !matches!(ty, Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Error),
        };
        match &value.kind {
            _ if !fits => Some(value.id),
            Kind::List(items) if verb == 's' => items.iter().find_map(|item| self.unfit(verb, &item.value)),
            Kind::Map(entries) if verb == 's' => {
                entries.iter().find_map(|entry| self.unfit(verb, &entry.key).or_else(|| self.unfit(verb, &entry.value)))
            }
            _ => None,
        }
    }
}
