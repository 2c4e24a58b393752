//! What clients did and were told, and whether a server that keeps its promises could have told them that.
//!
//! Every write has a value of its own and the store numbers its changes, so the order of the changes need not be guessed:
//! a watch tells it. What remains to be checked is that this order explains every answer, object by object, and that it
//! agrees with the order in which answers and requests followed each other (linearizability).

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

/// One request about one object.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The object's name.
    pub key: String,
    /// When the request was sent.
    pub begun: Instant,
    /// When the answer came, or was given up on.
    pub ended: Instant,
    /// What was asked and answered.
    pub what: What,
}

/// What was asked and answered.
#[derive(Clone, Debug)]
pub enum What {
    /// A write that insisted on the object's revision, `None` on its absence.
    Write {
        /// That revision.
        expected: Option<u64>,
        /// What was written, `None` for a deletion.
        value: Option<String>,
        /// What was answered.
        outcome: Outcome,
    },
    /// A read, and the revision and value it found.
    Read(Option<(u64, String)>),
}

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened.
    Done,
    /// It did not happen.
    Refused,
    /// Nothing: it may have happened.
    Unknown,
}

/// A change that a watch told of.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object's name.
    pub key: String,
    /// The change's revision.
    pub revision: u64,
    /// The new value, `None` for a deletion.
    pub value: Option<String>,
}

/// A change of one object, and the write behind it.
struct Link<'a> {
    change: &'a Change,
    write: &'a Operation,
}

/// Everything that a server that keeps its promises could not have answered.
pub fn violations(operations: &[Operation], changes: &[Change]) -> Vec<String> {
    let mut found = Vec::new();
    for pair in changes.windows(2) {
        if pair[0].revision >= pair[1].revision {
            found.push(format!("the watch told of revision {} after {}", pair[1].revision, pair[0].revision));
        }
    }
    let mut by_key: BTreeMap<&str, (Vec<&Operation>, Vec<&Change>)> = BTreeMap::new();
    for operation in operations {
        by_key.entry(&operation.key).or_default().0.push(operation);
    }
    for change in changes {
        by_key.entry(&change.key).or_default().1.push(change);
    }
    for (key, (operations, changes)) in by_key {
        let chain = explain(key, &operations, &changes, &mut found);
        order(key, &operations, &chain, &mut found);
    }
    found
}

/// Finds the write behind each change, and reports changes without one and acknowledged writes without a change.
fn explain<'a>(
    key: &str,
    operations: &[&'a Operation],
    changes: &[&'a Change],
    found: &mut Vec<String>,
) -> Vec<Link<'a>> {
    // values are unique, and a deletion is told by the revision it insisted on
    type Mark<'a> = (Option<&'a str>, Option<u64>);
    let mut writes: HashMap<Mark<'_>, Vec<&Operation>> = HashMap::new();
    for operation in operations {
        if let What::Write { expected, value, outcome } = &operation.what
            && *outcome != Outcome::Refused
        {
            writes.entry((value.as_deref(), *expected)).or_default().push(operation);
        }
    }
    let mut chain = Vec::new();
    let mut before = None;
    for change in changes {
        let mark = (change.value.as_deref(), before);
        // of several deletions that insisted on one revision, one that was acknowledged did it
        let candidates = writes.get(&mark).cloned().unwrap_or_default();
        let write = candidates.iter().find(|write| is_done(write)).or(candidates.first());
        match write {
            Some(write) => chain.push(Link { change, write }),
            None => found.push(format!(
                "{key}: nobody asked for revision {} ({:?}) after {before:?}",
                change.revision, change.value
            )),
        }
        if candidates.iter().filter(|write| is_done(write)).count() > 1 {
            found.push(format!("{key}: revision {} was acknowledged twice", change.revision));
        }
        before = change.value.is_some().then_some(change.revision);
    }
    for operation in operations.iter().filter(|operation| is_done(operation)) {
        if !chain.iter().any(|link| std::ptr::eq(link.write, *operation)) {
            found.push(format!("{key}: an acknowledged write is lost: {:?}", operation.what));
        }
    }
    chain
}

fn is_done(operation: &Operation) -> bool {
    matches!(operation.what, What::Write { outcome: Outcome::Done, .. })
}

