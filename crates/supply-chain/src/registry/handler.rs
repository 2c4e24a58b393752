//! The requests of the distribution API, one function each.

use std::io::SeekFrom;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LINK, LOCATION, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::{Refusal, StorageError};
use super::route::{ManifestRef, Route, byte_range, digest, parameter, route};
use super::storage::{Storage, StoredManifest};
use super::upload::Uploads;
use super::{Body, BoxError, RegistryOptions};
use crate::digest::Digest;
use crate::oci::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, IMAGE_INDEX, IMAGE_MANIFEST, Manifest};

/// The largest manifest, as the specification asks for.
const MANIFEST_MAX: u64 = 4 * 1024 * 1024;
/// Names in one page when the client does not say.
const PAGE_DEFAULT: usize = 1000;
/// Names in one page at most.
const PAGE_MAX: usize = 10_000;
/// Bytes read from a blob at once.
const READ_SIZE: usize = 64 * 1024;
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

type Answer = Result<Response<Body>, Refusal>;

/// What requests work on.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) storage: Arc<Storage>,
    pub(super) uploads: Uploads,
    pub(super) options: RegistryOptions,
}

impl Handler {
    /// Answers a request.
    pub(super) async fn handle<B>(&self, request: http::Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let answer = match route(parts.uri.path()) {
            None => return plain(StatusCode::NOT_FOUND),
            Some(Err(refusal)) => Err(refusal),
            Some(Ok(route)) => self.dispatch(route, &parts, body).await,
        };
        let mut response = answer.unwrap_or_else(|refusal| refused(&refusal, &parts));
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        response
    }

