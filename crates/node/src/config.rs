//! What a node needs to know.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the Node object.
    pub name: String,
    /// Directory of pod volumes and container logs.
    pub root_dir: PathBuf,
    /// Address that pods of this node see as their host's, and the node's InternalIP.
    pub node_ip: IpAddr,
    /// Address of the cluster DNS service.
    pub cluster_dns: IpAddr,
    /// Domain of the cluster, usually `cluster.local`.
    pub cluster_domain: String,
    /// Labels of the Node object besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Pods the node takes.
    pub pods_max: u32,
}

impl NodeConfig {
    /// Where a pod's volumes and small files are.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Where the logs of a pod's containers are, named as upstream names them.
    pub(crate) fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.root_dir.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }

    /// Where `localhostProfile` paths begin.
    pub(crate) fn seccomp_dir(&self) -> PathBuf {
        self.root_dir.join("seccomp")
    }
}
