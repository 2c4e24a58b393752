//! `keelson backup`: the objects of an instance in one file, and back again.
//!
//! Of a running instance the API hands them out, at one revision and while it works on; of one that does not run they are
//! read from its data directory. Keys are not in a backup: neither the certificate authority and token key in `DIR/pki`,
//! nor the keys with which Secrets are sealed.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ::store::{BackupContent, OpenError, RestoreError, Store, backup};
use anyhow::{Context, anyhow};
use http_body_util::BodyExt as _;

use super::status;
use crate::{
    cli::{At, BackupCommand, Up},
    data_dir::Layout,
    exit::{Exit, Failure},
    up::store,
};

/// Runs one of the commands.
pub(crate) fn main(command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Create { file, at, kubeconfig, store } => create(&file, &from(at, store), kubeconfig.as_deref()),
        BackupCommand::Verify { file } => {
            let content = backup::verify(&file).map_err(|error| Exit::Data.because(error))?;
            println!("{} is whole: {}", file.display(), shown(&content));
            Ok(())
        }
        BackupCommand::Restore { file, at, store, force } => restore(&file, &from(at, store), force),
    }
}

/// The settings that matter here.
fn from(at: At, store: Option<String>) -> Up {
    Up { at, store, ..Up::default() }
}

fn shown(content: &BackupContent) -> String {
    format!("{} objects at revision {}, {} bytes", content.objects, content.revision, content.bytes)
}

fn create(file: &Path, at: &Up, kubeconfig: Option<&Path>) -> Result<(), Failure> {
    if file.exists() {
        return Err(anyhow!("{} exists already", file.display()).into());
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(&partial, at, kubeconfig).and_then(|()| {
        let content = backup::verify(&partial).map_err(|error| Exit::Data.because(error))?;
        fs::rename(&partial, file).with_context(|| format!("rename {}", partial.display()))?;
        Ok(content)
    });
    match written {
        Ok(content) => {
            println!("{}: {}", file.display(), shown(&content));
            Ok(())
        }
        Err(failure) => {
            let _ = fs::remove_file(&partial);
            Err(failure)
        }
    }
}

/// Writes what the API or the data directory holds, and syncs it.
fn write(file: &Path, at: &Up, kubeconfig: Option<&Path>) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let mut to = opened.with_context(|| format!("create {}", file.display()))?;
    let (config, _) = super::settings(at)?;
    let layout = Layout::new(&config.data_dir);
    let admin = layout.admin_kubeconfig();
    let kubeconfig = if layout.holder()?.is_some() { kubeconfig.or(Some(&admin)) } else { kubeconfig };
    match (kubeconfig, store::etcd(&config)?) {
        (Some(kubeconfig), _) => super::block_on(download(kubeconfig, &mut to))??,
        (None, Some(etcd)) => {
            let (options, _) = store::options(&config, &layout)?;
            let created = super::block_on(backup::create_from_etcd(etcd, &options, &mut to))?;
            created.map_err(|error| Exit::Data.because(error))?;
        }
        (None, None) => {
            let dir = layout.store();
            if !dir.exists() {
                let nothing = anyhow!("nothing runs from {}, and it holds no objects", layout.root().display());
                return Err(Exit::NotRunning.because(nothing));
            }
            // what is sealed is copied as it is: no key is needed
            let store = Store::open(dir, ::store::Options::default()).map_err(|error| Exit::Data.because(error))?;
            store.backup(&mut to).with_context(|| format!("write {}", file.display()))?;
        }
    }
    to.sync_all().with_context(|| format!("sync {}", file.display()))?;
    Ok(())
}

async fn download(kubeconfig: &Path, to: &mut fs::File) -> Result<(), Failure> {
    let client = status::client(kubeconfig).await?;
    let request = http::Request::get("/backup").body(kube::client::Body::empty()).context("make a request")?;
    let not_running = |error: anyhow::Error| Exit::NotRunning.because(error);
    let response = client.send(request).await.context("ask for a backup").map_err(not_running)?;
    if !response.status().is_success() {
        return Err(anyhow!("the API refuses a backup: {}", response.status()).into());
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!("the backup broke off: {error}"))?;
        if let Ok(data) = frame.into_data() {
            to.write_all(&data).context("write the backup")?;
        }
    }
    Ok(())
}

fn restore(file: &Path, at: &Up, force: bool) -> Result<(), Failure> {
    let (config, _) = super::settings(at)?;
    let layout = Layout::new(&config.data_dir);
    if layout.holder()?.is_some() {
        let running = anyhow!("an instance runs from {}: stop it first", layout.root().display());
        return Err(Exit::InUse.because(running));
    }
    let (place, restored) = match store::etcd(&config)? {
        None => (layout.root().display().to_string(), backup::restore(file, &layout.store(), force)),
        Some(etcd) => {
            let servers: Vec<String> = etcd.endpoints.iter().map(ToString::to_string).collect();
            let restored = super::block_on(backup::restore_into_etcd(file, etcd, force))?;
            (format!("etcd at {}", servers.join(",")), restored)
        }
    };
    let content = restored.map_err(|error| match error {
        RestoreError::NotEmpty { .. } | RestoreError::EtcdNotEmpty { .. } => {
            Exit::Data.because(anyhow!("{error}; --force replaces them"))
        }
        RestoreError::Directory(OpenError::InUse { .. }) => Exit::InUse.because(error),
        error => Exit::Data.because(error),
    })?;
    println!("{place} holds {}", shown(&content));
    Ok(())
}
