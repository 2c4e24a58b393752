//! Keeps captured the pods of this node that take part: sockets and rules inside their namespaces, and who serves there.
//!
//! One task decides and acts, one pod after the other, whenever a label changes or the node brings a pod. Rules come last
//! when a pod is captured and go first when it is released, so that at no moment they lead to nobody while this runs.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod as Object};
use parking_lot::Mutex;
use reconcile::{Change, Informer, Informers, Key, Selector};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{debug, info, warn};

use super::{
    CaptureError, INBOUND_PORT, OUTBOUND_PORT, Pod, PodNetns, PodPlace, Shared, WhenDown,
    directory::Workload,
    enrolment::{self, takes_part},
    follow,
    hbone::{self, client::Tunnels},
    identities::Identity,
    inbound, outbound, policy, sockets, unserved,
};

/// Connections of one pod at a time. Each may cost two descriptors and 32 KiB.
const CONNECTIONS: usize = 8 << 10;
/// How long the policies may take to be known.
const POLICIES: Duration = Duration::from_secs(10);
/// How long the routes may take to be known: the gateway, which finds them, starts at the same time.
const ROUTES: Duration = Duration::from_secs(5);
/// Until a pod that could not be captured is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long connections of a pod that takes part no more may go on.
const DRAIN: Duration = Duration::from_secs(30);
/// How often tunnels are looked through for those that nobody uses.
const REAP: Duration = Duration::from_secs(30);
/// Pause after `accept` failed, typically for lack of file descriptors: nothing tells when there are some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the node tells.
pub(crate) enum Command {
    /// A pod that takes part has got its network.
    Attached { place: PodPlace, pod: Arc<Object>, done: oneshot::Sender<Result<(), CaptureError>> },
    /// A pod loses its network.
    Detached { uid: String },
}

/// The task that keeps pods captured.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    informers: Informers,
    serving: HashMap<String, Serving>,
    /// Pods that were released and still have connections; cancelled when they are captured again.
    draining: HashMap<String, CancellationToken>,
    failed: BTreeSet<String>,
    tasks: JoinSet<()>,
    following: bool,
    /// Ends every connection, also when this task ends early.
    cut: DropGuard,
}

/// A pod that is served.
struct Serving {
    pod: Arc<Pod>,
    /// Ends accepting.
    stop: CancellationToken,
    accepting: JoinSet<()>,
    /// Ends connections.
    cut: CancellationToken,
    connections: TaskTracker,
}

/// Where connections of a pod come in.
#[derive(Clone, Copy)]
enum Door {
    Outbound,
    Inbound,
    Tunnel,
}

impl Door {
    const ALL: [Door; 3] = [Door::Outbound, Door::Inbound, Door::Tunnel];

