//! A disk that is really full: writes are refused, reads and deletions go on, and when there is room again writes are taken
//! without anybody's help.

use std::{fs::File, io::Write as _, path::PathBuf};

use serde_json::json;
use system_tests::{Instance, Options, eventually, need_root};

/// Bytes of one object's data: large, so that few of them fill the disk.
const OBJECT_BYTES: usize = 256 << 10;

/// Takes every byte that the disk has left.
fn fill(ballast: &PathBuf) {
    let mut file = File::create(ballast).unwrap();
    for size in [1 << 20, 64 << 10, 4 << 10] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_alone() {
    if !need_root("a_full_disk_refuses_writes_and_recovers_alone") {
        return;
    }
    let instance = Instance::start(Options { store_disk: Some("64m".to_owned()), ..Options::default() });
    let large = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
            "data": {"a": "x".repeat(OBJECT_BYTES)}})
        .to_string()
    };
    for name in ["one", "two", "three"] {
        instance.try_kubectl(&["create", "-f", "-"], &large(name)).unwrap();
    }
    // the process sees its disk where nobody else does
    let disk = PathBuf::from(format!("/proc/{}/root", instance.pid()));
    let ballast = disk.join(instance.data_dir().strip_prefix("/").unwrap()).join("store/ballast");
    fill(&ballast);

    let create = |name: &str| instance.try_kubectl(&["create", "configmap", name, "--from-literal=a=b"], "");
    let refused = eventually("a write is refused", || {
        // what was allocated before may still take some
        let body = large("four");
        instance.try_kubectl(&["create", "-f", "-"], &body).err().or_else(|| {
            instance.kubectl(&["delete", "configmap", "four"]);
            None
        })
    });
    assert!(refused.contains("no room to store it"), "{refused}");
    // it says so, reads go on, and so do deletions
    assert!(instance.try_kubectl(&["get", "--raw", "/readyz/etcd"], "").is_err());
    assert!(instance.get(&["configmap", "one"]).is_some());
    instance.kubectl(&["delete", "configmap", "one"]);
    assert!(instance.get(&["configmap", "one"]).is_none());

    std::fs::remove_file(&ballast).unwrap();
    eventually("writes are taken again", || create("after").ok());
    assert!(instance.get(&["configmap", "two"]).is_some());
    eventually("it is ready again", || instance.try_kubectl(&["get", "--raw", "/readyz/etcd"], "").ok());
}
