//! Pods with a shell: an image of the one static program that Debian packages, and an instance that has it.

use std::path::Path;

use crate::{Instance, Options, need_root};

/// A static program that can serve, ask and run a shell inside an image without anything else.
const BUSYBOX: &str = "/bin/busybox";
/// What pods call the image; the program is `/busybox` in it.
pub const IMAGE: &str = "test/busybox:1";

/// An instance with a node and the image; `None`, and prints why, where the test cannot run.
pub fn instance(test: &str) -> Option<Instance> {
    if !Path::new(BUSYBOX).exists() {
        println!("skipped: {test}: needs {BUSYBOX} (Debian's package busybox-static)");
        return None;
    }
    if !need_root(test) {
        return None;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let built = instance.keelson(&["image", "build", BUSYBOX, "--tag", IMAGE]);
    assert!(built.status.success(), "image build: {}", String::from_utf8_lossy(&built.stderr));
    Some(instance)
}
