//! A registry of one image, as small as the distribution API allows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Path, content and mode; a path that ends in a slash is a directory.
pub(crate) type Files = Vec<(String, Vec<u8>, u32)>;

/// One image: files of its layers, the lowest first, and a configuration.
pub(crate) struct Image {
    pub(crate) layers: Vec<Files>,
    pub(crate) config: serde_json::Value,
}

#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) paths: BTreeMap<String, (String, Vec<u8>)>,
    pub(crate) blob_fetches: AtomicUsize,
    /// When set, everything needs this token, which `user:secret` gets at `/token`.
    pub(crate) token: Option<String>,
}

impl Registry {
    pub(crate) fn add(&mut self, name: &str, tag: &str, image: &Image) -> String {
        let plain: Vec<Vec<u8>> = image.layers.iter().map(archive).collect();
        let layers: Vec<Vec<u8>> = plain.iter().map(|plain| zstd::encode_all(&plain[..], 1).unwrap()).collect();
        let config = serde_json::to_vec(&json!({
            "os": "linux", "architecture": "amd64", "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": plain.iter().map(|plain| digest(plain)).collect::<Vec<_>>() },
        }))
        .unwrap();
        let descriptor =
            |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+zstd", layer)).collect::<Vec<_>>(),
        }))
        .unwrap();
        let manifest_digest = digest(&manifest);
        for blob in layers.into_iter().chain([config]) {
            self.paths.insert(format!("/v2/{name}/blobs/{}", digest(&blob)), ("application/octet-stream".into(), blob));
        }
        self.paths.insert(format!("/v2/{name}/manifests/{tag}"), (kind.into(), manifest.clone()));
        self.paths.insert(format!("/v2/{name}/manifests/{manifest_digest}"), (kind.into(), manifest));
        manifest_digest
    }

    /// Serves until the set is dropped.
    pub(crate) async fn serve(self: Arc<Self>, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let registry = self.clone();
                connections.spawn(async move { registry.answer(stream).await });
            }
        });
        address
    }

    async fn answer(&self, stream: TcpStream) {
        let address = stream.local_addr().unwrap();
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        while stream.read_line(&mut request).await.is_ok_and(|length| length > 2) {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        let json = |text: &str| ("application/json".to_owned(), text.as_bytes().to_vec());
        let has = |token: &String| request.contains(&format!("authorization: Bearer {token}\r\n"));
        let (status, (kind, body)) = if path.starts_with("/token?") {
            // base64 of user:secret
            match (&self.token, request.contains("authorization: Basic dXNlcjpzZWNyZXQ=\r\n")) {
                (Some(token), true) => ("200 OK", json(&format!("{{\"token\":\"{token}\"}}"))),
                _ => ("401 Unauthorized", json("{}")),
            }
        } else if !self.token.as_ref().is_none_or(has) {
            ("401 Unauthorized", json("{}"))
        } else {
            match self.paths.get(path) {
                Some(found) => ("200 OK", found.clone()),
                None => ("404 Not Found", json("{}")),
            }
        };
        let challenge = match status {
            "401 Unauthorized" => {
                format!("www-authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"\r\n")
            }
            _ => String::new(),
        };
        if path.contains("/blobs/") {
            self.blob_fetches.fetch_add(1, Ordering::Relaxed);
        }
        let head = format!(
            "HTTP/1.1 {status}\r\n{challenge}content-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
        let _ = stream.shutdown().await;
    }
}

fn archive(files: &Files) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        archive.append_data(&mut header, path, &content[..]).unwrap();
    }
    archive.into_inner().unwrap()
}
