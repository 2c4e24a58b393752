//! The provisioner against the real API server in this process, ended at every request it makes.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use apiserver::{ApiServer, ApiServerConfig, User};
use identity::TokenSigner;
use kube::client::Body;
use tokio::time::timeout;

use super::*;

/// Far more than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);
const NODE: &str = "here";
/// More requests than are made for any claim or volume.
const NEVER: usize = 1000;

struct World {
    client: Client,
    root: PathBuf,
    _directory: tempfile::TempDir,
}

/// When a request is the last one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is not sent any more.
    Before(usize),
    /// Its answer is not heard any more.
    After(usize),
}

/// A client that cancels `crash` at a request and leaves it without answer.
fn mortal(client: Client, fate: Fate, crash: CancellationToken) -> Client {
    let count = Arc::new(AtomicUsize::new(0));
    Client::new(
        tower::service_fn(move |request: http::Request<Body>| {
            let (client, count, crash) = (client.clone(), Arc::clone(&count), crash.clone());
            async move {
                // Events are told beside the work.
                if request.uri().path().ends_with("/events") {
                    return client.send(request).await;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                let answer = if fate == Fate::Before(number) { None } else { Some(client.send(request).await) };
                match answer {
                    Some(answer) if fate != Fate::After(number) => answer,
                    _ => {
                        crash.cancel();
                        std::future::pending().await
                    }
                }
            }
        }),
        "default",
    )
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://test").unwrap();
        let store = store::Store::open(directory.path().join("store"), store::Options::default()).unwrap();
        let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
        server.bootstrap().await.unwrap();
        let client = server.client(User::new("test", &["system:masters"]));
        let class = json!({"metadata": {"name": "c"}, "provisioner": PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer"});
        let class: StorageClass = serde_json::from_value(class).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &class).await.unwrap();
        Self { client, root: directory.path().join("volumes"), _directory: directory }
    }

    /// Runs a provisioner until it dies or `done`.
    async fn provision(&self, fate: Fate, done: impl Future<Output = ()>) {
        let informers = Informers::new(self.client.clone());
        let (crash, stop) = (CancellationToken::new(), CancellationToken::new());
        let client = mortal(self.client.clone(), fate, crash.clone());
        let work = run(informers.clone(), client, NODE.to_owned(), self.root.clone(), stop.clone());
        let ended = async {
            tokio::select! {
                () = work => panic!("it ended by itself"),
                result = informers.run(stop.clone()) => panic!("its informers ended: {result:?}"),
                () = crash.cancelled() => {}
                () = done => {}
            }
        };
        timeout(PATIENCE, ended).await.expect("it is done");
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::default_namespaced(self.client.clone())
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// A claim for which scheduler and binder have done their part.
    async fn claim(&self, name: &str) -> String {
        let annotations = json!({"volume.kubernetes.io/storage-provisioner": PROVISIONER, SELECTED_NODE: NODE});
        let claim = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"storageClassName": "c",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        volume_name(&self.claims().create(&PostParams::default(), &claim).await.unwrap())
    }

    async fn until(&self, volume: &str, is: impl Fn(Option<&PersistentVolume>) -> bool) {
        while !is(self.volumes().get_opt(volume).await.unwrap().as_ref()) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until_empty(&self) {
        while std::fs::read_dir(&self.root)
            .is_ok_and(|mut root| root.any(|entry| entry.unwrap().file_name() != ".removed"))
        {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The claim goes, and what its other controllers do then.
    async fn end(&self, claim: &str, volume: &str) {
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        self.claims().patch(claim, &PatchParams::default(), &free).await.unwrap();
        self.claims().delete(claim, &DeleteParams::default()).await.unwrap();
        if self.volumes().get_opt(volume).await.unwrap().is_some() {
            let released = Patch::Merge(json!({"status": {"phase": "Released"}}));
            self.volumes().patch_status(volume, &PatchParams::default(), &released).await.unwrap();
        }
    }

    /// Lets the volume go that the protection controller would.
    async fn collect(&self, volume: &str) {
        if let Some(left) = self.volumes().get_opt(volume).await.unwrap() {
            assert_eq!(left.finalizers(), ["kubernetes.io/pv-protection"]);
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            self.volumes().patch(volume, &PatchParams::default(), &free).await.unwrap();
        }
    }
}

/// Its directory is gone and nothing of ours holds it.
fn is_let_go(volume: Option<&PersistentVolume>) -> bool {
    volume.is_none_or(|volume| {
        volume.metadata.deletion_timestamp.is_some() && !volume.finalizers().iter().any(|held| held == FINALIZER)
    })
}

fn fates() -> impl Iterator<Item = Fate> {
    (0..6).flat_map(|number| [Fate::Before(number), Fate::After(number)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_request_loses_no_data_and_leaks_no_directory() {
    let world = World::new().await;
    for (number, fate) in fates().enumerate() {
        let claim = format!("claim-{number}");
        let name = world.claim(&claim).await;
        let file = world.root.join(&name).join("file");
        world.provision(fate, world.until(&name, |volume| volume.is_some())).await;
        world.provision(Fate::Before(NEVER), world.until(&name, |volume| volume.is_some())).await;
        std::fs::write(&file, "data").unwrap();
        // While its claim is there, no start and no end does anything to it.
        world.provision(Fate::Before(NEVER), world.until(&name, |volume| volume.is_some())).await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "data", "{fate:?}");

        world.end(&claim, &name).await;
        world.provision(fate, world.until(&name, is_let_go)).await;
        world.provision(Fate::Before(NEVER), world.until(&name, is_let_go)).await;
        world.collect(&name).await;
        assert!(!file.exists(), "{fate:?}");
    }
    world.provision(Fate::Before(NEVER), world.until_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_goes_while_it_is_served_leaves_nothing() {
    let world = World::new().await;
    for (number, fate) in fates().enumerate() {
        let claim = format!("claim-{number}");
        let name = world.claim(&claim).await;
        world.provision(fate, world.until(&name, |volume| volume.is_some())).await;
        world.end(&claim, &name).await;
        world
            .provision(Fate::Before(NEVER), async {
                world.until(&name, is_let_go).await;
                world.until_empty().await;
            })
            .await;
        world.collect(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_the_api_does_not_know_keeps_its_content() {
    let world = World::new().await;
    let kept = world.root.join("pvc-of-an-older-backup");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::create_dir(world.root.join("pvc-empty")).unwrap();
    std::fs::write(kept.join("file"), "data").unwrap();
    let only_one_left = async {
        while std::fs::read_dir(&world.root).unwrap().count() > 1 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    world.provision(Fate::Before(NEVER), only_one_left).await;
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "data");
}
