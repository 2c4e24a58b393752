//! `keelson image …`: the builder, and the registry of a running instance.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, anyhow};
use serde_json::json;
use supply_chain::{BuildSpec, ImageConfig, Reference, RegistryClient, Source, build, build_into};

use crate::{
    cli::{ImageBuild, ImageCommand, RegistryAt},
    data_dir::Layout,
    exit::{Exit, Failure},
};

/// Runs an image command.
pub(crate) fn main(command: ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Build(flags) => super::block_on(build_image(flags))?,
        ImageCommand::Ls(at) => super::block_on(list(&client(&at)?))?,
        ImageCommand::Push { source, reference: text, registry } => {
            let (client, to) = (client(&registry)?, reference(&text)?);
            let digest = super::block_on(client.push(&source, &to))??;
            println!("{to}@{digest}");
            Ok(())
        }
        ImageCommand::Rm { reference: text, registry } => {
            let (client, image) = (client(&registry)?, reference(&text)?);
            super::block_on(client.remove(&image))??;
            println!("removed {image}");
            Ok(())
        }
        ImageCommand::Inspect { reference: text, registry } => {
            let (client, image) = (client(&registry)?, reference(&text)?);
            let details = super::block_on(client.inspect(&image))??;
            let shown = json!({
                "digest": details.digest.to_string(),
                "mediaType": details.media_type,
                "size": details.size,
                "manifest": details.manifest,
                "config": details.config,
            });
            println!("{}", serde_json::to_string_pretty(&shown)?);
            Ok(())
        }
    }
}

fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>().map_err(|e| Exit::Usage.because(e))
}

fn client(at: &RegistryAt) -> Result<RegistryClient, Failure> {
    Ok(RegistryClient::new(address(at)?.to_string()))
}

/// The registry that was named, or the one of the instance that runs from the data directory.
fn address(at: &RegistryAt) -> Result<SocketAddr, Failure> {
    if let Some(address) = at.registry {
        return Ok(address);
    }
    let config = super::settings_at(&at.at)?;
    let layout = Layout::new(&config.data_dir);
    let running = layout.holder()?.is_some();
    let registry = layout.read_run_file()?.filter(|_| running).and_then(|run| run.registry);
    registry.ok_or_else(|| {
        Exit::NotRunning.because(anyhow!(
            "no registry runs from {}: start it with `keelson up`, name one with --registry, or write a folder with --output",
            config.data_dir.display()
        ))
    })
}

async fn build_image(flags: ImageBuild) -> Result<(), Failure> {
    let to = reference(&flags.tag)?;
    let spec = BuildSpec {
        source: source(&flags.source)?,
        config: image_config(&flags)?,
        ca_certificates: None,
        epoch_seconds: epoch()?,
    };
    let built = match &flags.output {
        Some(folder) => build(spec, folder, &to).await?,
        None => build_into(spec, &client(&flags.registry)?, &to).await?,
    };
    println!("{to}@{}  {} bytes", built.manifest.digest, built.size);
    Ok(())
}

fn source(path: &Path) -> Result<Source, Failure> {
    let kind = std::fs::metadata(path)
        .with_context(|| format!("image source {}", path.display()))
        .map_err(|e| Exit::Usage.because(e))?;
    Ok(if kind.is_dir() { Source::RootFs(path.to_owned()) } else { Source::Binary(path.to_owned()) })
}

/// The file's configuration, with the flags on top.
fn image_config(flags: &ImageBuild) -> Result<ImageConfig, Failure> {
    let usage = |error: anyhow::Error| Exit::Usage.because(error);
    let read = |path: &PathBuf| ImageConfig::read(path).map_err(|e| Exit::Configuration.because(e));
    let mut config = flags.file.as_ref().map(read).transpose()?.unwrap_or_default();
    if !flags.entrypoint.is_empty() {
        config.entrypoint = Some(flags.entrypoint.clone());
    }
    if let Some(user) = &flags.user {
        config.user.clone_from(user);
    }
    config.env.extend(pairs("--env", &flags.env).map_err(usage)?);
    config.labels.extend(pairs("--label", &flags.label).map_err(usage)?);
    for port in &flags.port {
        config.ports.push(parsed("--port", port).map_err(usage)?);
    }
    Ok(config)
}

fn pairs(flag: &str, values: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("{flag} {text:?} is not NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    values.iter().map(pair).collect()
}

fn parsed<T: FromStr<Err: fmt::Display>>(flag: &str, text: &str) -> anyhow::Result<T> {
    text.parse().map_err(|e| anyhow!("{flag}: {e}"))
}

/// `SOURCE_DATE_EPOCH`, by the convention of reproducible builds.
fn epoch() -> Result<i64, Failure> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => parsed("SOURCE_DATE_EPOCH", &text).map_err(|e| Exit::Usage.because(e)),
        Err(_) => Ok(0),
    }
}

async fn list(client: &RegistryClient) -> Result<(), Failure> {
    let images = client.list().await?;
    let width = images.iter().map(|i| i.repository.len() + i.tag.len() + 1).max().unwrap_or_default().max(5);
    println!("{:width$}  {:71}  SIZE", "IMAGE", "DIGEST");
    for image in images {
        let name = format!("{}:{}", image.repository, image.tag);
        println!("{name:width$}  {:71}  {:.1} MiB", image.digest.to_string(), image.size as f64 / f64::from(1 << 20));
    }
    Ok(())
}
