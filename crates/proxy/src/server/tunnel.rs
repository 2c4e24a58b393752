//! Connections that left HTTP, such as WebSocket.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tracing::debug;

use super::{Shared, upstream::Connection};

/// Carries bytes both ways once the client's side has switched too.
pub(crate) fn open(shared: &Arc<Shared>, client: OnUpgrade, backend: Box<Connection>) {
    let kill = shared.kill.clone();
    shared.tasks.spawn(async move {
        let carried = async {
            let (mut backend, early) = backend.into_stream().await;
            let client = client.await.map_err(std::io::Error::other)?;
            let mut client = TokioIo::new(client);
            client.write_all(&early).await?;
            tokio::io::copy_bidirectional(&mut client, &mut backend).await
        };
        tokio::select! {
            () = kill.cancelled() => {}
            carried = carried => if let Err(error) = carried {
                debug!(%error, "upgraded connection ended with an error");
            }
        }
    });
}
