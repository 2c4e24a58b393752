//! The mesh on this node: what the proxy learns of the node's pods, and who vouches for them.
//!
//! The node attaches pods to a network that asks the mesh before a pod may run; neither knows of the other.

use std::{io, net::IpAddr, path::Path, sync::Arc};

use apiserver::EncryptionAtRest;
use futures::future::BoxFuture;
use identity::workload::{Seal, SealError, WorkloadAuthority};
use network::{Capture, Network, NetworkError, PodAddress, PodNamespace, PodNetwork};
use proxy::{
    Routes,
    mesh::{INBOUND_PORT, MARK, Mesh, MeshConfig, OUTBOUND_PORT, PodNamespaces, PodNetns, PodPlace, TUNNEL_PORT},
};
use reconcile::Informers;
use runtime::{Runtime, api::SandboxState};
use store::AtRest as _;

use super::api::Api;
use crate::{
    config::Config,
    data_dir::Layout,
    supervisor::{Fate, Supervisor},
};

/// As what the root's key is sealed: whatever guards Secrets guards it too.
const SEALED_AS: &str = "core/secrets";
/// In whose name identities are: the cluster's domain, as Istio has it.
const TRUST_DOMAIN: &str = "cluster.local";

/// Starts the mesh, and gives the network through which the node is to attach its pods.
pub(super) fn start(
    config: &Config,
    layout: &Layout,
    api: &Api,
    (runtime, network): (&Arc<Runtime>, &Arc<Network>),
    (informers, routes): (&Informers, &Routes),
    supervisor: &mut Supervisor,
) -> Arc<dyn PodNetwork> {
    let (path, seal) = (layout.pki().join("workload-ca.json"), Arc::new(Sealed(Arc::clone(&api.at_rest))));
    let pods = Arc::new(Pods { runtime: Arc::clone(runtime), network: Arc::clone(network) });
    let mesh_config = MeshConfig {
        trust_domain: TRUST_DOMAIN.to_owned(),
        authority: Arc::new(move |now| {
            WorkloadAuthority::load_or_create(&path, TRUST_DOMAIN, Arc::clone(&seal) as Arc<dyn Seal>, now)
        }),
        namespaces: Arc::clone(&pods) as Arc<dyn PodNamespaces>,
        when_down: config.mesh_when_down,
        routes: routes.clone(),
    };
    let mesh = Mesh::new(informers, mesh_config);
    let counted = mesh.clone();
    api.server.add_metrics(move |out| counted.render_metrics(out));
    let (running, shared) = (mesh.clone(), informers.clone());
    supervisor.start("mesh", Fate::Restarted, move |stop| {
        let (mesh, informers) = (running.clone(), shared.clone());
        async move {
            mesh.run(&informers, stop).await;
            anyhow::Ok(())
        }
    });
    Arc::new(Meshed { pods, mesh })
}

/// The pods of this node.
struct Pods {
    runtime: Arc<Runtime>,
    network: Arc<Network>,
}

impl Pods {
    fn place(&self, uid: &str) -> Option<PodPlace> {
        self.places().into_iter().find(|place| place.uid == uid)
    }
}

impl PodNamespaces for Pods {
    fn places(&self) -> Vec<PodPlace> {
        let own = self.runtime.sandboxes().into_iter();
        let own = own.filter(|sandbox| sandbox.state == SandboxState::Ready && sandbox.netns.is_some());
        let place = |config: runtime::api::SandboxConfig| {
            let address = IpAddr::V4(self.network.address(&config.uid)?.ip);
            Some(PodPlace { uid: config.uid, namespace: config.namespace, name: config.name, address })
        };
        own.filter_map(|sandbox| place(sandbox.config)).collect()
    }

    fn open(&self, uid: &str) -> io::Result<Arc<dyn PodNetns>> {
        let newest = self.runtime.sandboxes().into_iter().rev().find(|sandbox| sandbox.config.uid == uid);
        let netns = newest.and_then(|sandbox| sandbox.netns).ok_or(io::ErrorKind::NotFound)?;
        Netns::open(&netns, self.network.slot().bridge_ip()).map(|netns| Arc::new(netns) as Arc<dyn PodNetns>)
    }
}

/// The network namespace of a pod.
struct Netns {
    namespace: PodNamespace,
    capture: Capture,
}

impl Netns {
    fn open(path: &Path, node: std::net::Ipv4Addr) -> io::Result<Self> {
        let namespace = PodNamespace::open(path).map_err(io::Error::other)?;
        let capture = Capture { outbound: OUTBOUND_PORT, inbound: INBOUND_PORT, tunnel: TUNNEL_PORT, mark: MARK, node };
        Ok(Self { namespace, capture })
    }
}

impl PodNetns for Netns {
    fn within(&self, run: &mut dyn FnMut()) -> io::Result<()> {
        self.namespace.within(run)
    }

    fn capture(&self) -> io::Result<()> {
        self.namespace.capture(self.capture).map_err(io::Error::other)
    }

    fn release(&self) -> io::Result<()> {
        self.namespace.release().map_err(io::Error::other)
    }

    fn forget(&self) -> io::Result<()> {
        self.namespace.forget().map_err(io::Error::other)
    }

    fn is_captured(&self) -> io::Result<bool> {
        self.namespace.is_captured().map_err(io::Error::other)
    }
}

/// The pods' network, with the mesh in front of pods that take part.
struct Meshed {
    pods: Arc<Pods>,
    mesh: Mesh,
}

impl PodNetwork for Meshed {
    fn attach<'a>(&'a self, pod_uid: &'a str, netns: &'a Path) -> BoxFuture<'a, Result<PodAddress, NetworkError>> {
        Box::pin(async move {
            let address = self.pods.network.attach(pod_uid, netns).await?;
            let refused = |source: Box<dyn std::error::Error + Send + Sync>| NetworkError::Mesh { source };
            let place = self.pods.place(pod_uid).ok_or_else(|| refused("the sandbox is not there".into()))?;
            self.mesh.attached(place).await.map_err(|error| refused(error.into()))?;
            Ok(address)
        })
    }

    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(async move {
            self.mesh.detached(pod_uid).await;
            self.pods.network.detach(pod_uid).await
        })
    }

    fn address(&self, pod_uid: &str) -> Option<PodAddress> {
        self.pods.network.address(pod_uid)
    }

    fn attached(&self) -> Vec<String> {
        self.pods.network.attached()
    }
}

/// Seals as Secrets are sealed.
struct Sealed(Arc<EncryptionAtRest>);

impl Seal for Sealed {
    fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(self.0.seal(SEALED_AS, name, plain)?.unwrap_or_else(|| plain.to_vec()))
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(self.0.open(SEALED_AS, name, sealed)?.unwrap_or_else(|| sealed.to_vec()))
    }

    fn is_stale(&self, sealed: &[u8]) -> bool {
        self.0.stale(SEALED_AS, "", sealed)
    }
}
