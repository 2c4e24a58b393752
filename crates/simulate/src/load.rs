//! Creates pods at a rate, and measures how they fare: what a cluster of this size can take.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use reconcile::{Change, Informer, Informers};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    SimulateError,
    behaviour::DOMAIN,
    manifests::account,
    summary::{Latencies, LoadSummary, Reason},
};

/// Requests under way at a time. A server that takes longer is asked later: the rate it keeps is what is to be found out.
const REQUESTS_MAX: usize = 64;
/// How long after the last creation pods have to become ready.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Reasons shown for pods without a node.
const REASONS_MAX: usize = 5;
/// With nothing to come, only news wakes the loop.
const IDLE: Duration = Duration::from_secs(3600);

/// Pods to create.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many a second.
    pub pods_per_second: f64,
    /// What each is made from; its name is a prefix.
    pub template: Pod,
    /// Where.
    pub namespace: String,
    /// How long a pod stays once it is ready; without it, to the end.
    pub stay: Option<Duration>,
}

/// One pod that is on its way.
struct Sent {
    at: Instant,
    scheduled: bool,
    /// The scheduler has said that no node takes it.
    unschedulable: bool,
}

/// A request that has ended.
enum Done {
    Created { name: String, took: Duration, refusal: Option<String> },
    Deleted,
}

/// The state of a run.
#[derive(Default)]
struct Course {
    sent: HashMap<String, Sent>,
    leaving: VecDeque<(Instant, String)>,
    requests: JoinSet<Done>,
    created: u64,
    refused: u64,
    refusal: Option<String>,
    scheduled: u64,
    ready: u64,
    creating: Latencies,
    scheduling: Latencies,
    becoming_ready: Latencies,
}

/// Creates pods and follows them.
pub(crate) struct Generator {
    client: Client,
    load: Load,
    pods: Informer<Pod>,
}

