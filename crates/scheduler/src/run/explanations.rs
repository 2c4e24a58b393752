//! What pods are to be told about why they wait. It matters less than what else is going on: of many pods that come together and
//! find no node, most are told a little later, and those that have got one meanwhile not at all.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use reconcile::{Key, Pace};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::pod::PodInfo;

/// Pods told at once, and beyond them in a second: fifty times what upstream asks of the API in all.
const BURST: u32 = 64;
const PER_SECOND: u32 = 1000;
/// Pods worth waking up for when more wait.
const PORTION: u32 = 8;
/// Pods in the order that may have been told already, beside those that wait.
const OUTDATED_MAX: usize = 256;

/// A change of a pod's status.
#[derive(Debug, PartialEq)]
pub(super) struct Explanation {
    pub(super) key: Key,
    /// Why it waits, as conditions.
    conditions: Option<Value>,
    /// The node that is made free for it, empty for none.
    nominated: Option<String>,
}

impl Explanation {
    /// The part of the status to be written.
    pub(super) fn status(self) -> Value {
        let mut status = json!({});
        if let Some(conditions) = self.conditions {
            status["conditions"] = conditions;
        }
        if let Some(node) = self.nominated {
            status["nominatedNodeName"] = node.into();
        }
        status
    }
}

/// What waits to be said, the newest only for each pod, by its uid.
pub(super) struct Explanations {
    waiting: HashMap<Arc<str>, Explanation>,
    order: VecDeque<Arc<str>>,
    pace: Pace,
}

impl Explanations {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), pace: Pace::new(BURST, PER_SECOND, PORTION) }
    }

    /// Why a pod waits, and for which node where that changes; `None` where it says so already.
    pub(super) fn explain(&mut self, pod: &PodInfo, conditions: Option<Value>, nominated: Option<&str>) {
        if conditions.is_some() || nominated.is_some() || self.waiting.contains_key(&pod.uid) {
            let explanation = self.of(&pod.key, &pod.uid);
            explanation.conditions = conditions;
            if nominated.is_some() {
                explanation.nominated = nominated.map(str::to_owned);
            }
        }
    }

    /// For which node a pod waits, and nothing else.
    pub(super) fn nominate(&mut self, key: &Key, uid: &Arc<str>, node: &str) {
        self.of(key, uid).nominated = Some(node.to_owned());
    }

    fn of(&mut self, key: &Key, uid: &Arc<str>) -> &mut Explanation {
        self.waiting.entry(Arc::clone(uid)).or_insert_with(|| {
            self.order.push_back(Arc::clone(uid));
            Explanation { key: key.clone(), conditions: None, nominated: None }
        })
    }

    /// The node that a pod is about to be told it waits for.
    pub(super) fn nominated(&self, uid: &str) -> Option<&str> {
        self.waiting.get(uid)?.nominated.as_deref()
    }

    /// Says nothing more to a pod that has a node or is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        if self.waiting.remove(uid).is_some() && self.order.len() > self.waiting.len() + OUTDATED_MAX {
            self.order.retain(|uid| self.waiting.contains_key(uid));
        }
    }

    /// The next one, if it is time for it.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Arc<str>, Explanation)> {
        while !self.waiting.is_empty() && self.pace.pause(now).is_zero() {
            let uid = self.order.pop_front()?;
            let Some(explanation) = self.waiting.remove(&uid) else { continue };
            if explanation.conditions.is_some() || explanation.nominated.is_some() {
                self.pace.spend();
                return Some((uid, explanation));
            }
        }
        None
    }

    /// When there is something to be said.
    pub(super) fn next_at(&mut self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| now + self.pace.pause(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pod(name: &str) -> PodInfo {
        PodInfo { key: Key::new("n", name), uid: name.into(), ..PodInfo::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_told_the_newest_once() {
        let now = Instant::now();
        let mut explanations = Explanations::new();
        explanations.explain(&pod("a"), Some(json!(["old"])), Some("n1"));
        explanations.explain(&pod("b"), Some(json!(["b"])), None);
        explanations.explain(&pod("a"), Some(json!(["new"])), None);
        assert_eq!(explanations.nominated("a"), Some("n1"));
        explanations.nominate(&pod("a").key, &pod("a").uid, "");
        let (uid, a) = explanations.next(now).unwrap();
        assert_eq!((&*uid, a.status()), ("a", json!({"conditions": ["new"], "nominatedNodeName": ""})));
        assert_eq!(explanations.next(now).unwrap().1.status(), json!({"conditions": ["b"]}));
        assert_eq!(explanations.next(now), None);
        assert_eq!(explanations.next_at(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_so_already_or_has_a_node_is_told_nothing() {
        let now = Instant::now();
        let mut explanations = Explanations::new();
        explanations.explain(&pod("a"), None, None);
        assert_eq!(explanations.next_at(now), None);
        explanations.explain(&pod("a"), Some(json!(["old"])), None);
        explanations.explain(&pod("a"), None, None);
        assert_eq!(explanations.next(now), None, "it has the newest");
        explanations.explain(&pod("b"), Some(json!(["b"])), Some("n1"));
        explanations.forget("b");
        assert_eq!(explanations.next(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_burst_most_are_told_later() {
        let start = Instant::now();
        let mut explanations = Explanations::new();
        for number in 0..1064 {
            explanations.explain(&pod(&number.to_string()), Some(json!([])), None);
        }
        let at_once = std::iter::from_fn(|| explanations.next(start)).count();
        assert_eq!(at_once, BURST as usize);
        let later = explanations.next_at(start).unwrap();
        assert_eq!(later - start, Duration::from_millis(8));
        assert_eq!(std::iter::from_fn(|| explanations.next(later)).count(), PORTION as usize);
        for number in 0..1064 {
            explanations.forget(&number.to_string());
        }
        assert!(explanations.order.len() <= OUTDATED_MAX);
        assert_eq!(explanations.next_at(later), None);
    }
}
