//! One write about a pod.

use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use pod_lifecycle::status::patch;
use reconcile::Key;

/// The first minor version that knows `status.hostIPs`; earlier ones refuse to merge a list they do not know.
const HOST_IPS_SINCE: u32 = 28;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Write {
    Status(Box<PodStatus>),
    /// The end of a pod that waits for it.
    Delete,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Written {
    /// The pod as it is now.
    Pod(Box<Pod>),
    /// The pod is not there any more, or was told to go at once.
    Gone { uid: String },
    /// It has to be written again.
    Failed { uid: String },
}

/// Whether a server is too old for some fields.
pub(super) fn is_old(version: &Info) -> bool {
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    version.major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor < HOST_IPS_SINCE)
}

/// Writes; `uid` keeps it from touching another pod of the name.
pub(super) async fn write(client: Client, key: &Key, uid: &str, what: Write, old_server: bool) -> Written {
    let pods: Api<Pod> = Api::namespaced(client, &key.namespace);
    let uid = uid.to_owned();
    let result = match what {
        Write::Status(mut status) => {
            if old_server {
                status.host_ips = None;
            }
            let patch = Patch::Strategic(patch(&uid, &status));
            pods.patch_status(&key.name, &PatchParams::default(), &patch).await.map(|pod| Written::Pod(Box::new(pod)))
        }
        Write::Delete => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
            // finalizers may keep it; then there is nothing left to do either
            pods.delete(&key.name, &params).await.map(|_| Written::Gone { uid: uid.clone() })
        }
    };
    match result {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if status.code == 404 => Written::Gone { uid },
        Err(error) => {
            tracing::debug!(pod = key.name, namespace = key.namespace, %error, "cannot write about pod");
            Written::Failed { uid }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_lack_fields_are_known_by_their_version() {
        let version =
            |major: &str, minor: &str| Info { major: major.to_owned(), minor: minor.to_owned(), ..Info::default() };
        assert!(is_old(&version("1", "20")) && is_old(&version("1", "27+")));
        assert!(!is_old(&version("1", "28")) && !is_old(&version("1", "36+")) && !is_old(&version("2", "0")));
        assert!(!is_old(&version("", "")));
    }
}
