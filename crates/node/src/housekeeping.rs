//! Cuts what grows without bound: container logs, and images when the disk fills.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use runtime::{
    Runtime,
    api::{ContainerState, ContainerStatus},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{logs, registration::Machine};

/// How often logs are measured, as upstream; nothing tells that a file has grown.
const LOG_PERIOD: Duration = Duration::from_secs(10);
/// How often the disk is measured, as upstream.
const IMAGE_PERIOD: Duration = Duration::from_secs(300);
/// Free share of the disk below which unused images go, as upstream's `imageGCHighThresholdPercent` of 85.
const DISK_FREE_PERCENT_MIN: u64 = 15;

/// Keeps a node's disk tidy.
pub(crate) struct Housekeeping {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) machine: Machine,
    pub(crate) root_dir: PathBuf,
}

impl Housekeeping {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut log_ticks = tokio::time::interval(LOG_PERIOD);
        // Not at once: after a reboot nothing uses an image until its pods are back.
        let mut image_ticks = tokio::time::interval_at(Instant::now() + IMAGE_PERIOD, IMAGE_PERIOD);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = log_ticks.tick() => self.rotate_logs().await,
                _ = image_ticks.tick() => self.remove_images().await,
            }
        }
    }

    async fn rotate_logs(&self) {
        for container in self.runtime.containers() {
            if matches!(container.state, ContainerState::Running { .. }) {
                self.rotate_log(&container).await;
            }
        }
    }

    async fn rotate_log(&self, container: &ContainerStatus) {
        let moved = match logs::rotate(&container.log_path, Timestamp::now()) {
            Ok(None) => return,
            Ok(Some(moved)) => moved,
            Err(error) => {
                tracing::debug!(container = %container.id, %error, "cannot rotate log");
                return;
            }
        };
        if let Err(error) = self.runtime.reopen_log(&container.id).await {
            tracing::warn!(container = %container.id, %error, "cannot reopen log");
            // The writer still has the old file: give it its name back.
            if let Err(error) = std::fs::rename(&moved, &container.log_path) {
                tracing::warn!(container = %container.id, %error, "cannot restore log");
            }
        }
    }

    async fn remove_images(&self) {
        if self.machine.pressure(&self.root_dir).disk_free_percent >= DISK_FREE_PERCENT_MIN {
            return;
        }
        match self.runtime.remove_unused_images().await {
            Ok(removed) => tracing::info!(count = removed.len(), "removed unused images because the disk is filling"),
            Err(error) => tracing::warn!(%error, "cannot remove unused images"),
        }
    }
}
