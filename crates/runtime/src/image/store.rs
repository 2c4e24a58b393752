//! Images on disk: one record per image, one directory per unpacked layer, named by what it contains.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::reference::Reference;
use crate::{
    api::ImageStatus,
    spec::ImageProcess,
    state::{Durability, read_json, write_bytes, write_json},
};

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// `sha256:…` of the image's configuration.
    pub(crate) id: String,
    /// Canonical references with a tag.
    pub(crate) tags: Vec<String>,
    /// Canonical references with a digest and no tag.
    pub(crate) digests: Vec<String>,
    /// Digests of the uncompressed layers, lowest first.
    pub(crate) layers: Vec<String>,
    /// Bytes of all layers, unpacked.
    pub(crate) size: u64,
    pub(crate) process: ImageProcess,
}

impl ImageRecord {
    /// What the world sees of it.
    pub(crate) fn status(&self) -> ImageStatus {
        let user = self.process.user.split(':').next().unwrap_or_default();
        let uid = if user.is_empty() { Some(0) } else { user.parse().ok() };
        ImageStatus {
            id: self.id.clone(),
            repo_tags: self.tags.clone(),
            repo_digests: self.digests.clone(),
            size_bytes: self.size,
            uid,
            username: if uid.is_none() { Some(user.to_owned()) } else { None },
        }
    }
}

/// All images of the node.
pub(crate) struct ImageStore {
    directory: PathBuf,
    images: Mutex<BTreeMap<String, ImageRecord>>,
}

