//! A client of the embedded registry: what the command line does with images.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LINK, LOCATION};
use http::{Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::io::ReaderStream;

use crate::build::{Layout, LayoutError};
use crate::digest::Digest;
use crate::oci::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, IMAGE_INDEX, IMAGE_MANIFEST, Manifest};
use crate::reference::Reference;

/// The largest document that is taken from the registry; as large as the registry takes.
const DOCUMENT_MAX: usize = 4 * 1024 * 1024;
/// Pages of a listing that are followed: at the server's default that is a million names.
const PAGES_MAX: usize = 1000;
/// Indexes inside of indexes that are followed.
const DEPTH_MAX: usize = 4;
/// How long any request may take that carries no blob.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why an operation on the registry failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The registry could not be reached.
    #[error("cannot reach the registry at {address}")]
    Connect {
        /// The registry's address.
        address: String,
        /// The failure.
        source: BoxError,
    },
    /// The registry refused.
    #[error("registry refused to {action}: {status}{}", .message.as_deref().map(|text| format!(", {text}")).unwrap_or_default())]
    Refused {
        /// What was asked for.
        action: String,
        /// The status of the answer.
        status: StatusCode,
        /// The registry's explanation.
        message: Option<String>,
    },
    /// There is no such image.
    #[error("image {0} is not in the registry")]
    NotFound(String),
    /// The registry's answer is not what the specification says.
    #[error("registry gave an unreadable answer to {action}: {reason}")]
    Answer {
        /// What was asked for.
        action: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The layout folder could not be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The layout folder holds no image, or more than one where one is wanted.
    #[error("layout folder holds {0} images, one is wanted")]
    ImageCount(usize),
}

/// One image of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// Bytes of manifest, configuration and compressed layers; of an index, of what it names.
    pub size: u64,
}

/// Everything about one image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// Bytes, as in [`ImageSummary`].
    pub size: u64,
    /// The manifest or index.
    pub manifest: Value,
    /// The configuration; an index has none.
    pub config: Option<Value>,
}

/// A client of a registry that speaks plain HTTP.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    address: String,
    http: Client<HttpConnector, Body>,
}

/// An answer with its body read.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Deserialize)]
struct TagList {
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Vec<String>,
}

impl RegistryClient {
    /// A client of the registry at `host:port`.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), http: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Pushes the only image of a layout folder, and returns its manifest's digest.
    pub async fn push(&self, layout: &Path, to: &Reference) -> Result<Digest, ClientError> {
        let layout = Layout::open(layout);
        let manifests = layout.index()?.manifests.unwrap_or_default();
        let [manifest] = manifests.as_slice() else { return Err(ClientError::ImageCount(manifests.len())) };
        let name = to.tag.clone().unwrap_or_else(|| manifest.digest.to_string());
        self.push_manifest(&layout, to, manifest, &name, 0).await?;
        Ok(manifest.digest)
    }

    async fn push_manifest(
        &self,
        layout: &Layout,
        to: &Reference,
        descriptor: &Descriptor,
        name: &str,
        depth: usize,
    ) -> Result<(), ClientError> {
        let action = format!("push {to}");
        if depth > DEPTH_MAX {
            return Err(ClientError::Answer { action, reason: format!("indexes nest deeper than {DEPTH_MAX}") });
        }
        let (content, manifest) = layout.manifest(descriptor.digest)?;
        for child in manifest.children() {
            Box::pin(self.push_manifest(layout, to, child, &child.digest.to_string(), depth + 1)).await?;
        }
        for blob in manifest.blobs() {
            self.push_blob(layout, to, blob).await?;
        }
        let request = Request::put(self.url(&format!("{}/manifests/{name}", to.repository)))
            .header(CONTENT_TYPE, &descriptor.media_type)
            .body(full(content));
        self.expect(&action, request, StatusCode::CREATED).await?;
        Ok(())
    }

