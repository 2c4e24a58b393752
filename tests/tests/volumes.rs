//! Claims on the default StorageClass, in real containers: what is written stays until the claim goes.

use std::path::{Path, PathBuf};

use serde_json::Value;
use system_tests::{Instance, busybox, eventually};

/// Each pod appends its name to a file of its volume, as a user that owns nothing, and then waits.
const SET: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: diary}
spec:
  serviceName: diary
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: diary}}
  template:
    metadata: {labels: {app: diary}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1234, runAsGroup: 1234, fsGroup: 4321}
      containers:
      - name: writer
        image: test/busybox:1
        command: [/busybox, sh, -c, "echo $POD_UID >> /data/diary && exec /busybox sleep 100000"]
        env: [{name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#;

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The directory behind a bound claim.
fn directory(instance: &Instance, claim: &str) -> PathBuf {
    let bound = eventually("the claim is bound", || {
        let claim = instance.get(&["pvc", claim])?;
        (text(&claim, "/status/phase") == "Bound").then_some(claim)
    });
    let volume = instance.get(&["pv", text(&bound, "/spec/volumeName")]).expect("the volume is there");
    assert_eq!(text(&volume, "/spec/storageClassName"), "local-path");
    PathBuf::from(text(&volume, "/spec/local/path"))
}

fn lines(directory: &Path) -> Vec<String> {
    let diary = std::fs::read_to_string(directory.join("diary")).unwrap_or_default();
    diary.lines().map(str::to_owned).collect()
}

fn uid(instance: &Instance, pod: &str) -> Option<String> {
    let pod = instance.get(&["pod", pod])?;
    let running = text(&pod, "/status/phase") == "Running" && pod.pointer("/metadata/deletionTimestamp").is_none();
    running.then(|| text(&pod, "/metadata/uid").to_owned())
}

#[test]
fn a_stateful_set_keeps_its_data_until_its_claims_go() {
    let Some(mut instance) = busybox::instance("a_stateful_set_keeps_its_data_until_its_claims_go") else {
        return;
    };
    instance.apply(SET);
    let folders = ["data-diary-0", "data-diary-1"].map(|claim| directory(&instance, claim));
    let first = eventually("the first pod runs", || uid(&instance, "diary-0"));
    eventually("it has written", || (lines(&folders[0]) == [first.clone()]).then_some(()));
    eventually("the other one has its own", || (lines(&folders[1]) == [uid(&instance, "diary-1")?]).then_some(()));

    instance.kubectl(&["delete", "pod", "diary-0", "--wait=false"]);
    let second = eventually("a new pod runs", || uid(&instance, "diary-0").filter(|uid| *uid != first));
    eventually("it goes on where the other one ended", || {
        (lines(&folders[0]) == [first.clone(), second.clone()]).then_some(())
    });

    instance.kill();
    instance.resume();
    instance.kubectl(&["delete", "pod", "diary-0", "--wait=false"]);
    let third = eventually("a pod after the restart", || uid(&instance, "diary-0").filter(|uid| *uid != second));
    eventually("all three have written", || {
        (lines(&folders[0]) == [first.clone(), second.clone(), third.clone()]).then_some(())
    });

    // A volume that grows says so.
    let larger = r#"{"spec":{"resources":{"requests":{"storage":"20Mi"}}}}"#;
    instance.kubectl(&["patch", "pvc", "data-diary-0", "-p", larger]);
    eventually("the claim has its new size", || {
        let claim = instance.get(&["pvc", "data-diary-0"])?;
        (text(&claim, "/status/capacity/storage") == "20Mi").then_some(())
    });

    instance.kubectl(&["delete", "statefulset", "diary", "--wait=false"]);
    instance.kubectl(&["wait", "--for=delete", "pod", "-l", "app=diary", "--timeout=60s"]);
    assert_eq!(lines(&folders[0]).len(), 3, "a claim outlives its set");
    // Keelson is killed while the directories go.
    instance.kubectl(&["delete", "pvc", "data-diary-0", "data-diary-1", "--wait=false"]);
    instance.kill();
    instance.resume();
    eventually("nothing is left", || {
        let volumes = instance.get(&["pv"])?["items"].as_array()?.len();
        (volumes == 0 && folders.iter().all(|folder| !folder.exists())).then_some(())
    });
    let root = folders[0].parent().unwrap();
    let left: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".removed"), "{left:?}");
}

/// Retain, a class that does not wait, an ephemeral volume, and a pod that tries to lead the node astray.
#[test]
fn policies_modes_and_links_are_honoured() {
    let Some(instance) = busybox::instance("policies_modes_and_links_are_honoured") else {
        return;
    };
    instance.apply(
        r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: kept}
provisioner: keelson.dev/directory
reclaimPolicy: Retain
volumeBindingMode: Immediate
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {storageClassName: kept, accessModes: [ReadWriteMany], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: linker}
spec:
  restartPolicy: Never
  containers:
  - name: linker
    image: test/busybox:1
    command: [/busybox, sh, -c, "/busybox ln -s /etc /scratch/etc && /busybox ln -s /../../../../etc /scratch/up && exec /busybox sleep 100000"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - name: scratch
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}
"#,
    );
    let kept = eventually("the claim that does not wait is bound", || {
        let claim = instance.get(&["pvc", "kept"])?;
        (text(&claim, "/status/phase") == "Bound").then(|| text(&claim, "/spec/volumeName").to_owned())
    });
    let path = PathBuf::from(text(&instance.get(&["pv", &kept]).unwrap(), "/spec/local/path"));
    std::fs::write(path.join("precious"), "x").unwrap();
    instance.kubectl(&["delete", "pvc", "kept", "--timeout=60s"]);
    eventually("the volume is released", || {
        (text(&instance.get(&["pv", &kept])?, "/status/phase") == "Released").then_some(())
    });
    instance.kubectl(&["delete", "pv", &kept, "--timeout=60s"]);
    assert!(path.join("precious").exists(), "what is retained stays, also without its volume");

    let scratch = directory(&instance, "linker-scratch");
    eventually("the links are there", || scratch.join("up").is_symlink().then_some(()));
    let before = std::fs::read_dir("/etc").unwrap().count();
    instance.kubectl(&["delete", "pod", "linker", "--timeout=60s"]);
    eventually("the claim goes with its pod", || instance.get(&["pvc", "linker-scratch"]).is_none().then_some(()));
    eventually("so does the directory", || (!scratch.exists()).then_some(()));
    assert_eq!(std::fs::read_dir("/etc").unwrap().count(), before);
}
