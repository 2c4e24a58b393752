//! Built images, pushed to a served registry, read back by our client and by skopeo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use supply_chain::{
    BuildError, BuildSpec, ClientError, ImageConfig, Reference, Registry, RegistryClient, RegistryOptions, Source,
    build, build_into,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

struct Served {
    address: String,
    client: RegistryClient,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _dir: TempDir,
}

async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), RegistryOptions::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let token = stop.clone();
    tasks.spawn(async move { registry.serve(listener, token).await.unwrap() });
    Served { client: RegistryClient::new(&address), address, stop, tasks, _dir: dir }
}

/// The smallest file that counts as a static executable.
fn binary(dir: &Path) -> PathBuf {
    let mut content = vec![0u8; 4096];
    content[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    content[18] = 62;
    let path = dir.join("web");
    std::fs::write(&path, content).unwrap();
    path
}

fn spec(source: Source) -> BuildSpec {
    let yaml = "args: [--verbose]\nenv: {PORT: '8080', A: b}\nports: [8080]\nlabels: {team: x}\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    BuildSpec { source, config: ImageConfig::read(file.path()).unwrap(), ca_certificates: None, epoch_seconds: 0 }
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_same_input_has_the_same_digest_wherever_it_lies() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = build(spec(Source::Binary(binary(a.path()))), &a.path().join("out"), &reference("web")).await.unwrap();
    let path = binary(b.path());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let second = build(spec(Source::Binary(path.clone())), &b.path().join("out"), &reference("web")).await.unwrap();
    assert_eq!(first, second);

    let mut later = spec(Source::Binary(path));
    later.epoch_seconds = 1;
    let third = build(later, &b.path().join("later"), &reference("web")).await.unwrap();
    assert_ne!(first.manifest.digest, third.manifest.digest);
}

#[tokio::test]
async fn a_root_filesystem_keeps_names_modes_and_links_and_nothing_else() {
    let make = |dir: &Path, order: [&str; 2]| {
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        for name in order {
            std::fs::write(root.join("bin").join(name), name).unwrap();
        }
        std::fs::set_permissions(root.join("bin/a"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("a", root.join("bin/link")).unwrap();
        root
    };
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let build_root = async |dir: &Path, order| {
        let mut spec = spec(Source::RootFs(make(dir, order)));
        spec.config.entrypoint = Some(vec!["/bin/a".into()]);
        build(spec, &dir.join("out"), &reference("root")).await.unwrap()
    };
    let first = build_root(a.path(), ["a", "b"]).await;
    assert_eq!(first, build_root(b.path(), ["b", "a"]).await);

    let manifest = std::fs::read(a.path().join("out/blobs/sha256").join(first.manifest.digest.hex())).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let layer = std::fs::File::open(a.path().join("out/blobs/sha256").join(layer)).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer));
    let seen: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let mode = header.mode().unwrap();
            format!("{} {mode:o} {:?}", entry.path().unwrap().display(), header.entry_type())
        })
        .collect();
    assert_eq!(seen, ["bin/ 755 Directory", "bin/a 4755 Regular", "bin/b 644 Regular", "bin/link 777 Symlink"]);
}

#[tokio::test]
async fn what_cannot_become_an_image_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("run.sh");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let out = dir.path().join("out");
    let build = async |source| build(spec(source), &out, &reference("x")).await.unwrap_err();
    assert!(matches!(build(Source::Binary(script)).await, BuildError::NotExecutable(_)));
    assert!(matches!(build(Source::Binary(dir.path().join("none"))).await, BuildError::Io { .. }));
    assert!(matches!(build(Source::RootFs(dir.path().into())).await, BuildError::NoEntrypoint));
    // The test's own executable is dynamically linked, unless the whole toolchain is not.
    let own = std::env::current_exe().unwrap();
    if cfg!(target_env = "gnu") {
        let error = build(Source::Binary(own)).await;
        assert!(error.to_string().contains("ld-linux"), "{error}");
    }
}

