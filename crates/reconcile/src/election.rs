//! Leader election over a Lease, as upstream's components do it: of several processes that offer the same work, one does it.
//!
//! Who holds the Lease renews it; who does not takes it over when it was not renewed for its duration, by its own clock
//! since it last saw it change, so that clocks need not agree. A holder that cannot renew stops working before anybody else
//! may begin. It may still be stopped between two steps and wake as the former holder: what it writes has to rest on more than
//! its belief, which is the business of whoever gives the work its client.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{
    Client,
    api::{Api, ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::report::{Leads, would_lead};

/// Where the leases of control plane components lie.
const NAMESPACE: &str = "kube-system";
/// How long a Lease is good for without being renewed; upstream's default.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Parts of that time for which a holder tries to renew before it gives up: upstream's 10 of 15 seconds.
const RENEW_PARTS: (u32, u32) = (2, 3);
/// Parts of that time between two looks at the Lease: upstream's 2 of 15 seconds.
const RETRY_PARTS: (u32, u32) = (2, 15);

/// Leadership was lost; the work has stopped.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError<E> {
    /// The Lease could not be renewed in time.
    #[error("the lease {0} could not be renewed in time")]
    Lost(String),
    /// The work ended by itself.
    #[error(transparent)]
    Work(E),
}

/// One offer of doing some work.
#[derive(Clone)]
pub struct Election {
    client: Client,
    name: String,
    identity: String,
    duration: Duration,
}

/// The Lease as it was last seen to change.
#[derive(Debug)]
struct Observed {
    holder: String,
    renewed: Option<MicroTime>,
    duration: Duration,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nobody holds it, or it is ours: write ourselves into it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides by the Lease's holder, and by how long it has not changed.
fn decide(observed: Option<&Observed>, identity: &str, now: Instant) -> Step {
    match observed {
        None => Step::Take,
        Some(seen) if seen.holder.is_empty() || seen.holder == identity => Step::Take,
        Some(seen) if now.duration_since(seen.since) > seen.duration => Step::Take,
        Some(_) => Step::Wait,
    }
}

impl Election {
    /// An offer under `identity`, which no other process has, for the Lease `name`.
    pub fn new(client: Client, name: &str, identity: &str) -> Self {
        Election { client, name: name.to_owned(), identity: identity.to_owned(), duration: LEASE_DURATION }
    }

    /// The same, for a Lease that is good for so long; everything else is in proportion.
    #[must_use]
    pub fn good_for(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// The Lease's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who takes part.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    fn part(&self, (parts, of): (u32, u32)) -> Duration {
        self.duration * parts / of
    }

    /// Waits until the Lease is ours, then does the work until it ends, `stop` is given or the Lease is lost. The Lease is
    /// given back when the work was told to stop, so that another process need not wait for it to run out.
    ///
    /// # Errors
    /// When the Lease is lost, or the work fails.
    pub async fn lead<F, Fut, E>(self, stop: CancellationToken, work: F) -> Result<(), ElectionError<E>>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = Result<(), E>>,
    {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let mut observed = None;
        would_lead(&self.name);
        while !self.try_acquire(&leases, &mut observed).await {
            tokio::select! {
                () = sleep(self.part(RETRY_PARTS)) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
        info!(lease = self.name, identity = self.identity, "leading");
        let leading = Leads::by(&self.name);
        let working = stop.child_token();
        let work = work(working.clone());
        tokio::pin!(work);
        let outcome = tokio::select! {
            ended = &mut work => ended,
            () = self.renew(&leases, &mut observed) => {
                warn!(lease = self.name, "the lease is lost, stopping");
                working.cancel();
                let _ = work.await;
                drop(leading);
                return Err(ElectionError::Lost(self.name));
            }
            () = stop.cancelled() => work.await,
        };
        // Work that ends at once when it is told to may be seen to end before the telling is.
        if stop.is_cancelled() {
            self.release(&leases).await;
        }
        outcome.map_err(ElectionError::Work)
    }

    /// Renews until that fails for too long.
    async fn renew(&self, leases: &Api<Lease>, observed: &mut Option<Observed>) {
        let deadline = self.part(RENEW_PARTS);
        let mut renewed = Instant::now();
        loop {
            sleep(self.part(RETRY_PARTS)).await;
            // others count from when they see it, which is never before it was begun
            let begun = Instant::now();
            match timeout(deadline.saturating_sub(renewed.elapsed()), self.try_acquire(leases, observed)).await {
                Ok(true) => renewed = begun,
                Ok(false) if observed.as_ref().is_some_and(|seen| seen.holder != self.identity) => return,
                Ok(false) if renewed.elapsed() < deadline => {}
                _ => return,
            }
        }
    }

    /// Looks at the Lease and writes ourselves into it where that is right; whether it is ours then.
    async fn try_acquire(&self, leases: &Api<Lease>, observed: &mut Option<Observed>) -> bool {
        let lease = match leases.get_opt(&self.name).await {
            Ok(lease) => lease,
            Err(error) => {
                debug!(lease = self.name, %error, "cannot read the lease");
                return false;
            }
        };
        let now = Instant::now();
        observe(observed, lease.as_ref(), now);
        if decide(observed.as_ref(), &self.identity, now) == Step::Wait {
            return false;
        }
        let wanted = self.claim(lease.as_ref(), Timestamp::now());
        let written = match lease {
            None => leases.create(&PostParams::default(), &wanted).await,
            Some(_) => leases.replace(&self.name, &PostParams::default(), &wanted).await,
        };
        match written {
            Ok(lease) => {
                observe(observed, Some(&lease), Instant::now());
                true
            }
            Err(error) => {
                debug!(lease = self.name, %error, "cannot write the lease");
                false
            }
        }
    }

    /// The Lease with us as its holder.
    fn claim(&self, lease: Option<&Lease>, now: Timestamp) -> Lease {
        let mut wanted = lease.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let spec = wanted.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&*self.identity) {
            let changes_hands = spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(changes_hands));
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(MicroTime(now));
        }
        spec.lease_duration_seconds = i32::try_from(self.duration.as_secs()).ok();
        spec.renew_time = Some(MicroTime(now));
        wanted
    }

