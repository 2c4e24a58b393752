//! Backing up an instance while it works, and making another one of the backup.

use system_tests::{Instance, Options};

#[test]
fn a_backup_of_a_running_instance_becomes_another_one() {
    let instance = Instance::start(Options::default());
    instance.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let file = file.to_str().unwrap();
    let created = instance.keelson(&["backup", "create", file]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    instance.kubectl(&["create", "configmap", "later", "--from-literal=a=b"]);
    let version = |instance: &Instance, name: &str| {
        let found = instance.get(&["configmap", name])?;
        Some((found["metadata"]["uid"].clone(), found["metadata"]["resourceVersion"].clone()))
    };
    let kept = version(&instance, "kept");

    let verified = system_tests::instance::run(&["backup", "verify", file]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("is whole"), "{verified:?}");
    let refused = instance.keelson(&["backup", "restore", file, "--force"]);
    assert_eq!(refused.status.code(), Some(5), "an instance runs there: {refused:?}");

    let mut other = Instance::start(Options::default());
    other.terminate();
    let refused = other.keelson(&["backup", "restore", file]);
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force replaces them"), "{refused:?}");
    let restored = other.keelson(&["backup", "restore", file, "--force"]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    other.resume();
    assert_eq!(version(&other, "kept"), kept);
    assert_eq!(version(&other, "later"), None);

    // what lies still is read without an instance
    other.terminate();
    let again = folder.path().join("again");
    let created = other.keelson(&["backup", "create", again.to_str().unwrap()]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let mut bytes = std::fs::read(&again).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&again, bytes).unwrap();
    let damaged = system_tests::instance::run(&["backup", "verify", again.to_str().unwrap()]);
    assert_eq!(damaged.status.code(), Some(6), "{damaged:?}");
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("is damaged at offset"), "{damaged:?}");
}
