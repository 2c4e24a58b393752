//! The rules for one hostname, found by path.

use std::{cmp::Reverse, sync::Arc};

use super::{
    cow::CowMap,
    guards::Inherited,
    matching::{PathMatch, Rank, RequestHead, RequestMatch},
    rule::{Owner, Rule},
};

/// A condition, its rule, and what decides between equally specific ones.
#[derive(Debug)]
pub struct Entry {
    /// The condition.
    pub condition: RequestMatch,
    /// Whose it is and its place there.
    pub rank: Rank,
    /// What happens to requests that fulfil it.
    pub rule: Arc<Rule>,
    /// What the rule gets from its listener where it has nothing of its own.
    pub inherited: Option<Arc<Inherited>>,
}

impl Entry {
    /// A rule behind a listener without policies.
    pub fn new(condition: RequestMatch, rank: Rank, rule: Arc<Rule>) -> Self {
        Entry { condition, rank, rule, inherited: None }
    }
}

/// Conditions on one path, the first that takes a request wins.
type Entries = Arc<Vec<Arc<Entry>>>;

/// The rules for one hostname. What a lookup costs depends on the path, not on the number of rules.
#[derive(Clone, Debug, Default)]
pub(super) struct HostRules {
    exact: CowMap<Entries>,
    prefixes: CowMap<Entries>,
    /// Patterns are tried one after the other, the longest first.
    patterns: Entries,
    /// Elements of the longest prefix there ever was: deeper parts of a path cannot end one.
    depth: usize,
}

impl HostRules {
    /// The rule that takes a request: an exact path before a pattern before the longest prefix, unless the prefix is
    /// longer than the pattern of an Ingress.
    pub(super) fn find(&self, head: &RequestHead<'_>, random: u64) -> Option<&Entry> {
        if let Some(found) = take(self.exact.get(head.path), head, random) {
            return Some(found);
        }
        let pattern = take(Some(&self.patterns), head, random);
        if self.prefixes.is_empty() {
            return pattern;
        }
        let mut end = self.deepest(head.path);
        loop {
            if pattern.is_some_and(|pattern| end <= pattern.condition.path.outranks()) {
                return pattern;
            }
            if let Some(found) = take(self.prefixes.get(&head.path[..end]), head, random) {
                return Some(found);
            }
            match head.path[..end].rfind('/') {
                Some(shorter) => end = shorter,
                None => return pattern,
            }
        }
    }

    /// Where the longest part of a path ends that could be a prefix.
    fn deepest(&self, path: &str) -> usize {
        path.match_indices('/').nth(self.depth).map_or(path.len(), |(at, _)| at)
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>) {
        if let PathMatch::Prefix(prefix) = &entry.condition.path {
            self.depth = self.depth.max(prefix.matches('/').count());
        }
        self.at(&entry.condition.path.clone(), |entries| {
            let at = entries.partition_point(|other| order(other) <= order(&entry));
            entries.insert(at, entry);
        });
    }

    /// Removes what an owner has on a path.
    pub(super) fn remove(&mut self, path: &PathMatch, owner: &Owner) {
        self.at(path, |entries| entries.retain(|entry| entry.rule.owner != *owner));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.patterns.is_empty()
    }

    fn at(&mut self, path: &PathMatch, change: impl FnOnce(&mut Vec<Arc<Entry>>)) {
        let change = |value: &mut Option<Entries>| {
            let entries = value.get_or_insert_default();
            change(Arc::make_mut(entries));
            if entries.is_empty() {
                *value = None;
            }
        };
        match path {
            PathMatch::Exact(path) => self.exact.change(path, change),
            PathMatch::Prefix(prefix) => self.prefixes.change(prefix, change),
            PathMatch::Pattern(_) | PathMatch::Location { .. } | PathMatch::InOrder { .. } => {
                let mut patterns = Some(std::mem::take(&mut self.patterns));
                change(&mut patterns);
                self.patterns = patterns.unwrap_or_default();
            }
        }
    }
}

fn take<'a>(entries: Option<&'a Entries>, head: &RequestHead<'_>, random: u64) -> Option<&'a Entry> {
    entries?.iter().find(|entry| entry.condition.takes(head, random)).map(|entry| &**entry)
}

/// Among conditions on the same path the smallest wins: those with a method, the most headers, the most cookies, the most
/// parameters; among patterns those for whole paths, then the longest; a canary comes before what it stands beside.
fn order(entry: &Entry) -> impl Ord + use<'_> {
    let condition = &entry.condition;
    let (first, none) = (Reverse((true, usize::MAX)), (Reverse(0), Reverse(0), Reverse(0)));
    let pattern = match &condition.path {
        // Those that have an order of their own come first, and only that counts among them.
        PathMatch::InOrder { .. } => return (first, false, none, true, &entry.rank),
        PathMatch::Pattern(pattern) => (true, pattern.as_str().len()),
        PathMatch::Location { length, .. } => (false, *length),
        PathMatch::Exact(_) | PathMatch::Prefix(_) => (false, 0),
    };
    let (headers, query) = (Reverse(condition.headers.len()), Reverse(condition.query.len()));
    let more = (headers, Reverse(condition.cookies.len()), query);
    (Reverse(pattern), condition.method.is_none(), more, condition.canary.is_none(), &entry.rank)
}