    async fn push_blob(&self, layout: &Layout, to: &Reference, blob: &Descriptor) -> Result<(), ClientError> {
        let action = format!("push a blob of {to}");
        let path = format!("{}/blobs/{}", to.repository, blob.digest);
        let head = self.send(&action, Request::head(self.url(&path)).body(empty())).await?;
        if head.status == StatusCode::OK {
            return Ok(());
        }
        let start = Request::post(self.url(&format!("{}/blobs/uploads/", to.repository))).body(empty());
        let started = self.expect(&action, start, StatusCode::ACCEPTED).await?;
        let location = started.headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
        let join = if location.contains('?') { '&' } else { '?' };
        let url = format!("{}{join}digest={}", self.absolute(location), blob.digest);
        let file = layout.blob(blob.digest);
        let opened = tokio::fs::File::open(&file).await;
        let opened = opened.map_err(|source| LayoutError::Io { action: "read", path: file, source })?;
        let frames = ReaderStream::new(opened).map_ok(Frame::data).map_err(BoxError::from);
        let request = Request::put(url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(StreamBody::new(frames).boxed_unsync());
        let answer = self.transfer(&action, request).await?;
        if answer.status == StatusCode::CREATED { Ok(()) } else { Err(refused(&action, &answer)) }
    }

    /// All tagged images in order.
    pub async fn list(&self) -> Result<Vec<ImageSummary>, ClientError> {
        let mut images = Vec::new();
        for page in self.pages::<Catalog>("list repositories", "_catalog").await? {
            for repository in page.repositories {
                let tags = self.pages::<TagList>("list tags", &format!("{repository}/tags/list")).await?;
                for tag in tags.into_iter().flat_map(|page| page.tags) {
                    let reference = Reference { repository: repository.clone(), tag: Some(tag.clone()), digest: None };
                    let (digest, _, content) = self.manifest(&reference).await?;
                    let size = self.size(&content);
                    images.push(ImageSummary { repository: repository.clone(), tag, digest, size });
                }
            }
        }
        Ok(images)
    }

    /// An image's manifest and configuration.
    pub async fn inspect(&self, image: &Reference) -> Result<ImageDetails, ClientError> {
        let (digest, media_type, content) = self.manifest(image).await?;
        let action = format!("inspect {image}");
        let unreadable =
            |error: serde_json::Error| ClientError::Answer { action: action.clone(), reason: error.to_string() };
        let parsed: Manifest = serde_json::from_slice(&content).map_err(unreadable)?;
        let config = match &parsed.config {
            Some(config) => {
                let path = format!("{}/blobs/{}", image.repository, config.digest);
                let answer = self.expect(&action, Request::get(self.url(&path)).body(empty()), StatusCode::OK).await?;
                // An artifact's configuration may be anything.
                serde_json::from_slice(&answer.body).ok()
            }
            None => None,
        };
        let manifest = serde_json::from_slice(&content).map_err(unreadable)?;
        Ok(ImageDetails { digest, media_type, size: self.size(&content), manifest, config })
    }

    /// Removes a tag, or with a digest the manifest and every tag of it.
    pub async fn remove(&self, image: &Reference) -> Result<(), ClientError> {
        let action = format!("remove {image}");
        let url = self.url(&format!("{}/manifests/{}", image.repository, image.manifest()));
        let answer = self.send(&action, Request::delete(url).body(empty())).await?;
        match answer.status {
            StatusCode::ACCEPTED => Ok(()),
            StatusCode::NOT_FOUND => Err(ClientError::NotFound(image.to_string())),
            _ => Err(refused(&action, &answer)),
        }
    }

    /// A manifest: digest, media type and bytes.
    async fn manifest(&self, image: &Reference) -> Result<(Digest, String, Bytes), ClientError> {
        let action = format!("get {image}");
        let accept = [IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let url = self.url(&format!("{}/manifests/{}", image.repository, image.manifest()));
        let answer = self.send(&action, Request::get(url).header(ACCEPT, accept).body(empty())).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(ClientError::NotFound(image.to_string())),
            _ => return Err(refused(&action, &answer)),
        }
        let digest = Digest::of(&answer.body);
        if image.digest.is_some_and(|wanted| wanted != digest) {
            return Err(ClientError::Answer { action, reason: format!("the manifest's digest is {digest}") });
        }
        let media_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok((digest, media_type.to_owned(), answer.body))
    }

    fn size(&self, content: &[u8]) -> u64 {
        let parts = serde_json::from_slice::<Manifest>(content)
            .map(|manifest| manifest.blobs().chain(manifest.children()).map(|part| part.size).sum::<u64>());
        content.len() as u64 + parts.unwrap_or_default()
    }

    /// All pages of a listing.
    async fn pages<T: for<'de> Deserialize<'de>>(&self, action: &str, path: &str) -> Result<Vec<T>, ClientError> {
        let mut pages = Vec::new();
        let mut next = Some(self.url(path));
        while let Some(url) = next.take().filter(|_| pages.len() < PAGES_MAX) {
            let answer = self.expect(action, Request::get(url).body(empty()), StatusCode::OK).await?;
            pages.push(
                serde_json::from_slice(&answer.body)
                    .map_err(|error| ClientError::Answer { action: action.to_owned(), reason: error.to_string() })?,
            );
            let link = answer.headers.get(LINK).and_then(|link| link.to_str().ok());
            let link = link.and_then(|link| Some(link.split_once('<')?.1.split_once('>')?.0));
            next = link.map(|link| self.absolute(link));
        }
        Ok(pages)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    fn absolute(&self, location: &str) -> String {
        if location.starts_with('/') { format!("http://{}{location}", self.address) } else { location.to_owned() }
    }

    async fn expect(
        &self,
        action: &str,
        request: http::Result<Request<Body>>,
        status: StatusCode,
    ) -> Result<Answer, ClientError> {
        let answer = self.send(action, request).await?;
        if answer.status == status { Ok(answer) } else { Err(refused(action, &answer)) }
    }

    async fn send(&self, action: &str, request: http::Result<Request<Body>>) -> Result<Answer, ClientError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.transfer(action, request)).await {
            Ok(answer) => answer,
            Err(late) => Err(ClientError::Connect { address: self.address.clone(), source: late.into() }),
        }
    }

    async fn transfer(&self, action: &str, request: http::Result<Request<Body>>) -> Result<Answer, ClientError> {
        let broken = |source: BoxError| ClientError::Connect { address: self.address.clone(), source };
        let request = request.map_err(|error| broken(error.into()))?;
        let without_body = *request.method() == Method::HEAD;
        let response = self.http.request(request).await.map_err(|error| broken(error.into()))?;
        let (parts, body) = response.into_parts();
        let body = if without_body {
            Bytes::new()
        } else {
            let limited = Limited::new(body, DOCUMENT_MAX).collect().await;
            let unreadable =
                |error: BoxError| ClientError::Answer { action: action.to_owned(), reason: error.to_string() };
            limited.map_err(unreadable)?.to_bytes()
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

fn refused(action: &str, answer: &Answer) -> ClientError {
    let errors: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let message = errors.as_ref().and_then(|errors| errors["errors"][0]["message"].as_str()).map(str::to_owned);
    ClientError::Refused { action: action.to_owned(), status: answer.status, message }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}
