//! `keelson gateway`.

use std::{io::Read as _, path::Path};

use anyhow::{Context, anyhow};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    networking::v1::Ingress,
};
use kube::{Api, Client, Resource, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    cli::{GatewayCommand, Translate},
    data_dir::Layout,
    exit::{Exit, Failure},
};

mod ca;

/// Objects that one answer of the API holds at most.
const PAGE: u32 = 500;

/// Does what the command says.
///
/// # Errors
/// [`Exit::Usage`] for manifests that are none, [`Exit::NotRunning`] when no cluster answers.
pub(crate) fn main(command: &GatewayCommand) -> Result<(), Failure> {
    match command {
        GatewayCommand::Translate(flags) => translate(flags),
        GatewayCommand::Ca(flags) => ca::main(flags),
    }
}

fn translate(flags: &Translate) -> Result<(), Failure> {
    let objects = match &*flags.filename {
        [] => super::block_on(from_cluster(flags))??,
        files => {
            let mut objects = Vec::new();
            for file in files {
                read(file, &mut objects).map_err(|error| Exit::Usage.because(error))?;
            }
            objects
        }
    };
    if !objects.iter().any(|object| object["kind"] == "Ingress") {
        return Err(Exit::Usage.because(anyhow!("there is no Ingress to translate")));
    }
    let translation = proxy::translate(&objects, &flags.class);
    for note in &translation.notes {
        eprintln!("{note}");
    }
    for object in &translation.objects {
        let text = serde_saphyr::to_string(object).context("write YAML")?;
        println!("---\n{}", text.trim_end());
    }
    Ok(())
}

/// Adds the objects of a file, or of standard input for `-`.
fn read(file: &Path, objects: &mut Vec<Value>) -> anyhow::Result<()> {
    let shown = file.display();
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("read {shown}"))?;
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(|| format!("read {shown} as YAML"))?;
    for document in documents {
        match document.get("items").and_then(Value::as_array) {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(document),
        }
    }
    Ok(())
}

async fn from_cluster(flags: &Translate) -> Result<Vec<Value>, Failure> {
    let config = super::settings_at(&flags.at)?;
    let layout = Layout::new(&config.data_dir);
    let file = flags.kubeconfig.clone().unwrap_or_else(|| layout.admin_kubeconfig());
    if flags.kubeconfig.is_none() && layout.holder()?.is_none() {
        let shown = layout.root().display();
        let what = format!("nothing runs from {shown}: name files with -f, or a cluster with --kubeconfig");
        return Err(Exit::NotRunning.because(anyhow!(what)));
    }
    let client = super::status::client(&file).await?;
    let namespace = flags.namespace.as_deref();
    let mut objects = Vec::new();
    let listed = async {
        list::<Ingress>(&client, namespace, "Ingress", &mut objects).await?;
        list::<Service>(&client, namespace, "Service", &mut objects).await?;
        list::<ConfigMap>(&client, namespace, "ConfigMap", &mut objects).await
    };
    listed.await.map_err(|error| Exit::NotRunning.because(error))?;
    Ok(objects)
}

/// Adds the objects of a kind: of one namespace, or of all.
async fn list<K>(client: &Client, namespace: Option<&str>, kind: &str, objects: &mut Vec<Value>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = api.list(&page).await.with_context(|| format!("list {kind}s"))?;
        for object in listed.items {
            let mut object = serde_json::to_value(object).with_context(|| format!("read a {kind}"))?;
            object["kind"] = kind.into();
            objects.push(object);
        }
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}
