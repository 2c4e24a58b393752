//! The server: its parts, how it is made, and the ways in (sockets, and in process).

use std::{
    convert::Infallible,
    net::IpAddr,
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use identity::TokenSigner;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use store::{Change, Snapshot, Store, Tenure};
use strategy::User;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    addresses,
    admission::PodSecurity,
    aggregation::{self, Aggregation},
    allocation::{AllocationTurns, Block, NODE_PORTS, ServiceAllocator},
    audit::Auditor,
    authentication::{Authenticator, OidcConfig, RequestHeaderConfig},
    authorization::{Authorizer, NodeAuthorizer},
    body::{Body, BoxError},
    codec, connection, crd,
    decoded::Decoded,
    events,
    flow::{self, FlowControl},
    health::Health,
    metrics::ServerMetrics,
    node::NodeConnector,
    openapi::Documents,
    outbound::Outbound,
    policies::{self, Policies},
    resources::{Registry, Served},
    tls::SharedTls,
    turns::Turns,
    webhooks::{self, Webhooks},
    written::Written,
};

/// Collections that feed the authorizer.
const RBAC: [&str; 4] = [
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/rolebindings",
];
/// Collection of Services, whose addresses the server hands out.
pub(crate) const SERVICES: &str = "core/services";

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct ApiServerConfig {
    /// Where cluster IPs of Services come from.
    pub service_block: Block,
    /// Where node ports come from.
    pub node_ports: RangeInclusive<u16>,
    /// Audiences a token for this API may name, besides its issuer.
    pub audiences: Vec<String>,
    /// What pods have to keep to.
    pub pod_security: PodSecurity,
    /// The identity provider whose users are known here.
    pub oidc: Option<OidcConfig>,
    /// Front proxies whose headers name users.
    pub request_header: RequestHeaderConfig,
    /// Who takes notes of requests; `None` takes none.
    pub auditor: Option<Arc<Auditor>>,
    /// Requests served at once, of everybody who is not exempt.
    pub seats: u32,
    /// How long an Event lives after it was last written.
    pub event_ttl: Duration,
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            service_block: Block { network: std::net::Ipv4Addr::new(10, 96, 0, 0), prefix: 16 },
            node_ports: NODE_PORTS,
            audiences: Vec::new(),
            pod_security: PodSecurity::default(),
            oidc: None,
            request_header: RequestHeaderConfig::default(),
            auditor: None,
            seats: flow::SEATS,
            event_ttl: events::TTL,
        }
    }
}

/// Appends metrics.
type MetricsSource = Box<dyn Fn(&mut String) + Send + Sync>;

/// The Kubernetes API over a store.
pub struct ApiServer {
    pub(crate) store: Store,
    pub(crate) audiences: Vec<String>,
    pub(crate) auditor: Option<Arc<Auditor>>,
    pub(crate) flow: FlowControl,
    pub(crate) event_ttl: Duration,
    pub(crate) registry: Registry,
    pub(crate) authorizer: Authorizer,
    rbac_changing: Mutex<()>,
    pub(crate) authenticator: Authenticator,
    pub(crate) services: Arc<ServiceAllocator>,
    pub(crate) allocation_turns: AllocationTurns,
    pub(crate) decoded: Decoded,
    pub(crate) written: Written,
    pub(crate) pod_security: PodSecurity,
    pub(crate) quota_turns: Turns,
    pub(crate) metrics: ServerMetrics,
    pub(crate) health: Health,
    /// Who else has something to tell at `/metrics`.
    more_metrics: RwLock<Vec<MetricsSource>>,
    pub(crate) documents: Documents,
    pub(crate) webhooks: Webhooks,
    pub(crate) policies: Policies,
    pub(crate) outbound: Outbound,
    pub(crate) aggregation: Aggregation,
    node_connector: RwLock<Option<Arc<dyn NodeConnector>>>,
    /// Upgraded connections on their way through to pods and nodes.
    pub(crate) tunnels: TaskTracker,
    /// Writes whose clients went away before the answer.
    pub(crate) writes: TaskTracker,
}

/// Who is at the other end, and when the conversation has to end.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Known from the connection; requests may bring a token instead.
    pub(crate) user: Option<Arc<User>>,
    /// Second from which the certificate that says so is no good any more.
    pub(crate) until: i64,
    /// Whether headers name the user.
    pub(crate) is_front_proxy: bool,
    pub(crate) peer: Option<IpAddr>,
    /// Ends watches when the connection drains.
    pub(crate) draining: CancellationToken,
    /// Whether it is a part of this process, which everybody else waits for and which therefore never waits.
    pub(crate) is_component: bool,
    /// What its writes rest on, where it does what one of several servers does at a time.
    pub(crate) tenure: Option<Arc<Tenure>>,
}

