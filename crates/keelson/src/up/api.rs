//! The control plane's server: store, identities, API.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, anyhow};
use apiserver::{
    ApiServer, ApiServerConfig, EncryptionAtRest, OidcConfig, SharedTls, User,
    allocation::Block,
    audit::{AuditConfig, Auditor, LogOptions, Policy, Webhook},
};
use identity::{Authority, TokenSigner};
use jiff::Timestamp;
use network::Slot;
use tokio::{net::TcpListener, sync::watch};

use super::{
    address,
    certificates::{Certificates, FrontProxyRoots, Roots},
    cluster_objects,
    front_proxy::FrontProxy,
    store,
};
use crate::{
    config::{Audit, AuditLog, Config},
    data_dir::Layout,
    exit::{Exit, Failure},
    supervisor::{Fate, Supervisor},
};

/// Issuer of service-account tokens, as in every Kubernetes.
const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Service range of a control plane without a node, where no address is ever routed: it begins where upstream's default
/// does, whose addresses upstream's suites write down, and is wider than its 254 addresses.
const SERVICE_BLOCK_WITHOUT_NODE: Block = Block { network: Ipv4Addr::new(10, 0, 0, 0), prefix: 16 };

/// The running API and what is needed to reach it.
pub(super) struct Api {
    /// The server.
    pub(super) server: Arc<ApiServer>,
    /// Its URL for clients on this machine.
    pub(super) url: String,
    /// The port it listens on.
    pub(super) port: u16,
    /// The address it was told to listen on.
    pub(super) listen: IpAddr,
    /// First address of the service range: that of the Service `kubernetes`.
    pub(super) service_block: Block,
    /// Signs certificates.
    pub(super) authority: Arc<Authority>,
    /// Signs tokens.
    pub(super) signer: Arc<TokenSigner>,
    /// How Secrets are kept.
    pub(super) at_rest: Arc<EncryptionAtRest>,
    /// How aggregated servers recognise this one.
    pub(super) front_proxy: Arc<FrontProxy>,
    certificates: Arc<Certificates>,
}

impl Api {
    /// A client in this process that may do everything: for what a start makes sure of.
    pub(super) fn administrator(&self) -> kube::Client {
        self.server.client(User::new("system:apiserver", &["system:masters", "system:authenticated"]))
    }

    /// A client in this process for a component, which may do what is bound to its name.
    pub(super) fn client(&self, component: &str) -> kube::Client {
        self.server.client(User::new(component, &["system:authenticated"]))
    }

    /// A client in this process for a node, which may do what its pods need.
    pub(super) fn node_client(&self, node: &str) -> kube::Client {
        self.server.client(User::new(format!("system:node:{node}"), &["system:nodes", "system:authenticated"]))
    }

    /// By whom clients are believed; stays current.
    pub(super) fn roots(&self) -> watch::Receiver<Roots> {
        self.certificates.roots()
    }

    /// Answers on one more socket.
    pub(super) fn listen_also(&self, name: &str, listener: TcpListener, supervisor: &mut Supervisor) {
        serve(name, self.server.clone(), listener, self.certificates.tls(), supervisor);
    }

    /// Writes the administrator's kubeconfig, and keeps it and the server's certificate valid from then on; where the roots
    /// are published, those of now are.
    pub(super) fn keep_certificates(&self, layout: &Layout, supervisor: &mut Supervisor) -> anyhow::Result<()> {
        self.certificates.write_admin_kubeconfig(layout.admin_kubeconfig(), &self.url, Timestamp::now())?;
        let (certificates, url) = (self.certificates.clone(), self.url.clone());
        supervisor.start("certificates", Fate::Restarted, move |stop| {
            let (certificates, url) = (certificates.clone(), url.clone());
            async move {
                certificates.run(url, stop).await;
                anyhow::Ok(())
            }
        });
        let (client, url, roots, proxy) =
            (self.administrator(), self.url.clone(), self.roots(), self.front_proxy.clone());
        supervisor.start("published roots", Fate::Restarted, move |stop| {
            let (client, url, mut roots, proxy) = (client.clone(), url.clone(), roots.clone(), proxy.clone());
            async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return anyhow::Ok(()),
                        changed = roots.changed() => changed?,
                    }
                    let now = roots.borrow_and_update().clone();
                    cluster_objects::publish_roots(&client, &url, &now, &proxy).await?;
                }
            }
        });
        Ok(())
    }
}