    async fn dispatch<B>(&self, route: Route, parts: &Parts, body: B) -> Answer
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let query = parts.uri.query();
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        match (&parts.method, route) {
            (_, Route::Base) if reads => json_body("application/json", &json!({})),
            (_, Route::Catalog) if reads => self.catalog(query).await,
            (&Method::POST, Route::Uploads { name }) => self.start_upload(&name, query, body).await,
            (_, Route::Upload { name, id }) if reads => {
                let offset = self.uploads.get(&name, &id)?.lock().await.offset;
                Ok(upload_status(StatusCode::NO_CONTENT, &name, &id, offset))
            }
            (&Method::PATCH, Route::Upload { name, id }) => self.chunk(&name, &id, &parts.headers, body).await,
            (&Method::PUT, Route::Upload { name, id }) => self.finish_upload(&name, &id, parts, body).await,
            (&Method::DELETE, Route::Upload { name, id }) => {
                self.uploads.get(&name, &id)?;
                self.uploads.end(&self.storage, &id).await;
                Ok(plain(StatusCode::NO_CONTENT))
            }
            (_, Route::Blob { name, digest }) if reads => self.blob(name, digest, parts).await,
            (&Method::DELETE, Route::Blob { name, digest }) => {
                self.may_delete()?;
                self.disk(move |storage| storage.unlink_blob(&name, digest)).await?;
                Ok(plain(StatusCode::ACCEPTED))
            }
            (_, Route::Manifest { name, reference }) if reads => self.manifest(name, reference).await,
            (&Method::PUT, Route::Manifest { name, reference }) => {
                self.put_manifest(name, reference, &parts.headers, body).await
            }
            (&Method::DELETE, Route::Manifest { name, reference }) => self.delete_manifest(name, reference).await,
            (_, Route::Tags { name }) if reads => self.tags(name, query).await,
            (_, Route::Referrers { name, digest }) if reads => self.referrers(name, digest, query).await,
            _ => Err(Refusal::Unsupported("the path does not take this method")),
        }
    }

    /// Runs work on the disk off the async threads.
    async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Storage) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let storage = Arc::clone(&self.storage);
        match tokio::task::spawn_blocking(move || work(&storage)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(Refusal::Body(error.into())),
            },
        }
    }

    fn may_delete(&self) -> Result<(), Refusal> {
        if self.options.allow_delete { Ok(()) } else { Err(Refusal::Unsupported("deleting is switched off")) }
    }

    async fn start_upload<B>(&self, name: &str, query: Option<&str>, body: B) -> Answer
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        if let Some(mount) = parameter(query, "mount") {
            let (mount, from, name) = (digest(&mount)?, parameter(query, "from"), name.to_owned());
            if from.as_deref().is_some_and(|from| !crate::reference::is_repository(from)) {
                return Err(Refusal::NameInvalid(from.unwrap_or_default()));
            }
            let repository = name.clone();
            let mounted = self.disk(move |storage| Ok(storage.mount(&name, from.as_deref(), mount)?)).await?;
            if mounted {
                return Ok(created(&format!("/v2/{repository}/blobs/{mount}"), mount));
            }
            let (id, _) = self.uploads.begin(&self.storage, &repository).await?;
            return Ok(upload_status(StatusCode::ACCEPTED, &repository, &id, 0));
        }
        let wanted = parameter(query, "digest").map(|wanted| digest(&wanted)).transpose()?;
        let (id, upload) = self.uploads.begin(&self.storage, name).await?;
        let Some(wanted) = wanted else { return Ok(upload_status(StatusCode::ACCEPTED, name, &id, 0)) };
        let result = async {
            let mut upload = upload.lock().await;
            upload.append(&self.storage, body).await?;
            upload.finish(&self.storage, wanted).await?;
            self.commit(&id, name, wanted).await
        }
        .await;
        self.uploads.end(&self.storage, &id).await;
        result
    }

    async fn chunk<B>(&self, name: &str, id: &str, headers: &HeaderMap, body: B) -> Answer
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let upload = self.uploads.get(name, id)?;
        let mut upload = upload.lock().await;
        check_order(headers, name, id, upload.offset)?;
        upload.append(&self.storage, body).await?;
        Ok(upload_status(StatusCode::ACCEPTED, name, id, upload.offset))
    }

    async fn finish_upload<B>(&self, name: &str, id: &str, parts: &Parts, body: B) -> Answer
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let wanted = parameter(parts.uri.query(), "digest")
            .ok_or_else(|| Refusal::DigestInvalid("the parameter digest is missing".into()))?;
        let wanted = digest(&wanted)?;
        let upload = self.uploads.get(name, id)?;
        let mut upload = upload.lock().await;
        check_order(&parts.headers, name, id, upload.offset)?;
        upload.append(&self.storage, body).await?;
        let result = match upload.finish(&self.storage, wanted).await {
            Ok(()) => self.commit(id, name, wanted).await,
            Err(refusal) => Err(refusal),
        };
        // Bytes cannot be taken back, so an upload with the wrong digest never becomes right.
        self.uploads.end(&self.storage, id).await;
        result
    }

    async fn commit(&self, id: &str, name: &str, digest: Digest) -> Answer {
        let location = format!("/v2/{name}/blobs/{digest}");
        let (id, name) = (id.to_owned(), name.to_owned());
        self.disk(move |storage| Ok(storage.commit_upload(&id, &name, digest)?)).await?;
        Ok(created(&location, digest))
    }

    async fn blob(&self, name: String, digest: Digest, parts: &Parts) -> Answer {
        let size = self.disk(move |storage| storage.blob_size(&name, digest)).await?;
        let range = byte_range(parts.headers.get(RANGE).and_then(|range| range.to_str().ok()), size)?;
        let (start, length) = range.unwrap_or((0, size));
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, length.into());
        headers.insert(CONTENT_DIGEST, header(&digest.to_string()));
        headers.insert(ETAG, header(&format!("\"{digest}\"")));
        if range.is_some() {
            headers.insert(CONTENT_RANGE, header(&format!("bytes {start}-{}/{size}", start + length - 1)));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if parts.method == Method::GET {
            let path = self.storage.blob_path(digest);
            let open = async {
                let mut file = tokio::fs::File::open(&path).await?;
                file.seek(SeekFrom::Start(start)).await?;
                Ok(file)
            };
            let file = open.await.map_err(|source| StorageError::Io { action: "read", path: path.clone(), source })?;
            let frames = ReaderStream::with_capacity(file.take(length), READ_SIZE);
            *response.body_mut() = StreamBody::new(frames.map_ok(Frame::data).map_err(BoxError::from)).boxed_unsync();
        }
        Ok(response)
    }

    async fn stored(&self, name: String, reference: ManifestRef) -> Result<StoredManifest, Refusal> {
        self.disk(move |storage| {
            let unknown = || match &reference {
                ManifestRef::Tag(tag) => Refusal::ManifestUnknown(format!("{name}:{tag}")),
                ManifestRef::Digest(digest) => Refusal::ManifestUnknown(format!("{name}@{digest}")),
            };
            let digest = match &reference {
                ManifestRef::Tag(tag) => storage.tag(&name, tag)?.ok_or_else(unknown)?,
                ManifestRef::Digest(digest) => *digest,
            };
            storage.manifest(&name, digest)?.ok_or_else(unknown)
        })
        .await
    }

    async fn manifest(&self, name: String, reference: ManifestRef) -> Answer {
        let stored = self.stored(name, reference).await?;
        let mut response = Response::new(full(stored.content));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, header(&stored.media_type));
        headers.insert(CONTENT_DIGEST, header(&stored.digest.to_string()));
        headers.insert(ETAG, header(&format!("\"{}\"", stored.digest)));
        Ok(response)
    }

    async fn put_manifest<B>(&self, name: String, reference: ManifestRef, headers: &HeaderMap, body: B) -> Answer
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let content = Limited::new(body, MANIFEST_MAX as usize).collect().await.map_err(|error| {
            let is_length = error.downcast_ref::<http_body_util::LengthLimitError>().is_some();
            if is_length { Refusal::TooLarge(MANIFEST_MAX) } else { Refusal::Body(error) }
        })?;
        let content = content.to_bytes();
        let (media_type, manifest) = read_manifest(headers, &content)?;
        let tag = match reference {
            ManifestRef::Tag(tag) => Some(tag),
            ManifestRef::Digest(wanted) if wanted == Digest::of(&content) => None,
            ManifestRef::Digest(wanted) => {
                let found = Digest::of(&content);
                return Err(Refusal::DigestInvalid(format!("manifest has digest {found}, not {wanted}")));
            }
        };
        let subject = manifest.subject.as_ref().map(|subject| subject.digest);
        let repository = name.clone();
        let put =
            move |storage: &Storage| storage.put_manifest(&name, tag.as_deref(), &media_type, &content, &manifest);
        let digest = self.disk(put).await?;
        let mut response = created(&format!("/v2/{repository}/manifests/{digest}"), digest);
        if let Some(subject) = subject {
            response.headers_mut().insert(OCI_SUBJECT, header(&subject.to_string()));
        }
        Ok(response)
    }

    async fn delete_manifest(&self, name: String, reference: ManifestRef) -> Answer {
        self.may_delete()?;
        self.disk(move |storage| {
            let (removed, what) = match reference {
                ManifestRef::Tag(tag) => (storage.remove_tag(&name, &tag)?, format!("{name}:{tag}")),
                ManifestRef::Digest(digest) => (storage.remove_manifest(&name, digest)?, format!("{name}@{digest}")),
            };
            if removed { Ok(()) } else { Err(Refusal::ManifestUnknown(what)) }
        })
        .await?;
        Ok(plain(StatusCode::ACCEPTED))
    }

    async fn tags(&self, name: String, query: Option<&str>) -> Answer {
        let path = format!("/v2/{name}/tags/list");
        let repository = name.clone();
        let tags = self.disk(move |storage| Ok(storage.tags(&repository)?)).await?;
        let tags = tags.ok_or_else(|| Refusal::NameUnknown(name.clone()))?;
        let (tags, next) = page(tags, query);
        paged(&json!({"name": name, "tags": tags}), &path, next)
    }

    async fn catalog(&self, query: Option<&str>) -> Answer {
        let names = self.disk(|storage| Ok(storage.repositories()?)).await?;
        let (names, next) = page(names, query);
        paged(&json!({"repositories": names}), "/v2/_catalog", next)
    }

    async fn referrers(&self, name: String, subject: Digest, query: Option<&str>) -> Answer {
        let wanted = parameter(query, "artifactType");
        let filter = wanted.clone();
        let descriptors = self
            .disk(move |storage| {
                let mut descriptors = Vec::new();
                for digest in storage.referrers(&name, subject)? {
                    descriptors.extend(storage.manifest(&name, digest)?.as_ref().and_then(describe));
                }
                descriptors.retain(|found: &Descriptor| filter.is_none() || found.artifact_type == filter);
                Ok(descriptors)
            })
            .await?;
        let mut response = json_body(IMAGE_INDEX, &Manifest::index(descriptors))?;
        if wanted.is_some() {
            response.headers_mut().insert(OCI_FILTERS, HeaderValue::from_static("artifactType"));
        }
        Ok(response)
    }
}

