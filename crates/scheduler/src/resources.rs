//! What a pod asks for, as fitting and scoring count it.

use k8s_openapi::api::core::v1::Pod;
pub use kinds::demand::Resources;
use kinds::demand::{requests, requests_with};

/// What a container without a CPU request counts as in scoring, upstream's value: it will use something.
const SCORE_CPU_MILLI_DEFAULT: i64 = 100;
/// What a container without a memory request counts as in scoring, upstream's value.
const SCORE_MEMORY_BYTES_DEFAULT: i64 = 200 << 20;

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Requests {
    /// What the node must have free.
    pub(crate) fit: Resources,
    /// CPU (thousandths) and memory (bytes) as scoring counts them: containers that ask for nothing count as well.
    pub(crate) score: (i64, i64),
}

impl Requests {
    /// What `pod` asks for.
    pub(crate) fn of(pod: &Pod) -> Self {
        let score = requests_with(pod, |container, requests| {
            let requested = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let missing = |name: &str| requested.is_none_or(|requested| !requested.contains_key(name));
            if missing("cpu") {
                requests.cpu_milli = SCORE_CPU_MILLI_DEFAULT;
            }
            if missing("memory") {
                requests.memory_bytes = SCORE_MEMORY_BYTES_DEFAULT;
            }
        });
        Self { fit: requests(pod), score: (score.cpu_milli, score.memory_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_that_ask_for_nothing_count_in_scores() {
        let spec = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "300m"}}}, {"name": "b"},
            {"name": "c", "resources": {"requests": {"cpu": "0"}}}]});
        let requests = Requests::of(&serde_json::from_value(json!({"spec": spec})).unwrap());
        assert_eq!(requests.fit.cpu_milli, 300);
        assert_eq!(requests.score, (400, 3 * (200 << 20)), "an explicit zero is a zero");
    }
}
