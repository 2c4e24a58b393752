//! `metadata.managedFields`: reading, moving ownership, writing.

use std::{cmp::Ordering, collections::HashSet};

use serde_json::{Map, Value};

use super::compare::{Changes, compare, named};
use super::element::Level;
use super::last_applied;
use super::merge::{merge, remove};
use super::set::{FieldSet, check, intersection, limit, subtract, union};
use super::{Applied, ApplyError, Conflict, Conflicts, Manager, Operation};
use crate::types::Schema;

/// Upstream keeps this many update entries and folds older ones into one.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Owner of what stood in an object that nobody tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// One entry of the list.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: Map<String, Value>,
}

impl Entry {
    fn read(value: Value) -> Option<Self> {
        let Value::Object(mut map) = value else { return None };
        let mut text = |name: &str| match map.get_mut(name).map(Value::take) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let operation = match text("operation")?.as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let (manager, api_version) = (text("manager").unwrap_or_default(), text("apiVersion")?);
        let (subresource, time) = (text("subresource").unwrap_or_default(), text("time"));
        let Some(Value::Object(fields)) = map.remove("fieldsV1") else { return None };
        Some(Self { manager, operation, api_version, subresource, time, fields })
    }

    fn write(self) -> Value {
        let mut map = Map::new();
        map.insert("apiVersion".to_owned(), Value::String(self.api_version));
        map.insert("fieldsType".to_owned(), Value::from("FieldsV1"));
        map.insert("fieldsV1".to_owned(), Value::Object(self.fields));
        map.insert("manager".to_owned(), Value::String(self.manager));
        map.insert("operation".to_owned(), Value::from(self.operation.name()));
        if !self.subresource.is_empty() {
            map.insert("subresource".to_owned(), Value::String(self.subresource));
        }
        if let Some(time) = self.time {
            map.insert("time".to_owned(), Value::String(time));
        }
        Value::Object(map)
    }

    fn new(manager: &Manager, fields: Map<String, Value>) -> Self {
        Self {
            manager: manager.name.clone(),
            operation: manager.operation,
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.clone(),
            time: Some(manager.time.clone()),
            fields,
        }
    }

    /// What tells entries apart. An applier keeps its entry across versions.
    fn identity(&self) -> (Operation, &str, &str, &str) {
        let version = if self.operation == Operation::Apply { "" } else { self.api_version.as_str() };
        (self.operation, &self.manager, &self.subresource, version)
    }

    /// Whether this is the manager's own entry.
    fn is_of(&self, manager: &Manager) -> bool {
        let version = if manager.operation == Operation::Apply { "" } else { manager.api_version.as_str() };
        self.identity() == (manager.operation, &*manager.name, &*manager.subresource, version)
    }

    /// How conflicts name the manager.
    fn label(&self) -> String {
        let mut label = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            label.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            label.push_str(&format!(" using {}", self.api_version));
        }
        label
    }

    fn order(&self, other: &Self) -> Ordering {
        fn key(entry: &Entry) -> (Operation, Option<&str>, [&str; 3]) {
            let Entry { manager, operation, api_version, subresource, time, .. } = entry;
            (*operation, time.as_deref(), [manager, api_version, subresource])
        }
        key(self).cmp(&key(other))
    }
}