/// The descriptor of a manifest that refers to another one.
fn describe(stored: &StoredManifest) -> Option<Descriptor> {
    let manifest: Manifest = serde_json::from_slice(&stored.content).ok()?;
    let artifact_type = manifest.artifact_type.or_else(|| Some(manifest.config?.media_type));
    let descriptor = Descriptor::new(&stored.media_type, stored.digest, stored.content.len() as u64);
    Some(Descriptor { artifact_type, annotations: manifest.annotations, ..descriptor })
}

/// A manifest with its media type: that of the request, which must be one of the four known and not contradict the
/// document.
fn read_manifest(headers: &HeaderMap, content: &[u8]) -> Result<(String, Manifest), Refusal> {
    let invalid = |message: String| Refusal::ManifestInvalid(message);
    let manifest: Manifest =
        serde_json::from_slice(content).map_err(|error| invalid(format!("manifest does not parse: {error}")))?;
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let header = header.map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
    let media_type =
        header.or_else(|| manifest.media_type.clone()).ok_or_else(|| invalid("the media type is missing".into()))?;
    if manifest.media_type.as_ref().is_some_and(|own| *own != media_type) {
        return Err(invalid(format!("manifest says it is {:?}, the request {media_type:?}", manifest.media_type)));
    }
    let complete = match media_type.as_str() {
        IMAGE_MANIFEST | DOCKER_MANIFEST => manifest.config.is_some() && manifest.layers.is_some(),
        IMAGE_INDEX | DOCKER_LIST => manifest.manifests.is_some(),
        other => return Err(invalid(format!("media type {other:?} is not an image manifest or index"))),
    };
    if manifest.schema_version != 2 || !complete {
        return Err(invalid(format!("manifest is not a complete {media_type}")));
    }
    Ok((media_type, manifest))
}

