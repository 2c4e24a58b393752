//! Any bytes as what a client sends after an upgrade to WebSocket: channels with binary and with base64 messages, and the
//! tunnel around SPDY. The first byte says which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The transports alone, compiled from their files, as for the other target.
#[expect(dead_code, reason = "the target needs the reading half only")]
#[path = "../../src/server/spdy"]
mod spdy {
    pub(crate) mod connection;
    pub(crate) mod frame;
    pub(crate) mod headers;

    pub(crate) use frame::{Frame, FrameCodec, SpdyError};
}
#[expect(dead_code, reason = "the target needs the reading half only")]
#[path = "../../src/server/websocket.rs"]
mod websocket;

use websocket::{Channels, Encoding, tunnel};

/// More than any input, so that writing it never waits for the reader.
const PIPE_BYTES: usize = 1 << 20;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    // nothing waits for a clock that does not run: who lingers is told at once that time is up
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
});

async fn channels(bytes: &[u8], encoding: Encoding) {
    let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
    let mut channels = Channels::new(server, encoding).await;
    let (mut input, mut resize, writer) = (channels.reader(0), channels.reader(4), channels.writer(1));
    let drain = async {
        while let Some(payload) = input.recv().await {
            assert!(!payload.is_empty());
        }
        while resize.recv().await.is_some() {}
    };
    let send = async {
        if client.write_all(bytes).await.is_ok() {
            let _gone = client.shutdown().await;
        }
        let mut answer = Vec::new();
        let _cut = client.read_to_end(&mut answer).await;
    };
    tokio::select! {
        _ended = async { tokio::join!(channels.run(), send) } => {}
        () = async { drain.await; std::future::pending().await } => {}
    }
    drop(writer);
}

async fn tunnelled(bytes: &[u8]) {
    let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
    let (mut inside, inner) = tokio::io::duplex(PIPE_BYTES);
    let send = async {
        if client.write_all(bytes).await.is_ok() {
            let _gone = client.shutdown().await;
        }
    };
    let (_ended, ()) = tokio::join!(tunnel(server, inner), send);
    let mut carried = Vec::new();
    let _cut = inside.read_to_end(&mut carried).await;
    assert!(carried.len() <= bytes.len());
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    RUNTIME.block_on(async {
        match kind % 3 {
            0 => channels(bytes, Encoding::Binary).await,
            1 => channels(bytes, Encoding::Base64).await,
            _ => tunnelled(bytes).await,
        }
    });
});