impl ImageStore {
    /// Opens the store and forgets what an interrupted pull has left.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let store = Self { directory: directory.to_owned(), images: Mutex::default() };
        match fs::remove_dir_all(store.temporary_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for directory in ["meta", "layers", "tmp"] {
            fs::create_dir_all(store.directory.join(directory))?;
        }
        let mut images = store.images.lock();
        for entry in fs::read_dir(store.directory.join("meta"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_json::<ImageRecord>(&path) {
                Ok(Some(image)) if image.layers.iter().all(|layer| store.layer(layer).is_dir()) => {
                    images.insert(image.id.clone(), image);
                }
                Ok(_) => tracing::warn!(path = %path.display(), "image lacks a layer, it will be pulled again"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "image record is unreadable"),
            }
        }
        drop(images);
        Ok(store)
    }

    /// Where unfinished things are kept; on the same file system as the finished ones.
    pub(super) fn temporary_dir(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    /// Directory of an unpacked layer's files.
    pub(crate) fn layer(&self, diff_id: &str) -> PathBuf {
        self.layer_home(diff_id).join("fs")
    }

    fn layer_home(&self, diff_id: &str) -> PathBuf {
        self.directory.join("layers").join(diff_id.trim_start_matches("sha256:"))
    }

    /// Bytes of a layer, if it is there.
    pub(super) fn layer_size(&self, diff_id: &str) -> Option<u64> {
        fs::read_to_string(self.layer_home(diff_id).join("size")).ok()?.parse().ok()
    }

    /// Makes an unpacked layer, with its files in `home/fs`, part of the store.
    pub(super) fn adopt_layer(&self, home: &Path, diff_id: &str, size: u64) -> io::Result<()> {
        write_bytes(&home.join("size"), size.to_string().as_bytes(), Durability::Process)?;
        match fs::rename(home, self.layer_home(diff_id)) {
            Err(error) if self.layer_size(diff_id).is_some() => {
                tracing::debug!(%error, diff_id, "layer was there already");
                fs::remove_dir_all(home)
            }
            other => other,
        }
    }

    /// Adds an image, or names to one. A tag belongs to the image that got it last.
    pub(super) fn insert(&self, mut image: ImageRecord) -> io::Result<ImageRecord> {
        let mut images = self.images.lock();
        if let Some(known) = images.get(&image.id) {
            for (names, known) in [(&mut image.tags, &known.tags), (&mut image.digests, &known.digests)] {
                for name in known {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
            }
        }
        let moved: Vec<String> = images
            .values()
            .filter(|other| other.id != image.id && other.tags.iter().any(|tag| image.tags.contains(tag)))
            .map(|other| other.id.clone())
            .collect();
        for id in moved {
            if let Some(other) = images.get_mut(&id) {
                other.tags.retain(|tag| !image.tags.contains(tag));
                write_json(&self.meta(&id), other, Durability::Machine)?;
            }
        }
        write_json(&self.meta(&image.id), &image, Durability::Machine)?;
        images.insert(image.id.clone(), image.clone());
        Ok(image)
    }

    fn meta(&self, id: &str) -> PathBuf {
        self.directory.join("meta").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    /// The image an id or a reference names.
    pub(crate) fn find(&self, name: &str) -> Option<ImageRecord> {
        let images = self.images.lock();
        if let Some(image) = images.get(name) {
            return Some(image.clone());
        }
        let reference = Reference::parse(name).ok()?;
        let wanted = match &reference.digest {
            Some(digest) => format!("{}@{digest}", reference.name()),
            None => reference.to_string(),
        };
        images.values().find(|image| image.tags.contains(&wanted) || image.digests.contains(&wanted)).cloned()
    }

    /// All images.
    pub(crate) fn list(&self) -> Vec<ImageRecord> {
        self.images.lock().values().cloned().collect()
    }

    /// Forgets an image and deletes the layers that neither another image nor `layers_in_use` needs.
    pub(crate) fn remove(&self, id: &str, layers_in_use: &HashSet<PathBuf>) -> io::Result<()> {
        let mut images = self.images.lock();
        let Some(image) = images.remove(id) else { return Ok(()) };
        match fs::remove_file(self.meta(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for layer in &image.layers {
            let needed = images.values().any(|other| other.layers.contains(layer));
            if !needed && !layers_in_use.contains(&self.layer(layer)) {
                // Out of its place first, so that an interrupted deletion leaves no half layer.
                let doomed = self.temporary_dir().join(format!("gone-{}", layer.trim_start_matches("sha256:")));
                match fs::rename(self.layer_home(layer), &doomed) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                }
                fs::remove_dir_all(doomed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: char, tags: &[&str], layers: &[&str]) -> ImageRecord {
        ImageRecord {
            id: format!("sha256:{}", id.to_string().repeat(64)),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digests: vec![format!("docker.io/library/a@sha256:{}", id.to_string().repeat(64))],
            layers: layers.iter().map(|layer| (*layer).to_owned()).collect(),
            size: 1,
            process: ImageProcess::default(),
        }
    }

    fn add_layer(store: &ImageStore, diff_id: &str) {
        let home = store.temporary_dir().join("new");
        fs::create_dir_all(home.join("fs")).unwrap();
        store.adopt_layer(&home, diff_id, 1).unwrap();
    }

    #[test]
    fn tag_moves_to_the_newer_image() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let tag = "docker.io/library/a:latest";
        store.insert(image('1', &[tag], &[])).unwrap();
        store.insert(image('2', &[tag], &[])).unwrap();
        let reopened = ImageStore::open(directory.path()).unwrap();
        assert_eq!(reopened.find("a").unwrap().id, image('2', &[], &[]).id);
        assert!(reopened.find(&image('1', &[], &[]).digests[0]).unwrap().tags.is_empty());
        assert_eq!(reopened.list().len(), 2);
    }

    #[test]
    fn layers_go_with_their_last_user() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        for layer in ["sha256:aa", "sha256:bb", "sha256:cc"] {
            add_layer(&store, layer);
        }
        store.insert(image('1', &[], &["sha256:aa", "sha256:bb", "sha256:cc"])).unwrap();
        store.insert(image('2', &[], &["sha256:aa"])).unwrap();
        let in_use = HashSet::from([store.layer("sha256:cc")]);
        store.remove(&image('1', &[], &[]).id, &in_use).unwrap();
        let there = |layer| store.layer(layer).exists();
        assert_eq!((there("sha256:aa"), there("sha256:bb"), there("sha256:cc")), (true, false, true));
    }

    #[test]
    fn image_without_a_layer_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        store.insert(image('1', &[], &["sha256:dd"])).unwrap();
        assert!(ImageStore::open(directory.path()).unwrap().list().is_empty());
    }
}
