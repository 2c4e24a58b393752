//! ImageLocality: nodes are better that have the pod's images already, the more so the larger these are; an image that few
//! nodes have counts less, lest all pods crowd there.

use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Plugin, SCORE_MAX, Scope, Score};
use crate::shape::Shape;
use crate::snapshot::Snapshot;

/// Less than this is fetched soon enough.
const BYTES_MIN: i64 = 23 << 20;
/// More than this per container makes no further difference.
const CONTAINER_BYTES_MAX: i64 = 1000 << 20;

pub(crate) struct ImageLocality;

struct Images {
    /// Images some node has, with what having them is worth.
    worth: Vec<(Arc<str>, i64)>,
    bytes_max: i64,
}

impl Plugin for ImageLocality {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn stamp(&self, snapshot: &Snapshot, _: &Shape) -> u64 {
        (snapshot.images_version << 24) + snapshot.node_count() as u64
    }

    fn score(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        let nodes = i64::try_from(snapshot.node_count()).unwrap_or(i64::MAX).max(1);
        let known = shape.images.iter().filter_map(|image| snapshot.image(image));
        let worth: Vec<_> = known
            .map(|(name, bytes, having)| {
                let worth = i128::from(bytes) * i128::from(having) / i128::from(nodes);
                (Arc::clone(name), i64::try_from(worth).unwrap_or(i64::MAX))
            })
            .collect();
        let containers = i64::try_from(shape.images.len()).unwrap_or(1);
        (!worth.is_empty()).then(|| {
            let bytes_max = CONTAINER_BYTES_MAX.saturating_mul(containers);
            Box::new(Images { worth, bytes_max }) as Box<dyn Score>
        })
    }
}

impl Score for Images {
    fn raw(&self, _: &Snapshot, node: &NodeInfo) -> i64 {
        let here = self.worth.iter().filter(|(name, _)| node.images.iter().any(|image| Arc::ptr_eq(image, name)));
        let bytes = here.map(|(_, worth)| *worth).fold(0, i64::saturating_add).clamp(BYTES_MIN, self.bytes_max);
        SCORE_MAX * (bytes - BYTES_MIN) / (self.bytes_max - BYTES_MIN)
    }
}