/// Checks that each operation comes after all that were answered before it began, and before all that began after its
/// answer.
fn order(key: &str, operations: &[&Operation], chain: &[Link<'_>], found: &mut Vec<String>) {
    // the place in the chain at which each operation was answered, as far as it is known
    let place = |operation: &Operation| match &operation.what {
        What::Write { .. } => chain.iter().position(|link| std::ptr::eq(link.write, operation)).map(|at| at + 1),
        What::Read(Some((revision, _))) => {
            chain.iter().position(|link| link.change.revision == *revision).map(|at| at + 1)
        }
        What::Read(None) => None,
    };
    let mut answered: Vec<(Instant, usize)> = operations
        .iter()
        .filter(|operation| is_done(operation) || matches!(operation.what, What::Read(Some(_))))
        .filter_map(|operation| Some((operation.ended, place(operation)?)))
        .collect();
    answered.sort_unstable();
    let floor = |begun: Instant| {
        let before = answered.partition_point(|(ended, _)| *ended < begun);
        answered[..before].iter().map(|(_, at)| *at).max().unwrap_or(0)
    };
    let began_before = |at: usize, ended: Instant| at == 0 || chain[at - 1].write.begun <= ended;
    for operation in operations {
        let floor = floor(operation.begun);
        match (&operation.what, place(operation)) {
            (What::Write { .. }, Some(at)) if at <= floor => {
                found.push(format!("{key}: {:?} happened before what was acknowledged earlier", operation.what));
            }
            (What::Read(Some((revision, value))), at) => {
                let told = at.filter(|at| chain[at - 1].change.value.as_ref() == Some(value));
                match told {
                    None => found.push(format!("{key}: a read found revision {revision}, which there never was")),
                    Some(at) if at < floor => {
                        found.push(format!("{key}: a read found the outdated revision {revision}"))
                    }
                    Some(at) if !began_before(at, operation.ended) => {
                        found.push(format!("{key}: a read found revision {revision} before it was asked for"));
                    }
                    Some(_) => {}
                }
            }
            (What::Read(None), _) => {
                let is_absent = |at: &usize| *at == 0 || chain[at - 1].change.value.is_none();
                if !(floor..=chain.len()).filter(is_absent).any(|at| began_before(at, operation.ended)) {
                    found.push(format!("{key}: a read found nothing, although there was something all the time"));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Made {
        start: Instant,
        operations: Vec<Operation>,
    }

    impl Made {
        fn at(&mut self, from: u64, to: u64, what: What) -> &mut Self {
            let time = |ms| self.start + Duration::from_millis(ms);
            self.operations.push(Operation { key: "k".into(), begun: time(from), ended: time(to), what });
            self
        }
    }

    fn made() -> Made {
        Made { start: Instant::now(), operations: Vec::new() }
    }

    fn write(expected: Option<u64>, value: Option<&str>, outcome: Outcome) -> What {
        What::Write { expected, value: value.map(str::to_owned), outcome }
    }

    fn change(revision: u64, value: Option<&str>) -> Change {
        Change { key: "k".into(), revision, value: value.map(str::to_owned) }
    }

    fn read(revision: u64, value: &str) -> What {
        What::Read(Some((revision, value.to_owned())))
    }

    #[test]
    fn a_history_that_can_be_explained_has_no_violation() {
        let mut history = made();
        history
            .at(0, 1, What::Read(None))
            .at(0, 10, write(None, Some("a"), Outcome::Done))
            .at(5, 8, What::Read(None))
            .at(11, 12, read(3, "a"))
            .at(13, 20, write(Some(3), Some("b"), Outcome::Unknown))
            .at(14, 15, write(Some(3), Some("c"), Outcome::Refused))
            .at(21, 22, write(Some(5), None, Outcome::Unknown))
            .at(21, 24, write(Some(5), None, Outcome::Done))
            .at(25, 26, What::Read(None));
        let changes = [change(3, Some("a")), change(5, Some("b")), change(9, None)];
        assert_eq!(violations(&history.operations, &changes), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let (a, b) = (change(3, Some("a")), change(5, Some("b")));
        let create = || write(None, Some("a"), Outcome::Done);
        let update = |outcome| write(Some(3), Some("b"), outcome);
        let mut lost = made();
        lost.at(0, 1, create()).at(2, 3, update(Outcome::Done));
        let mut ghost = made();
        ghost.at(0, 1, create()).at(2, 3, update(Outcome::Refused));
        let mut outdated = made();
        outdated.at(0, 1, create()).at(2, 3, update(Outcome::Done)).at(4, 5, read(3, "a"));
        let mut gone = made();
        gone.at(0, 1, create()).at(2, 3, What::Read(None));
        let mut early = made();
        early.at(0, 1, create()).at(1, 2, read(5, "b")).at(3, 4, update(Outcome::Done));
        let mut twice = made();
        twice.at(0, 1, create()).at(2, 3, write(Some(3), None, Outcome::Done)).at(
            2,
            3,
            write(Some(3), None, Outcome::Done),
        );
        for (history, changes, words) in [
            (lost, vec![a.clone()], "is lost"),
            (ghost, vec![a.clone(), b.clone()], "nobody asked for"),
            (outdated, vec![a.clone(), b.clone()], "outdated revision 3"),
            (gone, vec![a.clone()], "found nothing"),
            (early, vec![a.clone(), b.clone()], "before it was asked for"),
            (twice, vec![a.clone(), change(5, None)], "acknowledged twice"),
            (made(), vec![b, a], "told of revision 3 after 5"),
        ] {
            let found = violations(&history.operations, &changes);
            assert!(found.iter().any(|violation| violation.contains(words)), "{words}: {found:?}");
        }
    }
}