fn managed_fields(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The entries, or nothing when one of them is malformed: tracking then starts anew. Of several of one manager, as who
/// renames managers leaves behind, the last counts.
fn read(values: Vec<Value>) -> Vec<Entry> {
    let well_formed = |value: &Value| value["fieldsType"] == "FieldsV1" && check(&value["fieldsV1"], 0).is_ok();
    if !values.iter().all(well_formed) {
        return Vec::new();
    }
    let mut entries = values.into_iter().map(Entry::read).collect::<Option<Vec<_>>>().unwrap_or_default();
    let mut seen = HashSet::with_capacity(entries.len());
    let mut last: Vec<bool> = entries.iter().rev().map(|entry| seen.insert(entry.identity())).collect();
    entries.retain(|_| last.pop() == Some(true));
    entries
}

/// Takes the entries that an object carries; `None` when it says nothing of them.
fn take(object: &mut Value) -> Option<Vec<Value>> {
    match object.get_mut("metadata").and_then(Value::as_object_mut).and_then(|map| map.remove("managedFields")) {
        Some(Value::Array(values)) => Some(values),
        _ => None,
    }
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    let Value::Object(object) = object else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(metadata) = metadata else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    entries.sort_by(Entry::order);
    metadata.insert("managedFields".to_owned(), entries.into_iter().map(Entry::write).collect());
}

/// Entries that hold for a write: those that the new object carries, unless it carries none or writes a subresource.
/// An empty list, or one empty entry, asks to forget all of them.
fn current(old: Option<&Value>, sent: Option<Vec<Value>>, manager: &Manager) -> Vec<Entry> {
    let live = || read(old.map(managed_fields).unwrap_or_default().to_vec());
    let Some(sent) = sent.filter(|_| manager.subresource.is_empty()) else { return live() };
    match sent.as_slice() {
        [] => return Vec::new(),
        [Value::Object(entry)] if entry.is_empty() => return Vec::new(),
        _ => {}
    }
    let entries = read(sent);
    if entries.is_empty() { live() } else { entries }
}

pub(super) fn track_update(
    schema: &Schema,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
) -> Result<(), ApplyError> {
    let sent = take(new);
    let changes = compare(schema.root(), old, new, manager.reset).limited(manager.only);
    let mut entries = current(old, sent, manager);
    // Nobody is tracked in an object whose fields were all given up, until somebody applies it.
    let tracked = old.is_none() || !entries.is_empty();
    if tracked && !changes.is_empty() {
        let Changes { mut added, modified, removed } = changes;
        union(&mut added, &modified);
        let taken = added;
        for entry in &mut entries {
            if !entry.is_of(manager) {
                subtract(&mut entry.fields, &taken);
            }
            subtract(&mut entry.fields, &removed);
        }
        if !taken.is_empty() {
            match entries.iter_mut().find(|entry| entry.is_of(manager)) {
                Some(entry) => {
                    union(&mut entry.fields, &taken);
                    entry.time = Some(manager.time.clone());
                }
                None => entries.push(Entry::new(manager, taken)),
            }
        }
        entries.retain(|entry| !entry.fields.is_empty());
        cap(&mut entries);
    }
    write(new, entries);
    Ok(())
}

/// Folds the oldest update entries of a version into one when there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let is_update = |entry: &Entry| entry.operation == Operation::Update && entry.subresource.is_empty();
    while entries.iter().filter(|entry| is_update(entry)).count() > MAX_UPDATE_MANAGERS {
        let oldest = |entries: &[Entry]| {
            let updates = entries.iter().enumerate().filter(|(_, entry)| is_update(entry) && entry.manager != ANCIENT);
            updates.min_by(|(_, a), (_, b)| a.time.cmp(&b.time)).map(|(at, _)| at)
        };
        let Some(at) = oldest(entries) else { return };
        let mut old = entries.remove(at);
        let bucket = |entry: &&mut Entry| entry.manager == ANCIENT && entry.api_version == old.api_version;
        match entries.iter_mut().find(bucket) {
            Some(bucket) => {
                union(&mut bucket.fields, &old.fields);
                bucket.time = bucket.time.take().max(old.time);
            }
            None => {
                ANCIENT.clone_into(&mut old.manager);
                entries.push(old);
                // A first bucket replaces one entry by another: fold one more into it.
                if entries.iter().filter(|entry| is_update(entry)).all(|entry| entry.manager == ANCIENT) {
                    return;
                }
            }
        }
    }
}

pub(super) fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Applied, ApplyError> {
    if !managed_fields(config).is_empty() {
        return Err(ApplyError::ManagedFields);
    }
    let root = schema.root();
    let mut entries = read(live.map(managed_fields).unwrap_or_default().to_vec());
    if let (Some(live), true) = (live, entries.is_empty()) {
        let owner = Manager { name: BEFORE_FIRST_APPLY.to_owned(), operation: Operation::Update, ..manager.clone() };
        let everything = compare(root, None, live, manager.reset).limited(manager.only).added;
        if !everything.is_empty() {
            entries.push(Entry::new(&owner, everything));
        }
    }
    let mut set = named(root, config, manager.reset).map_err(ApplyError::Invalid)?;
    limit(&mut set, manager.only);
    let own = entries.iter().position(|entry| entry.is_of(manager));
    let last = own.map(|at| entries.remove(at));
    let mut object = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    take(&mut object);
    merge(Some(root), &mut object, config);
    take(&mut object);
    if let Some(last) = &last {
        let mut keep = set.clone();
        entries.iter().for_each(|entry| union(&mut keep, &entry.fields));
        remove(Some(root), &mut object, &last.fields, Some(&keep), Level::Object(manager.reset));
    }
    let changes = compare(root, live, &object, manager.reset).limited(manager.only);
    let free = live.map(|live| last_applied::unchanged(root, live, manager)).unwrap_or_default();
    move_ownership(&mut entries, &changes, &free, force)?;
    let same = changes.is_empty() && last.as_ref().is_some_and(|last| last.fields == set);
    let mut entry = Entry::new(manager, set);
    if let (true, Some(last)) = (same, last) {
        entry.time = last.time;
    }
    if !entry.fields.is_empty() {
        entries.push(entry);
    }
    last_applied::keep_current(&mut object, config, manager);
    write(&mut object, entries);
    let changed = live != Some(&object);
    Ok(Applied { object, changed })
}

/// Moves what changed to the writer; a conflict over a field of `free` is none.
fn move_ownership(
    entries: &mut Vec<Entry>,
    changes: &Changes,
    free: &Map<String, Value>,
    force: bool,
) -> Result<(), Conflicts> {
    let mut taken = changes.added.clone();
    union(&mut taken, &changes.modified);
    let mut conflicts = Vec::new();
    for entry in entries.iter_mut() {
        let mut contested = FieldSet(intersection(&entry.fields, &taken));
        subtract(&mut contested.0, free);
        let label = entry.label();
        conflicts.extend(contested.paths().into_iter().map(|path| Conflict { manager: label.clone(), path }));
        subtract(&mut entry.fields, &taken);
        subtract(&mut entry.fields, &changes.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(Conflicts(conflicts));
    }
    entries.retain(|entry| !entry.fields.is_empty());
    Ok(())
}
