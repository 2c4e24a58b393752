//! Uploads in progress: what has come so far, and its digest so far.

use std::collections::HashMap;
use std::io::{self, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyStream;
use hyper::body::Body;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{Refusal, StorageError};
use super::storage::Storage;
use crate::digest::Digest;
use crate::registry::BoxError;

/// Uploads open at once. A client pushes a handful of layers side by side.
const UPLOADS_MAX: usize = 512;
/// How long an upload may rest before its place is given to a new one.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// How long a body may stand still.
const BODY_IDLE: Duration = Duration::from_secs(60);
/// The largest blob: larger than any layer in use, small enough to stop a runaway client before the disk is full.
pub(crate) const BLOB_MAX: u64 = 32 * 1024 * 1024 * 1024;

/// The uploads of this process.
#[derive(Debug, Default)]
pub(crate) struct Uploads(parking_lot::Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    name: String,
    touched: Instant,
    upload: Arc<Mutex<Upload>>,
}

/// One upload.
#[derive(Debug)]
pub(crate) struct Upload {
    id: String,
    file: File,
    hasher: Sha256,
    state: State,
    /// Bytes so far.
    pub(crate) offset: u64,
}

/// Whether more may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file holds exactly what was hashed.
    Open,
    /// The request was dropped amid a write: the file may hold more than was hashed.
    Torn,
    /// A write failed, or the file is a blob by now.
    Closed,
}

impl Uploads {
    /// Opens an upload to a repository.
    pub(crate) async fn begin(&self, storage: &Storage, name: &str) -> Result<(String, Arc<Mutex<Upload>>), Refusal> {
        let id = uuid::Uuid::new_v4().to_string();
        self.expire(storage).await;
        let path = storage.upload_path(&id);
        let file = File::create(&path).await.map_err(|source| StorageError::Io { action: "create", path, source })?;
        let upload = Arc::new(Mutex::new(Upload::new(id.clone(), file)));
        let entry = Entry { name: name.to_owned(), touched: Instant::now(), upload: Arc::clone(&upload) };
        let full = {
            let mut entries = self.0.lock();
            let full = entries.len() >= UPLOADS_MAX;
            if !full {
                entries.insert(id.clone(), entry);
            }
            full
        };
        if full {
            remove(storage, &id).await;
            return Err(Refusal::TooManyUploads);
        }
        Ok((id, upload))
    }

    /// An open upload to a repository.
    pub(crate) fn get(&self, name: &str, id: &str) -> Result<Arc<Mutex<Upload>>, Refusal> {
        let mut entries = self.0.lock();
        let entry = entries.get_mut(id).filter(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| Refusal::UploadUnknown(id.to_owned()))?;
        entry.touched = Instant::now();
        Ok(Arc::clone(&entry.upload))
    }

    /// Ends an upload, whatever became of it.
    pub(crate) async fn end(&self, storage: &Storage, id: &str) {
        self.0.lock().remove(id);
        remove(storage, id).await;
    }

    async fn expire(&self, storage: &Storage) {
        let mut expired = Vec::new();
        self.0.lock().retain(|id, entry| {
            let keep = entry.touched.elapsed() < IDLE_MAX || entry.upload.try_lock().is_err();
            if !keep {
                expired.push(id.clone());
            }
            keep
        });
        for id in expired {
            remove(storage, &id).await;
        }
    }
}

/// Removes an upload's file. A finished upload has been renamed away, so that there is none; what cannot be removed goes
/// when the folder is opened the next time.
async fn remove(storage: &Storage, id: &str) {
    let path = storage.upload_path(id);
    if let Err(error) = tokio::fs::remove_file(&path).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "upload not removed");
    }
}

impl Upload {
    fn new(id: String, file: File) -> Self {
        Self { id, file, hasher: Sha256::new(), state: State::Open, offset: 0 }
    }

    /// Appends a request's body. When it ends early, what has come stays, and the client may go on from there; dropping
    /// this amid a write is mended by the next call.
    pub(crate) async fn append<B>(&mut self, storage: &Storage, body: B) -> Result<(), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        self.mend(storage).await?;
        let mut frames = BodyStream::new(body);
        loop {
            let frame =
                tokio::time::timeout(BODY_IDLE, frames.next()).await.map_err(|late| Refusal::Body(late.into()))?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(|error| Refusal::Body(error.into()))?.into_data() else { continue };
            if self.offset + data.len() as u64 > BLOB_MAX {
                return Err(Refusal::TooLarge(BLOB_MAX));
            }
            self.state = State::Torn;
            let written = self.file.write_all(&data).await;
            self.check(storage, written)?;
            self.hasher.update(&data);
            self.offset += data.len() as u64;
            self.state = State::Open;
        }
        let flushed = self.file.flush().await;
        self.check(storage, flushed)
    }

    /// Takes away what a torn write left in the file.
    async fn mend(&mut self, storage: &Storage) -> Result<(), Refusal> {
        match self.state {
            State::Open => return Ok(()),
            State::Closed => return Err(Refusal::UploadUnknown(self.id.clone())),
            State::Torn => {}
        }
        let cut = async {
            self.file.set_len(self.offset).await?;
            self.file.seek(SeekFrom::Start(self.offset)).await?;
            self.file.flush().await
        };
        let cut = cut.await;
        self.check(storage, cut)?;
        self.state = State::Open;
        Ok(())
    }

    /// Closes the upload when writing failed: a later success could not tell which bytes are missing.
    fn check(&mut self, storage: &Storage, result: io::Result<()>) -> Result<(), Refusal> {
        let path = storage.upload_path(&self.id);
        result.map_err(|source| {
            self.state = State::Closed;
            StorageError::Io { action: "write", path, source }.into()
        })
    }

    /// Checks the digest, and brings the content to the disk. Nothing can be appended from then on: the file is about to
    /// become a blob.
    pub(crate) async fn finish(&mut self, storage: &Storage, wanted: Digest) -> Result<(), Refusal> {
        self.mend(storage).await?;
        self.state = State::Closed;
        let found = Digest::finish(self.hasher.clone());
        if found != wanted {
            return Err(Refusal::DigestInvalid(format!("content has digest {found}, not {wanted}")));
        }
        let synced = self.file.sync_all().await;
        self.check(storage, synced)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn body(text: &'static str) -> Full<Bytes> {
        Full::new(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_torn_write_leaves_no_trace_in_the_blob() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let uploads = Uploads::default();
        let (id, upload) = uploads.begin(&storage, "a").await.unwrap();
        let mut upload = upload.lock().await;
        upload.append(&storage, body("first ")).await.unwrap();
        upload.file.write_all(b"half a wri").await.unwrap();
        upload.state = State::Torn;
        upload.append(&storage, body("second")).await.unwrap();
        upload.finish(&storage, Digest::of(b"first second")).await.unwrap();
        assert_eq!(std::fs::read(storage.upload_path(&id)).unwrap(), b"first second");
    }

    #[tokio::test]
    async fn a_finished_upload_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let uploads = Uploads::default();
        let (id, upload) = uploads.begin(&storage, "a").await.unwrap();
        let mut upload = upload.lock().await;
        upload.append(&storage, body("x")).await.unwrap();
        upload.finish(&storage, Digest::of(b"x")).await.unwrap();
        storage.commit_upload(&id, "a", Digest::of(b"x")).unwrap();
        let refused = upload.append(&storage, body("y")).await;
        assert!(matches!(refused, Err(Refusal::UploadUnknown(_))));
        assert_eq!(std::fs::read(storage.blob_path(Digest::of(b"x"))).unwrap(), b"x");
    }
}
