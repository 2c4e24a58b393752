//! What somebody has to know of every object with a value, kept beside the cache: decoded objects are large, and only some are
//! kept decoded, so that whoever looks at many again and again should not look at the objects.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::Object;
use crate::path::Path;

/// Follows the objects of a cache: it hears of a change in the moment in which the cache shows it.
pub(crate) trait Follower<K>: Send + Sync {
    /// `new` takes the place of `old`.
    fn change(&self, old: Option<&K>, new: Option<&K>, path: &Path);
}

type ValueFn<K> = Box<dyn Fn(&K) -> Option<String> + Send + Sync>;
type FactFn<K, F> = Box<dyn Fn(&K, Option<&F>) -> F + Send + Sync>;

pub(crate) struct FactsData<K, F> {
    value_of: ValueFn<K>,
    fact_of: FactFn<K, F>,
    entries: RwLock<HashMap<Box<str>, HashMap<Path, F>>>,
}

impl<K: Object, F: Send + Sync> Follower<K> for FactsData<K, F> {
    fn change(&self, old: Option<&K>, new: Option<&K>, path: &Path) {
        let before = old.and_then(|old| (self.value_of)(old));
        let after = new.and_then(|new| (self.value_of)(new));
        let mut entries = self.entries.write();
        if let Some(before) = before.filter(|before| after.as_ref() != Some(before))
            && let Some(facts) = entries.get_mut(&*before)
        {
            facts.remove(path);
            if facts.is_empty() {
                entries.remove(&*before);
            }
        }
        if let (Some(new), Some(after)) = (new, after) {
            let facts = match entries.get_mut(&*after) {
                Some(facts) => facts,
                None => entries.entry(after.into()).or_default(),
            };
            let fact = (self.fact_of)(new, facts.values().next());
            facts.insert(path.clone(), fact);
        }
    }
}

/// Facts about the objects of an informer by a value computed from each, kept current incrementally.
pub struct Facts<K, F>(Arc<FactsData<K, F>>);

impl<K: Object, F: Clone + Send + Sync + 'static> Facts<K, F> {
    pub(crate) fn new(
        value_of: impl Fn(&K) -> Option<String> + Send + Sync + 'static,
        fact_of: impl Fn(&K, Option<&F>) -> F + Send + Sync + 'static,
    ) -> Self {
        let (value_of, fact_of) = (Box::new(value_of), Box::new(fact_of));
        Self(Arc::new(FactsData { value_of, fact_of, entries: RwLock::new(HashMap::new()) }))
    }

    pub(crate) fn follower(&self) -> Arc<dyn Follower<K>> {
        Arc::clone(&self.0) as Arc<dyn Follower<K>>
    }

    /// The facts about the objects with this value, in no order.
    pub fn get(&self, value: &str) -> Vec<F> {
        self.0.entries.read().get(value).map(|facts| facts.values().cloned().collect()).unwrap_or_default()
    }
}
