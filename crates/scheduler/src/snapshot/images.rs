//! Images, and how many nodes have them.

use std::sync::Arc;

use super::Snapshot;

/// An image that some nodes have.
#[derive(Clone, Debug)]
pub(super) struct Image {
    bytes: i64,
    nodes: u32,
}

impl Snapshot {
    pub(super) fn set_images(&mut self, slot: u32, images: &[(String, i64)]) {
        self.images_version += 1;
        let before = std::mem::take(&mut self.nodes[slot as usize].images);
        for (name, bytes) in images {
            let name = match self.images.get_key_value(name.as_str()) {
                Some((name, _)) => Arc::clone(name),
                None => Arc::from(name.as_str()),
            };
            let image = self.images.entry(Arc::clone(&name)).or_insert(Image { bytes: *bytes, nodes: 0 });
            image.bytes = *bytes;
            image.nodes += 1;
            self.nodes[slot as usize].images.push(name);
        }
        for name in before {
            if let Some(image) = self.images.get_mut(&name) {
                image.nodes -= 1;
                if image.nodes == 0 {
                    self.images.remove(&name);
                }
            }
        }
    }

    /// Size of an image, and how many nodes have it.
    pub(crate) fn image(&self, name: &str) -> Option<(&Arc<str>, i64, u32)> {
        self.images.get_key_value(name).map(|(name, image)| (name, image.bytes, image.nodes))
    }
}