    fn address(self) -> (Ipv4Addr, u16) {
        match self {
            Door::Outbound => (Ipv4Addr::LOCALHOST, OUTBOUND_PORT),
            Door::Inbound => (Ipv4Addr::UNSPECIFIED, INBOUND_PORT),
            Door::Tunnel => (Ipv4Addr::UNSPECIFIED, hbone::PORT),
        }
    }
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, informers: &Informers) -> Self {
        // what a run before this one captured is served by nobody any more
        *shared.captured.write() = super::Captured::default();
        shared.renew_server();
        Self {
            shared,
            informers: informers.clone(),
            serving: HashMap::new(),
            draining: HashMap::new(),
            failed: BTreeSet::new(),
            tasks: JoinSet::new(),
            following: false,
            cut: CancellationToken::new().drop_guard(),
        }
    }

    /// Serves until `stop`.
    pub(crate) async fn run(mut self, commands: &mut mpsc::Receiver<Command>, stop: CancellationToken) {
        let namespaces = self.informers.of::<Namespace>();
        let labelled = self.informers.of_selected::<Object>(Selector::labels(enrolment::LABEL));
        tokio::select! {
            () = stop.cancelled() => return,
            _ = async { (namespaces.synced().await, labelled.synced().await) } => {}
        }
        let (mut namespace_changes, mut pod_changes) = (namespaces.subscribe(), labelled.subscribe());
        self.look(&labelled, true, |_| true).await;
        let mut reap = interval(REAP);
        reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(command) = commands.recv() => self.obey(command).await,
                Some(change) = namespace_changes.next() => if let Some(name) = turned(&change) {
                    self.look(&labelled, false, |place| place.namespace == name).await;
                },
                Some(change) = pod_changes.next() => {
                    let uid = change.object().metadata.uid.clone().unwrap_or_default();
                    self.look(&labelled, false, |place| place.uid == uid).await;
                },
                () = sleep(RETRY), if !self.failed.is_empty() => {
                    let failed = std::mem::take(&mut self.failed);
                    self.look(&labelled, false, |place| failed.contains(&place.uid)).await;
                },
                _ = reap.tick(), if !self.serving.is_empty() => {
                    self.serving.values().for_each(|serving| serving.pod.tunnels.reap());
                },
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
        self.leave().await;
    }

    /// Looks at pods of this node, and has each captured or released as labels say.
    async fn look(&mut self, labelled: &Informer<Object>, first: bool, of: impl Fn(&PodPlace) -> bool) {
        let namespaces = self.informers.of::<Namespace>();
        let pods = self.informers.of::<Object>();
        for place in self.shared.config.namespaces.places().into_iter().filter(of) {
            let namespace = namespaces.get("", &place.namespace);
            let labels = namespace.and_then(|namespace| namespace.metadata.labels.clone()).unwrap_or_default();
            // a pod's own label is newest where only that is watched
            let own = labelled.get(&place.namespace, &place.name);
            let wanted = own.map_or_else(|| enrolment::enrols(Some(&labels)), |pod| takes_part(&labels, &pod));
            if !wanted {
                self.release(&place, first).await;
                continue;
            }
            let captured = match pods.get(&place.namespace, &place.name) {
                Some(pod) if pod.metadata.uid.as_deref() == Some(&*place.uid) => self.capture(&place, &pod).await,
                _ => Err(CaptureError::Unknown),
            };
            if let Err(error) = captured {
                warn!(namespace = %place.namespace, pod = %place.name, error = %Chain(&error), "a pod cannot join the mesh");
                self.failed.insert(place.uid);
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Attached { place, pod, done } => {
                let captured = self.capture(&place, &pod).await;
                // who waited may have given up; the pod is not started then
                let _told = done.send(captured);
            }
            Command::Detached { uid } => {
                self.failed.remove(&uid);
                if let Some(draining) = self.draining.remove(&uid) {
                    draining.cancel();
                }
                if let Some(serving) = self.serving.remove(&uid) {
                    self.forget(&serving.pod);
                    serving.end().await;
                }
            }
        }
    }

    async fn capture(&mut self, place: &PodPlace, object: &Object) -> Result<(), CaptureError> {
        if self.serving.contains_key(&place.uid) {
            return Ok(());
        }
        self.follow().await?;
        if let Some(draining) = self.draining.remove(&place.uid) {
            draining.cancel();
        }
        let workload = Workload::of(object);
        let id = workload.id(&self.shared.config.trust_domain).ok_or_else(|| CaptureError::Name {
            namespace: workload.namespace.to_string(),
            service_account: workload.service_account.to_string(),
        })?;
        let (shared, uid) = (Arc::clone(&self.shared), place.uid.clone());
        let (identity, netns, doors) = blocking(move || {
            let identity = shared.identities.get(&id)?;
            let (netns, doors) = open(&shared, &uid)?;
            Ok((identity, netns, doors))
        })
        .await?;
        let serving = self.serve(place, workload, identity, Arc::clone(&netns), doors);
        {
            let mut captured = self.shared.captured.write();
            captured.by_address.insert(place.address, Arc::clone(&serving.pod));
            captured.by_uid.insert(place.uid.clone(), Arc::clone(&serving.pod));
        }
        let ruled = blocking(move || netns.capture().map_err(|source| failed("lead connections to the mesh", source)));
        if let Err(error) = ruled.await {
            self.forget(&serving.pod);
            serving.end().await;
            return Err(error);
        }
        info!(namespace = %place.namespace, pod = %place.name, id = %serving.pod.identity.id, "a pod takes part in the mesh");
        self.serving.insert(place.uid.clone(), serving);
        Ok(())
    }

    /// Fills the directory and keeps it current, from the first pod on.
    async fn follow(&mut self) -> Result<(), CaptureError> {
        if self.following {
            return Ok(());
        }
        let (ready, filled) = oneshot::channel();
        let (shared, informers) = (Arc::clone(&self.shared), self.informers.clone());
        self.tasks.spawn(async move { follow::run(&shared, &informers, ready).await });
        let (shared, stop) = (Arc::clone(&self.shared), CancellationToken::new());
        self.tasks.spawn(async move { shared.identities.run(stop).await });
        let (judge, informers, stop) =
            (Arc::clone(&self.shared.judge), self.informers.clone(), CancellationToken::new());
        self.tasks.spawn(async move {
            tokio::join!(policy::run(judge, &informers, stop), unserved::run(&informers));
        });
        let server = self.shared.server();
        self.tasks.spawn(async move { server.tend(CancellationToken::new()).await });
        filled.await.map_err(|_| CaptureError::Stopped)?;
        // who comes before the routes are known is carried past them
        let _known = timeout(ROUTES, self.shared.config.routes.loaded()).await;
        // nothing may be let through that a policy forbids
        timeout(POLICIES, self.shared.judge.ready()).await.map_err(|_| CaptureError::Policies)?;
        self.following = true;
        Ok(())
    }

    fn serve(
        &self,
        place: &PodPlace,
        workload: Workload,
        identity: Arc<Identity>,
        netns: Arc<dyn PodNetns>,
        doors: Vec<(Door, TcpListener)>,
    ) -> Serving {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let cut = self.cut.token().child_token();
        let tunnels = Tunnels::new(Arc::clone(&identity), Arc::clone(&netns), connections.clone(), cut.clone());
        let guard = ArcSwap::new(self.shared.guard(&workload));
        let workload = ArcSwap::from_pointee(workload);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ports = Mutex::default();
        let pod = Arc::new(Pod { number, place: place.clone(), netns, identity, tunnels, workload, guard, ports });
        let mut accepting = JoinSet::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        for (door, listener) in doors {
            let accept = Accept {
                door,
                shared: Arc::clone(&self.shared),
                pod: Arc::clone(&pod),
                stop: stop.clone(),
                cut: cut.clone(),
                connections: connections.clone(),
                room: Arc::clone(&room),
            };
            accepting.spawn(accept.run(listener));
        }
        Serving { pod, stop, accepting, cut, connections }
    }

    /// Has a pod take part no more. At the first look also one that a process before this one has left captured.
    async fn release(&mut self, place: &PodPlace, first: bool) {
        let (shared, uid) = (Arc::clone(&self.shared), place.uid.clone());
        let Some(mut serving) = self.serving.remove(&place.uid) else {
            if first && let Err(error) = blocking(move || clear(&shared, &uid)).await {
                warn!(namespace = %place.namespace, pod = %place.name, error = %Chain(&error), "a pod cannot leave the mesh");
            }
            return;
        };
        let netns = Arc::clone(&serving.pod.netns);
        let ruled =
            blocking(move || netns.release().map_err(|source| failed("lead connections past the mesh", source)));
        if let Err(error) = ruled.await {
            warn!(namespace = %place.namespace, pod = %place.name, error = %Chain(&error), "a pod cannot leave the mesh");
            self.serving.insert(uid.clone(), serving);
            self.failed.insert(uid);
            return;
        }
        self.forget(&serving.pod);
        serving.stop.cancel();
        while serving.accepting.join_next().await.is_some() {}
        info!(namespace = %place.namespace, pod = %place.name, "a pod takes part in the mesh no more");
        let again = CancellationToken::new();
        self.draining.insert(uid, again.clone());
        self.tasks.spawn(async move {
            serving.connections.close();
            let drained = timeout(DRAIN, serving.connections.wait());
            tokio::select! {
                _ = drained => {}
                // captured again, or gone: the rules are not ours to remove
                () = again.cancelled() => {}
            }
            let netns = Arc::clone(&serving.pod.netns);
            let captured_again = again.is_cancelled();
            serving.end().await;
            if !captured_again
                && let Err(error) = blocking(move || netns.forget().map_err(|e| failed("clean up", e))).await
            {
                debug!(error = %Chain(&error), "cannot clean up after a pod that took part");
            }
        });
    }

    fn forget(&self, pod: &Arc<Pod>) {
        self.shared.judge.forget(&Key::new(&*pod.place.namespace, &*pod.place.name));
        let mut captured = self.shared.captured.write();
        captured.by_uid.remove(&pod.place.uid);
        if captured.by_address.get(&pod.place.address).is_some_and(|other| Arc::ptr_eq(other, pod)) {
            captured.by_address.remove(&pod.place.address);
        }
    }

    /// The end: connections are cut, and rules stay where they are to keep others out.
    async fn leave(mut self) {
        for (_, serving) in std::mem::take(&mut self.serving) {
            if self.shared.config.when_down == WhenDown::LetThrough {
                let netns = Arc::clone(&serving.pod.netns);
                let released = blocking(move || {
                    netns
                        .release()
                        .and_then(|()| netns.forget())
                        .map_err(|e| failed("lead connections past the mesh", e))
                });
                if let Err(error) = released.await {
                    warn!(pod = %serving.pod.place.name, error = %Chain(&error), "a pod stays out of reach");
                }
            }
            self.forget(&serving.pod);
            serving.end().await;
        }
        self.shared.server().end().await;
        self.tasks.shutdown().await;
    }
}

