//! Where an object is inside its kind, in one piece of memory that all share who keep the object.

use std::cmp::Ordering;
use std::sync::Arc;

use kube::Resource;

/// Namespace and name: `namespace/name`, or `name` where the kind has no namespaces. Ordered by the one, then by the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Path(Arc<str>);

impl Path {
    /// Of an object; `known` is what the process calls it already.
    pub(crate) fn of<K: Resource>(object: &K, known: Option<Arc<str>>) -> Self {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        match known.map(Self) {
            Some(known) if known.parts() == (namespace, name) => known,
            _ => Self::new(namespace, name),
        }
    }

    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self(match namespace {
            "" => name.into(),
            namespace => [namespace, "/", name].concat().into(),
        })
    }

    fn parts(&self) -> (&str, &str) {
        // neither has a slash: both are parts of URLs
        self.0.split_once('/').unwrap_or(("", &self.0))
    }

    /// Empty where the kind has no namespaces.
    pub(crate) fn namespace(&self) -> &str {
        self.parts().0
    }

    pub(crate) fn name(&self) -> &str {
        self.parts().1
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn paths_are_in_the_order_of_namespaces_and_then_of_names() {
        let mut paths = [("a-b", "x"), ("a", "y"), ("a", "x"), ("", "z"), ("a", "x-1")].map(|(n, m)| Path::new(n, m));
        paths.sort();
        let found: Vec<_> = paths.iter().map(|path| (path.namespace(), path.name())).collect();
        assert_eq!(found, [("", "z"), ("a", "x"), ("a", "x-1"), ("a", "y"), ("a-b", "x")]);
    }

    #[test]
    fn what_the_process_has_already_is_shared_if_it_says_the_same() {
        let mut object = ConfigMap::default();
        (object.metadata.namespace, object.metadata.name) = (Some("default".into()), Some("a".into()));
        let known: Arc<str> = "default/a".into();
        assert!(Arc::ptr_eq(&Path::of(&object, Some(Arc::clone(&known))).0, &known));
        assert_eq!(Path::of(&object, Some("default/b".into())), Path(known));
        assert_eq!(Path::of(&object, None), Path::new("default", "a"));
    }
}