    /// Gives the Lease back. Where that fails it runs out.
    async fn release(&self, leases: &Api<Lease>) {
        let given_back = async {
            loop {
                let mut lease = leases.get(&self.name).await?;
                let spec = lease.spec.get_or_insert_default();
                if spec.holder_identity.as_deref() != Some(&*self.identity) {
                    return Ok(());
                }
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                match leases.replace(&self.name, &PostParams::default(), &lease).await {
                    // A renewal that was under way when we were told to stop came between; it was our last.
                    Err(kube::Error::Api(status)) if status.is_conflict() => {}
                    written => return written.map(drop),
                }
            }
        };
        if !matches!(timeout(self.part(RETRY_PARTS), given_back).await, Ok(Ok(()))) {
            debug!(lease = self.name, "cannot give the lease back");
        }
    }
}

fn observe(observed: &mut Option<Observed>, lease: Option<&Lease>, now: Instant) {
    let Some(lease) = lease else {
        *observed = None;
        return;
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let (holder, renewed) = (spec.holder_identity.unwrap_or_default(), spec.renew_time);
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(LEASE_DURATION, Duration::from_secs);
    let same = observed.as_ref().is_some_and(|seen| seen.holder == holder && seen.renewed == renewed);
    if !same {
        *observed = Some(Observed { holder, renewed, duration, since: now });
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;

    fn seen(holder: &str, since: Instant) -> Observed {
        Observed { holder: holder.to_owned(), renewed: None, duration: LEASE_DURATION, since }
    }

    /// A server of one Lease that counts revisions.
    fn server(kept: &Arc<Mutex<Value>>) -> Client {
        let kept = Arc::clone(kept);
        let service = tower::service_fn(move |request: Request<Body>| {
            let kept = Arc::clone(&kept);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let mut kept = kept.lock();
                let (code, answer) = match (parts.method, kept.is_null()) {
                    (Method::GET, true) => (404, status(404, "NotFound")),
                    (Method::GET, false) => (200, kept.clone()),
                    (_, _) => {
                        let mut given: Value = serde_json::from_slice(&body).unwrap();
                        let last = &kept["metadata"]["resourceVersion"];
                        if given["metadata"].get("resourceVersion").unwrap_or(&Value::Null) != last {
                            (409, status(409, "Conflict"))
                        } else {
                            let next = last.as_str().map_or(1, |last| last.parse::<u64>().unwrap() + 1);
                            given["metadata"]["resourceVersion"] = json!(next.to_string());
                            *kept = given.clone();
                            (200, given)
                        }
                    }
                };
                let answer = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn status(code: u16, reason: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code})
    }

    #[tokio::test]
    async fn a_lease_is_given_back_however_fast_the_work_ends() {
        for _ in 0..32 {
            let kept = Arc::new(Mutex::new(Value::Null));
            let stop = CancellationToken::new();
            let told = stop.clone();
            let led = Election::new(server(&kept), "work", "me").lead(stop, async |_| {
                told.cancel();
                Ok::<_, Infallible>(())
            });
            led.await.unwrap();
            assert_eq!(kept.lock()["spec"]["holderIdentity"], "");
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_has_run_out() {
        let start = Instant::now();
        assert_eq!(decide(None, "me", start), Step::Take);
        assert_eq!(decide(Some(&seen("", start)), "me", start), Step::Take);
        assert_eq!(decide(Some(&seen("me", start)), "me", start), Step::Take);
        assert_eq!(decide(Some(&seen("other", start)), "me", start + LEASE_DURATION), Step::Wait);
        assert_eq!(decide(Some(&seen("other", start)), "me", start + LEASE_DURATION * 2), Step::Take);
    }

    #[test]
    fn a_lease_counts_as_renewed_when_it_was_seen_to_change() {
        let start = Instant::now();
        let lease = |renewed: i64| {
            let mut lease = Lease::default();
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some("other".to_owned());
            spec.renew_time = Some(MicroTime(Timestamp::from_second(renewed).unwrap()));
            lease
        };
        let mut observed = None;
        observe(&mut observed, Some(&lease(1)), start);
        let later = start + Duration::from_secs(2);
        observe(&mut observed, Some(&lease(1)), later);
        assert_eq!(observed.as_ref().unwrap().since, start);
        observe(&mut observed, Some(&lease(2)), later);
        assert_eq!(observed.as_ref().unwrap().since, later);
        observe(&mut observed, None, start);
        assert!(observed.is_none());
    }
}
