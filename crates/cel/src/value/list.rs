//! Lists: elements of their own, or a view of a JSON array.

use std::sync::Arc;

use serde_json::Value as Json;

use super::Value;
use crate::error::EvalError;
use crate::types::{ListKind, ListType};

/// A list.
#[derive(Clone, Debug)]
pub struct List<'a>(Items<'a>);

#[derive(Clone, Debug)]
enum Items<'a> {
    Own(Arc<Vec<Value<'a>>>),
    Json(&'a [Json], &'a ListType),
}

impl<'a> List<'a> {
    /// A list of these elements.
    pub fn new(items: Vec<Value<'a>>) -> Self {
        Self(Items::Own(Arc::new(items)))
    }

    /// A view of a JSON array.
    pub fn json(items: &'a [Json], ty: &'a ListType) -> Self {
        Self(Items::Json(items, ty))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.0 {
            Items::Own(items) => items.len(),
            Items::Json(items, _) => items.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at an index. `None` beyond the end; an error if the JSON there is not what its declared format says.
    pub fn get(&self, at: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            Items::Own(items) => items.get(at).cloned().map(Ok),
            Items::Json(items, ty) => items.get(at).map(|json| Value::json(json, &ty.item)),
        }
    }

    /// All elements in order.
    pub fn iter(&self) -> ListIter<'_, 'a> {
        ListIter { list: self, at: 0 }
    }

    /// How the list compares and adds up, if its type says so.
    pub(crate) fn kind(&self) -> &ListKind {
        match &self.0 {
            Items::Own(_) => &ListKind::Atomic,
            Items::Json(_, ty) => &ty.kind,
        }
    }
}

/// The elements of a [`List`] in order.
#[derive(Debug)]
pub struct ListIter<'l, 'a> {
    list: &'l List<'a>,
    at: usize,
}

impl<'a> Iterator for ListIter<'_, 'a> {
    type Item = Result<Value<'a>, EvalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.list.get(self.at)?;
        self.at += 1;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.list.len() - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ListIter<'_, '_> {}
