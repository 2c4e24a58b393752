//! The shapes in use: equal ones are kept once and known by number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::counters::Counted;
use super::marks::{self, Marked};
use crate::shape::Shape;

/// With fewer shapes than this nothing is swept: a table of this size is small.
const SWEEP_MIN: usize = 1024;

/// The number of a shape; valid as long as pods of it are placed or somebody holds the shape itself.
pub(crate) type ShapeId = u32;

/// A shape in use.
#[derive(Clone, Debug)]
pub(crate) struct ShapeEntry {
    pub(crate) shape: Arc<Shape>,
    /// How many placed pods have it.
    pub(crate) placed: u32,
    /// How many of them are on each node, by its slot.
    pub(crate) on: BTreeMap<u32, u32>,
    /// The counters that count its pods; kept current while pods of it are placed.
    pub(crate) counters: Vec<u32>,
}

/// All shapes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes {
    by_shape: HashMap<Arc<Shape>, ShapeId>,
    marked: Marked,
    entries: Vec<Option<ShapeEntry>>,
    free: Vec<ShapeId>,
    sweep_at: usize,
}

impl Shapes {
    /// The number of a shape, which is new or known.
    pub(crate) fn id(&mut self, shape: &Arc<Shape>) -> ShapeId {
        if let Some(id) = self.by_shape.get(shape) {
            return *id;
        }
        self.sweep();
        let (on, counters) = (BTreeMap::new(), Vec::new());
        let entry = Some(ShapeEntry { shape: Arc::clone(shape), placed: 0, on, counters });
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_shape.insert(Arc::clone(shape), id);
        self.marked.insert(marks::of_shape(shape), id);
        id
    }

    pub(crate) fn known(&self, shape: &Arc<Shape>) -> Option<ShapeId> {
        self.by_shape.get(shape).copied()
    }

    pub(crate) fn get(&self, id: ShapeId) -> Option<&ShapeEntry> {
        self.entries.get(id as usize).and_then(Option::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: ShapeId) -> Option<&mut ShapeEntry> {
        self.entries.get_mut(id as usize).and_then(Option::as_mut)
    }

    /// Shapes of placed pods.
    pub(crate) fn placed_mut(&mut self) -> impl Iterator<Item = (ShapeId, &mut ShapeEntry)> {
        let numbered = (0..).zip(&mut self.entries);
        numbered.filter_map(|(id, entry)| Some((id, entry.as_mut().filter(|entry| entry.placed > 0)?)))
    }

    /// The shapes among which are all that a counter counts.
    pub(crate) fn worth_asking(&self, counted: &Counted) -> Vec<ShapeId> {
        let by_marks = self.marked.rarest(marks::of_counted(counted));
        by_marks
            .unwrap_or_else(|| (0..).zip(&self.entries).filter_map(|(id, entry)| entry.as_ref().map(|_| id)).collect())
    }

    /// Forgets shapes that nobody has, each time the table has doubled.
    fn sweep(&mut self) {
        if self.by_shape.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        for (id, slot) in (0..).zip(&mut self.entries) {
            // The table itself holds each shape twice.
            if slot.as_ref().is_some_and(|entry| entry.placed == 0 && Arc::strong_count(&entry.shape) == 2)
                && let Some(entry) = slot.take()
            {
                self.by_shape.remove(&entry.shape);
                self.marked.remove(marks::of_shape(&entry.shape), id);
                self.free.push(id);
            }
        }
        self.sweep_at = self.by_shape.len() * 2;
    }
}
