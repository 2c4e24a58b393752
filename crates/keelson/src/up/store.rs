//! Opening the store: the embedded one in the data directory, or an external etcd.

use std::{fmt::Write as _, fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use apiserver::{EncryptionAtRest, FRAMES, INDEXES, KubeApiserver};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use store::{EtcdConfig, OpenError, Options, Store};

use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    data_dir::Layout,
    exit::{Exit, Failure, chain},
};

/// How often the configuration of encryption at rest is read again; upstream looks as often.
const KEYS_PERIOD: Duration = Duration::from_secs(60);

/// How objects are kept, by the settings and what lies in the data directory.
pub(crate) fn options(config: &Config, layout: &Layout) -> Result<(Options, Arc<EncryptionAtRest>), Failure> {
    let at_rest = match &config.encryption_config {
        Some(path) => EncryptionAtRest::load(path).map_err(|error| Exit::Configuration.because(error))?,
        None => EncryptionAtRest::load_or_create(&layout.encryption_config()).map_err(|e| Exit::Data.because(e))?,
    };
    let at_rest = Arc::new(at_rest);
    let options = Options {
        at_rest: Some(at_rest.clone()),
        foreign: Some(Arc::new(KubeApiserver)),
        frames: Some(FRAMES),
        indexes: INDEXES,
        ..Options::default()
    };
    Ok((options, at_rest))
}

/// Reads the configuration of encryption at rest again until `stop`, and has everything kept as a new one says.
pub(super) async fn follow_keys(store: Store, at_rest: Arc<EncryptionAtRest>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(KEYS_PERIOD) => {}
        }
        match at_rest.reload() {
            Ok(false) => continue,
            Ok(true) => tracing::info!("encryption at rest was configured anew"),
            Err(error) => {
                tracing::warn!(error = %chain(&error.into()), "encryption at rest stays as it was");
                continue;
            }
        }
        if let Err(error) = store.rewrite().await {
            tracing::warn!(%error, "what is kept could not be kept anew, the next start tries again");
        }
    }
}

/// The etcd that the settings name, `None` for the embedded store.
pub(crate) fn etcd(config: &Config) -> Result<Option<EtcdConfig>, Failure> {
    let Some(endpoints) = &config.store else { return Ok(None) };
    let tls = endpoints.iter().any(|endpoint| endpoint.tls).then(|| tls(config)).transpose();
    let tls = tls.map_err(|error| Exit::Configuration.because(error))?;
    Ok(Some(EtcdConfig { tls, ..EtcdConfig::new(endpoints.clone()) }))
}

/// Opens the store that the settings name.
pub(super) async fn open(config: &Config, layout: &Layout, options: Options) -> Result<Store, Failure> {
    let opened = match etcd(config)? {
        None => Store::open(layout.store(), options),
        Some(etcd) => Store::connect(etcd, options).await,
    };
    opened.map_err(|error| match error {
        OpenError::InUse { .. } => Exit::InUse.because(error),
        OpenError::Corrupt { .. } => {
            let dir = layout.root().display();
            let advice = format!(
                "the objects cannot be read; nothing was changed: check the disk, then put the last backup in their place \
                 with `keelson backup restore FILE --data-dir {dir} --force`"
            );
            Exit::Data.because(anyhow!(error).context(advice))
        }
        error => Exit::Data.because(error),
    })
}

/// How to speak TLS with etcd.
fn tls(config: &Config) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let ca_file = config.store_ca_file.as_deref().ok_or_else(|| anyhow!("store.caFile is not set"))?;
    for certificate in certificates(ca_file)? {
        roots.add(certificate).with_context(|| format!("store.caFile {}", ca_file.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(Arc::new(match &config.store_pair {
        None => builder.with_no_client_auth(),
        Some((certificate_file, key_file)) => {
            let key = fs::read(key_file).with_context(|| format!("store.keyFile {}", key_file.display()))?;
            let key = PrivateKeyDer::from_pem_slice(&key);
            let key = key.with_context(|| format!("store.keyFile {}", key_file.display()))?;
            builder.with_client_auth_cert(certificates(certificate_file)?, key)?
        }
    }))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let named = || format!("certificates in {}", file.display());
    let pem = fs::read(file).with_context(named)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().with_context(named)?;
    if found.is_empty() { Err(anyhow!("{} has no certificate", file.display())) } else { Ok(found) }
}

/// Tells monitoring what the embedded store takes of the disk; an etcd tells that itself.
pub(super) fn size_metric(dir: &Path) -> impl Fn(&mut String) + use<> {
    let dir = dir.to_owned();
    move |out| {
        let name = "apiserver_storage_size_bytes";
        let _ = writeln!(
            out,
            "# HELP {name} Size of the storage database file physically allocated in bytes.\n# TYPE {name} gauge\n\
             {name}{{storage_cluster_id=\"embedded\"}} {}",
            allocated(&dir)
        );
    }
}

/// Bytes that the files of a directory take of the disk. `stat` counts in blocks of 512, whatever the file system's are.
fn allocated(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_s_files_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(allocated(&dir.path().join("absent")), 0);
        fs::write(dir.path().join("log"), vec![1; 100_000]).unwrap();
        let mut out = String::new();
        size_metric(dir.path())(&mut out);
        let size: u64 = out.rsplit(' ').next().unwrap().trim().parse().unwrap();
        assert!(size >= 100_000, "{out}");
    }
}
