//! `keelson kubeconfig merge`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use identity::{KeyPair, Kubeconfig};
use serde_json::Value;

use crate::{
    cli::At,
    data_dir::Layout,
    exit::{Exit, Failure},
};

/// Adds the instance's entry to a user's kubeconfig under its own context.
pub(crate) fn merge(at: &At, into: Option<&Path>, context: &str) -> Result<(), Failure> {
    let config = super::settings_at(at)?;
    let source = Layout::new(&config.data_dir).admin_kubeconfig();
    let admin = match fs::read(&source) {
        Ok(bytes) => parse(&source, &bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Exit::NotRunning.because(anyhow!(
                "{} is not there: run `keelson up --data-dir {}` first",
                source.display(),
                config.data_dir.display()
            )));
        }
        Err(e) => return Err(anyhow!(e).context(format!("read {}", source.display())).into()),
    };
    let target = target(into)?;
    let existing = match fs::read_to_string(&target) {
        Ok(text) if text.trim().is_empty() => Value::Null,
        Ok(text) => serde_saphyr::from_str(&text)
            .map_err(|e| anyhow!("{}: {}; nothing was changed", target.display(), e.to_string().replace('\n', " ")))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(e) => return Err(anyhow!(e).context(format!("read {}", target.display())).into()),
    };
    let merged = Kubeconfig { name: context.to_owned(), ..admin }
        .merge_into(existing)
        .with_context(|| format!("{}: nothing was changed", target.display()))?;
    // Written as JSON, which is YAML: no writer can then change the meaning of an entry that is not ours.
    identity::write_private(&target, &serde_json::to_vec_pretty(&merged)?)?;
    println!("context {context:?} is in {}; use it with: kubectl --context {context} get nodes", target.display());
    Ok(())
}

fn target(into: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = into {
        return Ok(path.to_owned());
    }
    if let Some(first) = std::env::var_os("KUBECONFIG").and_then(|v| std::env::split_paths(&v).next())
        && !first.as_os_str().is_empty()
    {
        return Ok(first);
    }
    let home = std::env::var_os("HOME").context("HOME is not set: name the file with --into")?;
    Ok(Path::new(&home).join(".kube/config"))
}

/// Reads back what [`Kubeconfig::document`] wrote.
fn parse(path: &Path, bytes: &[u8]) -> anyhow::Result<Kubeconfig> {
    let document: Value = serde_json::from_slice(bytes).with_context(|| format!("read {}", path.display()))?;
    let cluster = &document["clusters"][0]["cluster"];
    let user = &document["users"][0]["user"];
    let decoded = |value: &Value| -> anyhow::Result<String> {
        let text = value.as_str().with_context(|| format!("{} lacks an entry", path.display()))?;
        Ok(String::from_utf8(BASE64.decode(text)?)?)
    };
    Ok(Kubeconfig {
        name: String::new(),
        server: cluster["server"].as_str().unwrap_or_default().to_owned(),
        authority_pem: decoded(&cluster["certificate-authority-data"])?,
        client: KeyPair {
            certificate_pem: decoded(&user["client-certificate-data"])?,
            key_pem: decoded(&user["client-key-data"])?,
        },
    })
}