#[tokio::test]
async fn an_image_is_pushed_listed_inspected_and_removed() {
    let mut served = served().await;
    let dir = tempfile::tempdir().unwrap();
    let name = reference("localhost:5000/settlement/web:1");
    let built = build_into(spec(Source::Binary(binary(dir.path()))), &served.client, &name).await.unwrap();

    let list = served.client.list().await.unwrap();
    let [image] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((image.repository.as_str(), image.tag.as_str()), ("settlement/web", "1"));
    assert_eq!((image.digest, image.size), (built.manifest.digest, built.size));

    let details = served.client.inspect(&name).await.unwrap();
    let config = details.config.unwrap();
    assert_eq!(
        config["config"],
        json!({"User": "65532:65532", "ExposedPorts": {"8080/tcp": {}}, "Env": ["A=b", "PORT=8080"],
            "Entrypoint": ["/web"], "Cmd": ["--verbose"], "WorkingDir": "/", "Labels": {"team": "x"}})
    );
    assert_eq!((&config["created"], &config["architecture"]), (&json!("1970-01-01T00:00:00Z"), &json!("amd64")));

    served.client.remove(&name).await.unwrap();
    assert!(matches!(served.client.remove(&name).await, Err(ClientError::NotFound(_))));
    assert!(matches!(served.client.inspect(&name).await, Err(ClientError::NotFound(_))));
    assert_eq!(served.client.list().await.unwrap(), []);
    served.stop.cancel();
    served.tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(served.client.list().await, Err(ClientError::Connect { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies_in_both_directions() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: skopeo is not installed");
        return;
    }
    let served = served().await;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let built = build(spec(Source::Binary(binary(dir.path()))), &out, &reference("web:1")).await.unwrap();
    let run = async |arguments: Vec<String>| {
        let output = tokio::task::spawn_blocking(move || Command::new("skopeo").args(arguments).output().unwrap());
        let output = output.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let layout = format!("oci:{}", out.display());
    let remote = format!("docker://{}/settlement/web:1", served.address);
    let copy = |flag: &str, from: &str, to: &str| {
        ["--insecure-policy", "copy", flag, "--preserve-digests", from, to].map(str::to_owned).to_vec()
    };
    run(copy("--dest-tls-verify=false", &layout, &remote)).await;
    assert_eq!(served.client.list().await.unwrap()[0].digest, built.manifest.digest);

    let back = format!("oci:{}:copy", dir.path().join("back").display());
    run(copy("--src-tls-verify=false", &remote, &back)).await;
    let blob = dir.path().join("back/blobs/sha256").join(built.manifest.digest.hex());
    assert!(blob.exists(), "the manifest came back with its digest");

    let docker = format!("docker://{}/settlement/docker:1", served.address);
    let mut convert = copy("--dest-tls-verify=false", &layout, &docker);
    convert.retain(|argument| argument != "--preserve-digests");
    convert.extend(["--format".to_owned(), "v2s2".to_owned()]);
    run(convert).await;
    let inspect = vec!["inspect".to_owned(), "--tls-verify=false".to_owned(), docker];
    let inspected: serde_json::Value = serde_json::from_str(&run(inspect).await).unwrap();
    assert_eq!((&inspected["RepoTags"], &inspected["Architecture"]), (&json!(["1"]), &json!("amd64")));
}

/// Measures how fast content goes in and out over loopback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run with --ignored --nocapture"]
async fn cost_of_a_large_layer() {
    const SIZE: usize = 256 << 20;
    let served = served().await;
    let content = vec![7u8; SIZE];
    let digest = supply_chain::Digest::of(&content);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let curl = async |arguments: Vec<String>| {
        let run =
            tokio::task::spawn_blocking(move || Command::new("curl").arg("-sf").args(arguments).status().unwrap());
        assert!(run.await.unwrap().success());
    };
    let start = std::time::Instant::now();
    let url = format!("http://{}/v2/big/blobs", served.address);
    let data = format!("@{}", file.path().display());
    curl(["-XPOST", "--data-binary", &data, &format!("{url}/uploads/?digest={digest}")].map(str::to_owned).to_vec())
        .await;
    println!("pushed {} MiB in {:?}", SIZE >> 20, start.elapsed());
    let start = std::time::Instant::now();
    curl(["-o", "/dev/null", &format!("{url}/{digest}")].map(str::to_owned).to_vec()).await;
    println!("pulled {} MiB in {:?}", SIZE >> 20, start.elapsed());
}