impl Caller {
    /// Somebody in this process.
    pub(crate) fn within(user: Option<Arc<User>>) -> Self {
        Self {
            user,
            until: i64::MAX,
            is_front_proxy: false,
            peer: None,
            draining: CancellationToken::new(),
            is_component: false,
            tenure: None,
        }
    }
}

impl ApiServer {
    /// A server over `store`. Token signer: signs service-account tokens and verifies the ones that come back.
    pub fn new(store: Store, config: ApiServerConfig, signer: Arc<TokenSigner>) -> Arc<Self> {
        let mut audiences = config.audiences;
        audiences.push(signer.issuer().to_owned());
        let server = Self {
            audiences: audiences.clone(),
            auditor: config.auditor,
            flow: FlowControl::new(config.seats),
            event_ttl: config.event_ttl,
            registry: Registry::new(),
            authorizer: Authorizer::new(),
            rbac_changing: Mutex::new(()),
            authenticator: Authenticator::new(signer, audiences, config.oidc, config.request_header),
            services: ServiceAllocator::new(config.service_block, config.node_ports),
            allocation_turns: AllocationTurns::default(),
            decoded: Decoded::default(),
            written: Written::default(),
            pod_security: config.pod_security,
            quota_turns: Turns::default(),
            metrics: ServerMetrics::default(),
            health: Health::default(),
            more_metrics: RwLock::default(),
            documents: Documents::default(),
            webhooks: Webhooks::default(),
            policies: Policies::default(),
            outbound: Outbound::new(store.clone()),
            aggregation: Aggregation::default(),
            node_connector: RwLock::new(None),
            tunnels: TaskTracker::new(),
            writes: TaskTracker::new(),
            store,
        };
        let nodes = NodeAuthorizer::new(server.store.clone(), crate::bootstrap_policy::node_rules());
        server.authorizer.set_nodes(nodes);
        server.load();
        let store = server.store.clone();
        let check = move || match store.health() {
            store::Health::Serving => Ok(()),
            store::Health::Failing(error) | store::Health::Broken(error) => Err(error.to_string()),
        };
        server.health.watch_storage(Arc::new(check));
        Arc::new(server)
    }

