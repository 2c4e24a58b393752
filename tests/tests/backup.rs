//! Backing up an instance while it works, and making another one of the backup.

use system_tests::{
    Instance, Options,
    etcd::{Etcd, need_etcd},
};

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

#[test]
fn a_backup_goes_from_one_back_end_to_the_other() {
    if !need_etcd("a_backup_goes_from_one_back_end_to_the_other") {
        return;
    }
    let uid = |instance: &Instance, what: &[&str]| instance.get(what).map(|found| found["metadata"]["uid"].clone());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let done = |output: std::process::Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut embedded = Instance::start(Options::default());
    embedded.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    embedded.kubectl(&["create", "secret", "generic", "sealed", "--from-literal=a=b"]);
    let before = [uid(&embedded, &["configmap", "kept"]), uid(&embedded, &["secret", "sealed"])];
    done(embedded.keelson(&["backup", "create", &file("first")]));
    embedded.terminate();

    // into an etcd, which a server with the same keys then serves
    let etcd = Etcd::start();
    let url = etcd.url();
    assert!(done(embedded.keelson(&["backup", "restore", &file("first"), "--store", &url])).contains("etcd at"));
    let again = embedded.keelson(&["backup", "restore", &file("first"), "--store", &url]);
    assert_eq!(again.status.code(), Some(6), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force replaces them"), "{again:?}");
    let environment = vec![("KEELSON_STORE".to_owned(), url.clone())];
    let pki = Some(embedded.data_dir().join("pki"));
    let mut shared = Instance::start(Options { environment, pki, ..Options::default() });
    assert_eq!([uid(&shared, &["configmap", "kept"]), uid(&shared, &["secret", "sealed"])], before);
    shared.kubectl(&["create", "configmap", "later", "--from-literal=a=b"]);
    let later = uid(&shared, &["configmap", "later"]);
    shared.terminate();

    // and out of it again, with no server on it
    done(shared.keelson(&["backup", "create", &file("second"), "--store", &url]));
    done(embedded.keelson(&["backup", "restore", &file("second"), "--force"]));
    embedded.resume();
    assert_eq!([uid(&embedded, &["configmap", "kept"]), uid(&embedded, &["secret", "sealed"])], before);
    assert_eq!(uid(&embedded, &["configmap", "later"]), later);
    embedded.kubectl(&["create", "configmap", "goes-on", "--from-literal=a=b"]);
}