fn load_label() -> String {
    format!("{DOMAIN}load")
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

impl Generator {
    pub(crate) fn new(client: Client, load: Load, informers: &Informers) -> Self {
        Self { client, load, pods: informers.of() }
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.load.namespace)
    }

    /// Creates pods for a time, or until `end`, and waits a little for the last of them.
    pub(crate) async fn run(
        &self,
        time: Option<Duration>,
        end: &CancellationToken,
    ) -> Result<LoadSummary, SimulateError> {
        self.prepare().await?;
        let mut changes = self.pods.subscribe();
        let mut course = Course::default();
        let start = Instant::now();
        let (mut number, mut stopped) = (0u64, None::<Instant>);
        let creating = loop {
            let now = Instant::now();
            let over = end.is_cancelled() || time.is_some_and(|time| now.duration_since(start) >= time);
            if over && stopped.is_none() {
                stopped = Some(now);
            }
            if let Some(stopped) = stopped {
                let settled = course.requests.is_empty() && course.sent.values().all(|sent| sent.unschedulable);
                if settled || end.is_cancelled() || now.duration_since(stopped) >= SETTLE_MAX {
                    break stopped.duration_since(start);
                }
            }
            let due = start + Duration::from_secs_f64(number as f64 / self.load.pods_per_second);
            let room = course.requests.len() < REQUESTS_MAX;
            if stopped.is_none() && room && due <= now {
                self.create(&mut course, number);
                number += 1;
                continue;
            }
            self.let_go(&mut course, now);
            let next = if stopped.is_none() && room { due } else { now + IDLE };
            let bound = stopped.map_or_else(|| time.map(|time| start + time), |at| Some(at + SETTLE_MAX));
            let leaves = course.leaving.front().map(|(at, _)| *at).filter(|_| room);
            let wake = [Some(next), bound, leaves].into_iter().flatten().min().unwrap_or(next);
            tokio::select! {
                () = end.cancelled() => {}
                change = changes.next() => match change {
                    Some(Change::Applied { new, .. }) => self.observe(&mut course, &new),
                    Some(Change::Deleted(pod)) => {
                        course.sent.remove(&pod.name_any());
                    }
                    None => break now.duration_since(start),
                },
                Some(done) = course.requests.join_next() => {
                    if let Ok(done) = done {
                        course.take(done);
                    }
                }
                () = sleep_until(wake) => {}
            }
        };
        Ok(self.summary(course, creating))
    }

    /// Makes the namespace, and waits until pods can be created in it.
    async fn prepare(&self) -> Result<(), SimulateError> {
        let failed = |source| SimulateError::Namespace { namespace: self.load.namespace.clone(), source };
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let metadata = ObjectMeta {
            name: Some(self.load.namespace.clone()),
            labels: Some([(load_label(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        };
        match namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await {
            Err(error) if code(&error) == 409 => {}
            created => drop(created.map_err(failed)?),
        }
        account(&self.client, &self.load.namespace).await;
        Ok(())
    }

    fn create(&self, course: &mut Course, number: u64) {
        let mut pod = self.load.template.clone();
        let prefix = pod.metadata.name.take().or_else(|| pod.metadata.generate_name.take());
        let prefix = prefix.as_deref().map_or("load", |prefix| prefix.trim_end_matches('-'));
        let name = format!("{prefix}-{number:06}");
        pod.metadata.name = Some(name.clone());
        pod.metadata.namespace = Some(self.load.namespace.clone());
        pod.labels_mut().insert(load_label(), "true".to_owned());
        let at = Instant::now();
        course.sent.insert(name.clone(), Sent { at, scheduled: false, unschedulable: false });
        let pods = self.api();
        course.requests.spawn(async move {
            let refusal = pods.create(&PostParams::default(), &pod).await.err().map(|error| error.to_string());
            Done::Created { name, took: at.elapsed(), refusal }
        });
    }

    /// Notes how far one of the pods has come.
    fn observe(&self, course: &mut Course, pod: &Pod) {
        if pod.metadata.namespace.as_deref() != Some(&self.load.namespace) {
            return;
        }
        let name = pod.name_any();
        let Some(sent) = course.sent.get_mut(&name) else { return };
        let took = sent.at.elapsed();
        if !sent.scheduled && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            sent.scheduled = true;
            course.scheduled += 1;
            course.scheduling.add(took);
        }
        let status = pod.status.as_ref();
        let over = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let is = |type_: &str, value: &str| conditions.iter().any(|one| one.type_ == type_ && one.status == value);
        sent.unschedulable = !sent.scheduled && is("PodScheduled", "False");
        let is_ready = is("Ready", "True");
        if over || is_ready {
            course.ready += 1;
            course.becoming_ready.add(took);
            course.sent.remove(&name);
            if let Some(stay) = self.load.stay {
                course.leaving.push_back((Instant::now() + stay, name));
            }
        }
    }

    /// Deletes the pods that have stayed long enough.
    fn let_go(&self, course: &mut Course, now: Instant) {
        while course.requests.len() < REQUESTS_MAX
            && let Some((_, name)) = course.leaving.pop_front_if(|(at, _)| *at <= now)
        {
            let pods = self.api();
            course.requests.spawn(async move {
                if let Err(error) = pods.delete(&name, &DeleteParams::default()).await {
                    tracing::debug!(pod = name, %error, "cannot delete pod");
                }
                Done::Deleted
            });
        }
    }

    fn summary(&self, course: Course, creating: Duration) -> LoadSummary {
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for (name, _) in course.sent.iter().filter(|(_, sent)| !sent.scheduled) {
            let Some(pod) = self.pods.get(&self.load.namespace, name) else { continue };
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let scheduled = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
            let message = scheduled.and_then(|condition| condition.message.clone());
            *reasons.entry(message.unwrap_or_else(|| "not looked at yet".to_owned())).or_default() += 1;
        }
        let mut unscheduled: Vec<Reason> =
            reasons.into_iter().map(|(message, pods)| Reason { pods, message }).collect();
        unscheduled.sort_by_key(|reason| std::cmp::Reverse(reason.pods));
        unscheduled.truncate(REASONS_MAX);
        LoadSummary {
            pods_per_second: self.load.pods_per_second,
            pods_per_second_reached: course.created as f64 / creating.as_secs_f64().max(f64::EPSILON),
            created: course.created,
            refused: course.refused,
            refusal: course.refusal,
            scheduled: course.scheduled,
            ready: course.ready,
            creating: course.creating.summary(),
            scheduling: course.scheduling.summary(),
            becoming_ready: course.becoming_ready.summary(),
            unscheduled,
        }
    }

    /// Deletes the pods, and the namespace if it was made for them.
    pub(crate) async fn remove(&self) -> Result<(), SimulateError> {
        let failed = |source| SimulateError::Namespace { namespace: self.load.namespace.clone(), source };
        let own = ListParams::default().labels(&load_label());
        // nobody is left to end them
        let pods = self.api().delete_collection(&DeleteParams::default().grace_period(0), &own).await;
        pods.map(drop).map_err(failed)?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = namespaces.get_opt(&self.load.namespace).await.map_err(failed)?;
        if found.is_some_and(|namespace| namespace.labels().contains_key(&load_label())) {
            match namespaces.delete(&self.load.namespace, &DeleteParams::default()).await {
                Err(error) if code(&error) == 404 || code(&error) == 409 => {}
                deleted => drop(deleted.map_err(failed)?),
            }
        }
        Ok(())
    }
}

impl Course {
    fn take(&mut self, done: Done) {
        let Done::Created { name, took, refusal } = done else { return };
        match refusal {
            None => {
                self.created += 1;
                self.creating.add(took);
            }
            Some(refusal) => {
                self.sent.remove(&name);
                self.refused += 1;
                self.refusal.get_or_insert(refusal);
            }
        }
    }
}