    /// Reads what the server keeps in memory besides the store: access rules, definitions, allocations.
    fn load(&self) {
        // each index reads under its own lock, so that a write in the meantime is not undone by an older state
        let objects = |collection: &'static str| {
            let read = move || {
                let snapshot = self.store.snapshot();
                let objects = snapshot.range(collection, "", None).filter_map(|(path, object)| {
                    codec::stored(&object.bytes).ok().map(|object| (collection, path.to_string(), object))
                });
                objects.collect::<Vec<_>>()
            };
            std::iter::once_with(read).flatten()
        };
        let _one_at_a_time = self.rbac_changing.lock();
        let rbac: Vec<_> = RBAC.into_iter().flat_map(objects).collect();
        self.authorizer.replace_all(rbac.iter().map(|(collection, path, object)| (*collection, &**path, object)));
        let definitions = || {
            let snapshot = self.store.snapshot();
            let stored = snapshot.range(crd::COLLECTION, "", None);
            stored.filter_map(|(_, object)| crd::Definition::decode(&object.bytes)).collect::<Vec<_>>()
        };
        self.registry.load(std::iter::once_with(definitions).flatten());
        self.webhooks.load([webhooks::MUTATING, webhooks::VALIDATING].into_iter().flat_map(objects));
        self.aggregation.load(objects(aggregation::COLLECTION).map(|(_, name, object)| (name, object)));
        self.policies.load(|| [policies::POLICIES, policies::BINDINGS].into_iter().flat_map(objects).collect());
        let services: Vec<Value> = objects(SERVICES).map(|(_, _, object)| object).collect();
        self.services.load(services.iter());
        self.follow_ranges();
        self.flow.reload(&self.store);
    }

    /// Takes over what a commit changed, before the writer is answered, so that the next request sees it.
    pub(crate) fn committed(&self, collection: &str, path: &str) {
        let read = || {
            let snapshot = self.store.snapshot();
            snapshot.get(collection, path).and_then(|object| codec::stored(&object.bytes).ok())
        };
        if RBAC.contains(&collection) {
            // reading and applying are one step, so that of two concurrent changes the later state wins
            let _one_at_a_time = self.rbac_changing.lock();
            self.authorizer.apply(collection, path, read().as_ref());
        } else if collection == crd::COLLECTION {
            self.registry.refresh(path, || {
                let snapshot = self.store.snapshot();
                snapshot.get(collection, path).and_then(|object| crd::Definition::decode(&object.bytes))
            });
        } else if collection == strategy::flow::objects::SCHEMAS || collection == strategy::flow::objects::LEVELS {
            self.flow.committed(collection, path, &self.store);
        } else if collection == addresses::RANGES {
            self.follow_ranges();
        }
        self.webhooks.apply(collection, path, read);
        self.policies.apply(collection, path, read);
        self.aggregation.apply(collection, path, read);
    }

    /// Keeps what the server holds in memory besides the store current with what other servers change, until `stop`. A store
    /// of our own has no other servers.
    pub async fn follow(&self, stop: CancellationToken) {
        let Some(mut changes) = self.store.changes() else { return stop.cancelled().await };
        // what changed between the start-up load and now
        self.load();
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = stop.cancelled() => return,
            };
            match change {
                Some(Change::Object(key)) => self.committed(&key.collection, &key.path),
                Some(Change::Everything) => self.load(),
                None => return,
            }
        }
    }

    /// The newest state.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    /// Lets go of what is kept for requests that follow upon others: a burst of them is over.
    pub fn rest(&self) {
        self.written.clear();
    }

    /// Lets go of the store's directory, so that another process can open it: from here on writes are refused. Blocks on the
    /// disk.
    pub fn close(&self) {
        self.store.close();
    }

    /// The path and the present bytes of an object of this resource, as it is stored. Who keeps objects in the same process
    /// need not keep them twice.
    pub fn stored(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<(Arc<str>, Bytes)> {
        let served = self.registry.find(group, version, plural)?;
        let snapshot = self.snapshot();
        let found = match namespace {
            "" => snapshot.entry(&served.collection, name),
            namespace => snapshot.entry(&served.collection, &[namespace, "/", name].concat()),
        };
        found.map(|(path, object)| (path.clone(), object.bytes.clone()))
    }

    /// `/metrics`.
    pub(crate) fn metrics_text(&self) -> Response<Body> {
        let table = self.registry.table();
        let snapshot = self.snapshot();
        let resources = table.iter().map(|served| (served.labels(), &*served.metrics));
        let stored = table.iter().filter(|served| served.api_version == served.stored_api_version);
        let count = |served: &Arc<Served>| {
            let resource = &served.resource;
            (resource.group.clone(), resource.plural.clone(), snapshot.count(&served.collection, "", None))
        };
        let objects: Vec<_> = stored.map(count).collect();
        let mut text = crate::metrics::render(&self.metrics, resources, &objects);
        crate::metrics::render_process(&mut text);
        crate::metrics::render_tasks(&mut text);
        if let Some(auditor) = &self.auditor {
            auditor.metrics(&mut text);
        }
        self.flow.metrics(&mut text);
        for source in &*self.more_metrics.read() {
            source(&mut text);
        }
        let mut response = Response::new(crate::body::full(text));
        let content_type = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        response
    }

    /// Lets another part of the process append what it has to tell to `/metrics`.
    pub fn add_metrics(&self, source: impl Fn(&mut String) + Send + Sync + 'static) {
        self.more_metrics.write().push(Box::new(source));
    }

    /// Gives the server the way to the nodes, for logs, exec, attach, port-forward and proxying.
    pub fn set_node_connector(&self, connector: Arc<dyn NodeConnector>) {
        *self.node_connector.write() = Some(connector);
    }

    pub(crate) fn node_connector(&self) -> Option<Arc<dyn NodeConnector>> {
        self.node_connector.read().clone()
    }

    /// A tower service that answers requests as `user`, or as whom the request's token says.
    pub fn service(self: &Arc<Self>, user: Option<User>) -> ApiService {
        let user = user.map(Arc::new);
        let caller = Caller::within(user);
        ApiService { server: self.clone(), caller }
    }

    /// A client for a component of this process: no socket, no TLS, and exempt from priority and fairness. Must be called
    /// within a Tokio runtime.
    pub fn client(self: &Arc<Self>, user: User) -> kube::Client {
        self.component(user, None)
    }

    /// A client of a component, whose writes may rest on a tenure.
    pub(crate) fn component(self: &Arc<Self>, user: User, tenure: Option<Arc<Tenure>>) -> kube::Client {
        let mut service = self.service(Some(user));
        service.caller.is_component = true;
        service.caller.tenure = tenure;
        kube::Client::new(service, "default")
    }

    /// What the server does by itself, until `stop`: it keeps the objects of priority and fairness as they should be, and
    /// deletes Events when their time has come.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(self.maintain_flow(&stop), self.expire_events(&stop), self.deliver_audit(&stop));
    }

    /// Answers on `listener` until `stop`, then drains: watches end at once, other requests may finish.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: impl Into<SharedTls>, stop: CancellationToken) {
        let server = self.clone();
        connection::serve(self, listener, tls.into(), stop).await;
        // told to end by the same signal
        for tasks in [&server.tunnels, &server.writes] {
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// The API as a tower service; made by [`ApiServer::service`].
#[derive(Clone)]
pub struct ApiService {
    server: Arc<ApiServer>,
    caller: Caller,
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, caller) = (self.server.clone(), self.caller.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(server.handle(request, caller).await) })
    }
}
