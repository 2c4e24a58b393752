//! A registry of one image, as small as the distribution API allows.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Serves the image `name:latest`, which has one program as its entrypoint, until the set is dropped.
pub(crate) async fn serve(name: &str, program: &[u8], tasks: &mut JoinSet<()>) -> SocketAddr {
    let paths = Arc::new(image(name, program));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let paths = paths.clone();
            connections.spawn(async move { answer(stream, &paths).await });
        }
    });
    address
}

/// Media type and content by path.
fn image(name: &str, program: &[u8]) -> BTreeMap<String, (&'static str, Vec<u8>)> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content, mode) in [(name, program, 0o755), ("etc/passwd", b"root:x:0:0::/root:/\n", 0o644)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, path, content).unwrap();
    }
    let plain = archive.into_inner().unwrap();
    let layer = zstd::encode_all(&plain[..], 1).unwrap();
    let config = serde_json::to_vec(&json!({
        "os": "linux", "architecture": "amd64", "config": {"Entrypoint": [format!("/{name}")]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]},
    }))
    .unwrap();
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+zstd", &layer)],
    }))
    .unwrap();
    let mut paths = BTreeMap::new();
    for blob in [config, layer] {
        paths.insert(format!("/v2/{name}/blobs/{}", digest(&blob)), ("application/octet-stream", blob));
    }
    for reference in ["latest".to_owned(), digest(&manifest)] {
        paths.insert(format!("/v2/{name}/manifests/{reference}"), (MANIFEST, manifest.clone()));
    }
    paths
}

async fn answer(stream: TcpStream, paths: &BTreeMap<String, (&'static str, Vec<u8>)>) {
    let mut stream = BufReader::new(stream);
    let (mut request, mut line) = (String::new(), String::new());
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 2) {
        if request.is_empty() {
            request.clone_from(&line);
        }
        line.clear();
    }
    let mut words = request.split(' ');
    let (is_head, found) = (words.next() == Some("HEAD"), words.next().and_then(|path| paths.get(path)));
    let (status, kind, body) = match found {
        Some((kind, body)) => ("200 OK", *kind, body.as_slice()),
        None => ("404 Not Found", "application/json", &b"{}"[..]),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let mut message = head.into_bytes();
    if !is_head {
        message.extend_from_slice(body);
    }
    // A client that has seen enough may be gone.
    let _unread = stream.write_all(&message).await;
    let _closed = stream.shutdown().await;
}