impl Serving {
    /// Ends everything at once.
    async fn end(mut self) {
        self.stop.cancel();
        self.cut.cancel();
        while self.accepting.join_next().await.is_some() {}
        self.connections.close();
        self.connections.wait().await;
    }
}

/// The name of a namespace whose label says something else than before.
fn turned(change: &Change<Namespace>) -> Option<String> {
    let (before, now) = match change {
        Change::Applied { old, new } => (old.as_ref().is_some_and(|old| enrols(old)), enrols(new)),
        Change::Deleted(last) => (enrols(last), false),
    };
    (before != now).then(|| change.object().metadata.name.clone().unwrap_or_default())
}

fn enrols(namespace: &Namespace) -> bool {
    enrolment::enrols(namespace.metadata.labels.as_ref())
}

/// A pod's namespace with the sockets that its connections will be led to.
type Opened = (Arc<dyn PodNetns>, Vec<(Door, TcpListener)>);

fn open(shared: &Shared, uid: &str) -> Result<Opened, CaptureError> {
    let netns = shared.config.namespaces.open(uid).map_err(|source| failed("look", source))?;
    let listen = |door: Door| Ok((door, sockets::listen(&netns, door.address())?));
    let doors = Door::ALL.into_iter().map(listen).collect::<io::Result<Vec<_>>>();
    let doors = doors.map_err(|source| failed("listen", source))?;
    Ok((netns, doors))
}

