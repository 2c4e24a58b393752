//! Audit: who did what, when, and how it ended, as `audit.k8s.io/v1` Events.
//!
//! [`Policy`] decides per request how much is noted; the notes are a [`Trail`] that goes along with the request; at each
//! stage a record of them is queued, and one writer thread makes events of the records and hands them to the back ends.
//! Encoding and writing happen there, off the request's path. When the writer is behind by a full queue, requests wait
//! for it: nothing is dropped, as with upstream's blocking mode. A killed process loses the events of its last moments,
//! at most what the queue gathers (some 10 ms), since answers do not wait for the file.

use std::{borrow::Cow, io, sync::Arc, thread::JoinHandle};

use http::{HeaderMap, HeaderValue, Uri};
use jiff::Timestamp;
use strategy::User;

mod log;
mod metrics;
mod policy;
mod queue;
mod record;
mod webhook;

pub use log::LogOptions;
pub(crate) use policy::Stage;
pub use policy::{Policy, PolicyError};
pub(crate) use record::{Ended, Trail};
pub use webhook::{Webhook, WebhookError};

use crate::authorization::Attributes;
use log::Log;
use metrics::AuditMetrics;
use queue::Queue;
use record::{Named, Record, Source};
use webhook::Mailbox;

/// What is audited and where it goes.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Which requests, and how much of them.
    pub policy: Policy,
    /// The log file.
    pub log: Option<LogOptions>,
    /// The webhook; [`crate::ApiServer::run`] delivers to it.
    pub webhook: Option<Webhook>,
}

/// Auditing could not begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log file cannot be written.
    #[error("open the audit log {path}: {source}")]
    Log {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The writer's thread does not start.
    #[error("start the audit writer: {0}")]
    Thread(io::Error),
}

/// Takes notes of requests and has them written.
pub struct Auditor {
    policy: Policy,
    queue: Arc<Queue>,
    metrics: Arc<AuditMetrics>,
    mailbox: Option<Arc<Mailbox>>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auditor").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// What begins a trail.
pub(crate) struct Arrival<'a> {
    pub(crate) id: &'a HeaderValue,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) peer: Option<std::net::IpAddr>,
    pub(crate) verb: Cow<'static, str>,
    /// `None` when nobody vouches for the caller.
    pub(crate) user: Option<&'a Arc<User>>,
    pub(crate) received: Timestamp,
}

impl Auditor {
    /// Opens the back ends and starts the writer.
    pub fn open(config: AuditConfig) -> Result<Arc<Self>, AuditError> {
        let log = match config.log {
            None => None,
            Some(options) => {
                let path = options.path.display().to_string();
                Some(Log::open(options).map_err(|source| AuditError::Log { path, source })?)
            }
        };
        let (queue, metrics) = (Arc::new(Queue::new()), Arc::new(AuditMetrics::default()));
        let mailbox = config.webhook.map(|webhook| Arc::new(Mailbox::new(webhook, metrics.clone())));
        let writer = Writer { queue: queue.clone(), metrics: metrics.clone(), log, mailbox: mailbox.clone() };
        let spawned = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run());
        let writer = Some(spawned.map_err(AuditError::Thread)?);
        Ok(Arc::new(Self { policy: config.policy, queue, metrics, mailbox, writer }))
    }

    /// Begins the trail of a request.
    pub(crate) async fn begin(&self, arrival: Arrival<'_>, attributes: &Attributes<'_>) -> Trail {
        let verdict = self.policy.verdict(arrival.user.map(|user| &**user), attributes);
        self.metrics.level(verdict.level);
        if verdict.level == policy::Level::None {
            return Trail::default();
        }
        let trail = Trail::new(Record {
            verdict,
            id: arrival.id.clone(),
            stage: Stage::RequestReceived,
            uri: arrival.uri.clone(),
            verb: arrival.verb,
            user: arrival.user.cloned(),
            impersonated: None,
            source: Source::new(arrival.headers, arrival.peer),
            received: arrival.received,
            staged: arrival.received,
            named: Named::default(),
            ended: None,
            annotations: Vec::new(),
            request: None,
            response: None,
        });
        if let Some(record) = trail.at(Stage::RequestReceived, arrival.received, None) {
            self.queue.push(record).await;
        }
        trail
    }

    /// Has a stage of a request written.
    pub(crate) async fn reached(&self, trail: &Trail, stage: Stage, ended: Option<Ended>) {
        if let Some(record) = trail.at(stage, Timestamp::now(), ended) {
            self.queue.push(record).await;
        }
    }

    /// The same from where nobody can wait.
    pub(crate) fn reached_now(&self, trail: &Trail, stage: Stage, ended: Option<Ended>) {
        if let Some(record) = trail.at(stage, Timestamp::now(), ended) {
            self.queue.push_now(record);
        }
    }

    /// Waits until everything so far is with the back ends.
    pub fn flush(&self) {
        self.queue.flush();
    }

    /// Appends the metrics.
    pub(crate) fn metrics(&self, out: &mut String) {
        self.metrics.render(out);
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit writer panicked");
        }
    }
}

/// The thread that makes events of records.
struct Writer {
    queue: Arc<Queue>,
    metrics: Arc<AuditMetrics>,
    log: Option<Log>,
    mailbox: Option<Arc<Mailbox>>,
}

impl Writer {
    fn run(mut self) {
        let mut records = Vec::new();
        let mut lines = Vec::new();
        let mut failing = false;
        while self.queue.take(&mut records) {
            let count = records.len();
            for record in records.drain(..) {
                record.write(&mut lines);
            }
            self.metrics.written(count);
            if let Some(log) = &mut self.log {
                match log.write(&lines) {
                    Ok(()) => failing = false,
                    Err(error) => {
                        self.metrics.failed(count);
                        // once per outage: a full disk would otherwise fill the log of the process as well
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!(%error, "writing the audit log failed; events are lost until it works again");
                        }
                    }
                }
            }
            if let Some(mailbox) = &self.mailbox {
                mailbox.put(&lines);
            }
            lines.clear();
            lines.shrink_to(LINES_KEPT_BYTES);
            records.shrink_to(RECORDS_KEPT);
            self.queue.done(count);
        }
    }
}

/// Memory kept for the next gulp; what a burst took beyond that is given back.
const LINES_KEPT_BYTES: usize = 64 * 1024;
const RECORDS_KEPT: usize = 64;