/// Opens the store and starts answering.
pub(super) async fn start(
    config: &Config,
    layout: &Layout,
    listener: TcpListener,
    slot: Option<Slot>,
    supervisor: &mut Supervisor,
) -> Result<Api, Failure> {
    let (options, at_rest) = store::options(config, layout)?;
    let store = store::open(config, layout, options).await?;
    let (kept, keys) = (store.clone(), at_rest.clone());
    supervisor.start("encryption", Fate::Restarted, move |stop| {
        let (store, at_rest) = (kept.clone(), keys.clone());
        async move {
            store::follow_keys(store, at_rest, stop).await;
            anyhow::Ok(())
        }
    });
    let now = Timestamp::now();
    let authority = Authority::load_or_create(&layout.pki(), now).map_err(|e| Exit::Data.because(e))?;
    let signer =
        TokenSigner::load_or_create(&layout.pki().join("sa.key"), TOKEN_ISSUER).map_err(|e| Exit::Data.because(e))?;
    let unrouted = config.service_block.unwrap_or(SERVICE_BLOCK_WITHOUT_NODE);
    let service_block = slot.map_or(unrouted, |slot| {
        let range = slot.service_cidr();
        Block { network: range.network, prefix: range.prefix }
    });
    let (authority, signer) = (Arc::new(authority), Arc::new(signer));
    let auditor = auditor(&config.audit, layout)?;
    let oidc = oidc(config).map_err(|error| Exit::Configuration.because(error))?;
    let api_config = ApiServerConfig {
        service_block,
        oidc,
        request_header: config.request_header.headers.clone(),
        auditor,
        seats: config.seats,
        event_ttl: config.event_ttl,
        pod_security: config.pod_security.clone(),
        ..ApiServerConfig::default()
    };
    let server = ApiServer::new(store, api_config, signer.clone());
    server.bootstrap().await.context("create the default namespaces and roles")?;
    let bound = listener.local_addr().context("ask for the API's own address")?;
    let (names, addresses) = reached_as(bound, slot, service_block);
    let proxy_authority = FrontProxy::authority(layout, now).map_err(|e| Exit::Data.because(e))?;
    let believed = match &config.request_header.client_ca_file {
        None => FrontProxyRoots::Own(proxy_authority.clone()),
        Some(file) => FrontProxyRoots::File(file.clone()),
    };
    let certificates = Certificates::new(authority.clone(), believed, names, addresses, now);
    let certificates = Arc::new(certificates.map_err(|error| Exit::Configuration.because(error))?);
    serve("api", server.clone(), listener, certificates.tls(), supervisor);
    if config.store.is_some() {
        let following = server.clone();
        supervisor.start("changes of other servers", Fate::Restarted, move |stop| {
            let server = following.clone();
            async move {
                server.follow(stop).await;
                anyhow::Ok(())
            }
        });
    }
    let upkeep = server.clone();
    supervisor.start("api upkeep", Fate::Restarted, move |stop| {
        let server = upkeep.clone();
        async move {
            server.run(stop).await;
            anyhow::Ok(())
        }
    });
    let aggregating = server.clone();
    supervisor.start("aggregation", Fate::Restarted, move |stop| {
        let server = aggregating.clone();
        async move {
            server.aggregate(stop).await;
            anyhow::Ok(())
        }
    });
    let front_proxy = FrontProxy::start(proxy_authority, server.clone(), config.request_header.headers.clone(), now);
    let front_proxy = Arc::new(front_proxy.map_err(|e| Exit::Data.because(e))?);
    let (renewing, roots) = (front_proxy.clone(), certificates.roots());
    supervisor.start("front proxy", Fate::Restarted, move |stop| {
        let (proxy, roots) = (renewing.clone(), roots.clone());
        async move {
            proxy.run(roots, stop).await;
            anyhow::Ok(())
        }
    });
    let host = if bound.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bound.ip() };
    let url = format!("https://{}", SocketAddr::new(host, bound.port()));
    tracing::info!(url, node = config.node_enabled, "the API answers");
    Ok(Api {
        server,
        url,
        port: bound.port(),
        listen: bound.ip(),
        service_block,
        authority,
        signer,
        at_rest,
        certificates,
        front_proxy,
    })
}

/// The identity provider with its authorities.
fn oidc(config: &Config) -> anyhow::Result<Option<OidcConfig>> {
    let Some(settings) = &config.oidc else { return Ok(None) };
    let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("oidc.caFile {}", file.display()));
    let ca_pem = settings.ca_file.as_ref().map(read).transpose()?;
    Ok(Some(OidcConfig { ca_pem, ..settings.provider.clone() }))
}

fn auditor(settings: &Audit, layout: &Layout) -> Result<Option<Arc<Auditor>>, Failure> {
    let path = match &settings.log {
        AuditLog::Off => None,
        AuditLog::DataDir => Some(layout.audit_log()),
        AuditLog::File(path) => Some(path.clone()),
    };
    let webhook = settings.webhook.as_deref().map(Webhook::read).transpose();
    let webhook = webhook.map_err(|error| Exit::Configuration.because(error))?;
    if path.is_none() && webhook.is_none() {
        return Ok(None);
    }
    let policy = match &settings.policy {
        None => Policy::default(),
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| format!("read the audit policy {}", file.display()));
            let bytes = bytes.map_err(|error| Exit::Configuration.because(error))?;
            let policy = Policy::parse(&bytes).with_context(|| file.display().to_string());
            policy.map_err(|error| Exit::Configuration.because(error))?
        }
    };
    let Audit { bytes_max, backups_max, age_max, .. } = *settings;
    let log = path.map(|path| LogOptions { path, bytes_max, backups_max, age_max });
    let auditor = Auditor::open(AuditConfig { policy, log, webhook }).map_err(|error| Exit::Data.because(error))?;
    Ok(Some(auditor))
}

fn serve(name: &str, server: Arc<ApiServer>, listener: TcpListener, tls: SharedTls, supervisor: &mut Supervisor) {
    let mut listener = Some(listener);
    supervisor.start(name, Fate::Essential, move |stop| {
        let (server, tls, listener) = (server.clone(), tls.clone(), listener.take());
        async move {
            let listener = listener.ok_or_else(|| anyhow!("its socket is gone"))?;
            server.serve(listener, tls, stop).await;
            anyhow::Ok(())
        }
    });
}

/// Every name and address under which clients reach the API.
fn reached_as(bound: SocketAddr, slot: Option<Slot>, service_block: Block) -> (Vec<String>, Vec<IpAddr>) {
    let mut names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    names.push("kubernetes.default.svc.cluster.local".to_owned());
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(first_of(service_block))];
    addresses.extend(slot.map(|slot| IpAddr::V4(slot.bridge_ip())));
    if bound.ip().is_unspecified() {
        addresses.extend(address::of_this_machine());
    } else {
        addresses.push(bound.ip());
    }
    addresses.sort_unstable();
    addresses.dedup();
    (names, addresses)
}

/// The address of the Service `kubernetes`.
pub(super) fn first_of(block: Block) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block.network) + 1)
}