/// Removes what a process before this one has left.
fn clear(shared: &Shared, uid: &str) -> Result<(), CaptureError> {
    let netns = shared.config.namespaces.open(uid).map_err(|source| failed("look", source))?;
    let cleared = netns.is_captured().and_then(|captured| match captured {
        true => netns.release().and_then(|()| netns.forget()),
        false => Ok(()),
    });
    cleared.map_err(|source| failed("clean up", source))
}

fn failed(action: &'static str, source: io::Error) -> CaptureError {
    CaptureError::Namespace { action, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CaptureError> + Send + 'static,
) -> Result<T, CaptureError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(CaptureError::Stopped),
        },
    }
}

/// One of a pod's doors.
struct Accept {
    door: Door,
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
    room: Arc<Semaphore>,
}

impl Accept {
    async fn run(self, listener: TcpListener) {
        loop {
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.take(stream, from.ip(), permit),
                Err(error) => {
                    warn!(pod = %self.pod.place.name, %error, "cannot accept a connection of a pod");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // what the rules have led here already
        while let (Some(Ok((stream, from))), Ok(permit)) =
            (listener.accept().now_or_never(), Arc::clone(&self.room).try_acquire_owned())
        {
            self.take(stream, from.ip(), permit);
        }
    }

    fn take(&self, stream: TcpStream, from: IpAddr, permit: tokio::sync::OwnedSemaphorePermit) {
        let (door, shared, pod) = (self.door, Arc::clone(&self.shared), Arc::clone(&self.pod));
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.connections.spawn(async move {
            let _permit = permit;
            let served = async {
                match door {
                    Door::Outbound => outbound::serve(&shared, &pod, stream, &stop).await,
                    Door::Inbound => inbound::plain(&shared, &pod, stream, &stop).await,
                    Door::Tunnel => inbound::tunnel(&shared, &pod, stream, &stop).await,
                }
            };
            tokio::select! {
                () = cut.cancelled() => {}
                served = served => if let Err(error) = served {
                    debug!(pod = %pod.place.name, %from, error = %Chain(&error), "a connection ended with an error");
                }
            }
        });
    }
}

/// An error with what caused it.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0;
        while let Some(source) = error.source() {
            write!(f, ": {source}")?;
            error = source;
        }
        Ok(())
    }
}
