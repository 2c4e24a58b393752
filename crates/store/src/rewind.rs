//! Past states of one collection, made from the present one by undoing the events that came after.

use std::{collections::HashMap, sync::Arc};

use crate::{Event, Object, Revision, Snapshot};

/// The state of the events' collection before any of them: other collections stay as they are in `head`, so that the
/// result is good for that collection alone.
pub(crate) fn undo(head: &Snapshot, events: &[Arc<Event>], revision: Revision) -> Snapshot {
    // of several changes of one object the first knows what was there before
    let mut before: HashMap<&str, (&Event, Option<&Object>)> = HashMap::new();
    for event in events {
        before.entry(&event.key.path).or_insert((event, event.previous.as_ref()));
    }
    let mut state = head.clone();
    for (event, previous) in before.into_values() {
        state.apply(&event.key, previous.cloned());
    }
    state.advance(revision);
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    fn object(revision: u64) -> Object {
        Object { revision: Revision(revision), bytes: format!("{{\"r\":{revision}}}").into() }
    }

    fn event(path: &str, revision: u64, previous: Option<u64>, deleted: bool) -> Arc<Event> {
        let key = Key { collection: "core/pods".into(), path: path.into() };
        let previous = previous.map(object);
        Arc::new(Event::new(key, object(revision), previous, deleted))
    }

    #[test]
    fn undoing_brings_back_what_was_changed_or_deleted_and_takes_away_what_was_made() {
        let mut head = Snapshot::at(Revision(9));
        for (path, revision) in [("kept", 1), ("changed", 8), ("made", 6)] {
            let key = Key { collection: "core/pods".into(), path: path.into() };
            head.apply(&key, Some(object(revision)));
        }
        let events = [
            event("changed", 5, Some(2), false),
            event("made", 6, None, false),
            event("deleted", 7, Some(3), true),
            event("changed", 8, Some(5), false),
        ];
        let past = undo(&head, &events, Revision(4));
        let found: Vec<(String, u64)> =
            past.range("core/pods", "", None).map(|(path, object)| (path.to_string(), object.revision.0)).collect();
        assert_eq!(found, [("changed".to_owned(), 2), ("deleted".to_owned(), 3), ("kept".to_owned(), 1)]);
        assert_eq!(past.revision(), Revision(4));
    }
}
