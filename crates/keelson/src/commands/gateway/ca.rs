//! `keelson gateway ca`: certificates for development, by an authority of the data directory's own.
//!
//! It signs what browsers and clients of a developer see at the gateway, and nothing of the cluster or the mesh trusts it:
//! whoever imports its root trusts no more than that.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Context;
use identity::Authority;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    cli::Ca,
    data_dir::Layout,
    exit::{Exit, Failure},
};

/// Names of its files, `DIR/pki/gateway-ca.crt` and `.key`.
const FILES: &str = "gateway-ca";

/// The name that a developer finds it under among the roots of a browser.
const NAME: &str = "Keelson gateway (development)";

/// Prints the root, or a Secret with a new certificate.
///
/// # Errors
/// [`Exit::Usage`] for names that are none, others when the authority cannot be read or made.
pub(super) fn main(flags: &Ca) -> Result<(), Failure> {
    let config = crate::commands::settings_at(&flags.at)?;
    let folder = Layout::new(&config.data_dir).pki();
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let now = Timestamp::now();
    let authority = Authority::load_or_create_named(&folder, FILES, NAME, now)?;
    if flags.export {
        print!("{}", authority.trusted_pem());
        return Ok(());
    }
    let (addresses, names): (Vec<_>, Vec<_>) = flags.hosts.iter().partition(|host| host.parse::<IpAddr>().is_ok());
    let addresses: Vec<IpAddr> = addresses.iter().filter_map(|host| host.parse().ok()).collect();
    let names: Vec<String> = names.into_iter().cloned().collect();
    let first = flags.hosts.first().map_or("", String::as_str);
    let made = authority.server(first, &names, &addresses, now).map_err(|error| Exit::Usage.because(error))?;
    let data = BTreeMap::from([
        ("ca.crt", authority.certificate_pem()),
        ("tls.crt", made.certificate_pem),
        ("tls.key", made.key_pem),
    ]);
    let mut metadata = json!({"name": flags.secret});
    if let Some(namespace) = &flags.namespace {
        metadata["namespace"] = json!(namespace);
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "stringData": data,
    });
    print!("{}", serde_saphyr::to_string(&secret).context("write YAML")?);
    Ok(())
}