/// The chunk that a request brings starts where the upload stands.
fn check_order(headers: &HeaderMap, name: &str, id: &str, offset: u64) -> Result<(), Refusal> {
    let Some(range) = headers.get(CONTENT_RANGE) else { return Ok(()) };
    let text = range.to_str().unwrap_or_default().trim_start_matches("bytes ");
    let start = text.split_once('-').and_then(|(start, _)| start.trim().parse::<u64>().ok());
    match start {
        Some(start) if start == offset => Ok(()),
        Some(_) => Err(Refusal::ChunkOutOfOrder { location: upload_location(name, id), offset }),
        None => Err(Refusal::UploadInvalid(format!("Content-Range {range:?} is not of the form start-end"))),
    }
}

/// One page of names, and the last of it when there is more.
fn page(names: Vec<String>, query: Option<&str>) -> (Vec<String>, Option<(String, usize)>) {
    let size = parameter(query, "n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    let after = parameter(query, "last");
    let mut rest = names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after));
    let page: Vec<String> = rest.by_ref().take(size).collect();
    let next = rest.next().and(page.last().cloned()).map(|last| (last, size));
    (page, next)
}

fn paged(body: &serde_json::Value, path: &str, next: Option<(String, usize)>) -> Answer {
    let mut response = json_body("application/json", body)?;
    if let Some((last, size)) = next {
        // Names consist of characters that need no escapes in a query, '/' included.
        response.headers_mut().insert(LINK, header(&format!("<{path}?n={size}&last={last}>; rel=\"next\"")));
    }
    Ok(response)
}

fn refused(refusal: &Refusal, parts: &Parts) -> Response<Body> {
    let (status, code) = refusal.answer();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(
            method = %parts.method, path = parts.uri.path(), error = refusal as &dyn std::error::Error, "request failed"
        );
    }
    let body = json!({"errors": [{"code": code, "message": refusal.to_string()}]});
    let mut response = json_body("application/json", &body).unwrap_or_else(|_| plain(status));
    *response.status_mut() = status;
    if let Refusal::ChunkOutOfOrder { location, offset } = refusal {
        response.headers_mut().insert(LOCATION, header(location));
        response.headers_mut().insert(RANGE, header(&format!("0-{}", offset.saturating_sub(1))));
    }
    if let Refusal::RangeInvalid { size, .. } = refusal {
        response.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}")));
    }
    response
}

fn upload_location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn upload_status(status: StatusCode, name: &str, id: &str, offset: u64) -> Response<Body> {
    let mut response = plain(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(&upload_location(name, id)));
    headers.insert(RANGE, header(&format!("0-{}", offset.saturating_sub(1))));
    headers.insert(UPLOAD_UUID, header(id));
    response
}

fn created(location: &str, digest: Digest) -> Response<Body> {
    let mut response = plain(StatusCode::CREATED);
    response.headers_mut().insert(LOCATION, header(location));
    response.headers_mut().insert(CONTENT_DIGEST, header(&digest.to_string()));
    response
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

fn json_body(media_type: &'static str, body: &impl serde::Serialize) -> Answer {
    let bytes = serde_json::to_vec(body).map_err(|error| Refusal::Body(error.into()))?;
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok(response)
}

/// A header value from names, digests and numbers, which all are fit for one; anything else becomes empty.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}
