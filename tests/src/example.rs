//! The example application on an instance.

use std::{env, path::PathBuf};

use serde_json::{Value, json};

use crate::{Instance, eventually, http};

/// Port of the example's Gateway.
const GATEWAY_PORT: u16 = 8080;

/// An order that the example accepts; the key is its id too.
pub fn order(key: &str) -> Value {
    json!({"id": key, "debtor": "a", "creditor": "b", "amount_minor": 100, "currency": "EUR", "pay_in": "USD"})
}

/// The folder of this repository.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Instance {
    /// URL of a path behind the example's Gateway.
    pub fn gateway_url(&self, path: &str) -> String {
        format!("http://{}:{GATEWAY_PORT}{path}", self.gateway_address())
    }

    /// Builds the images of the example into this instance's registry.
    pub fn build_example_images(&self) {
        let binaries = env::var_os("EXAMPLE_BIN")
            .map_or_else(|| repository().join("target/settlement/x86_64-unknown-linux-gnu/release"), PathBuf::from);
        for service in ["ledger", "orders", "web"] {
            let source = binaries.join(service);
            assert!(source.exists(), "{} is not built: run `make example`", source.display());
            let source = source.display().to_string();
            let tag = format!("settlement/{service}:0.1.0");
            let built = self.keelson(&["image", "build", &source, "--tag", &tag, "--port", "8080"]);
            assert!(built.status.success(), "image build: {}", String::from_utf8_lossy(&built.stderr));
        }
    }

    /// Installs the example and waits until an order comes through the gateway.
    pub fn install_example(&self) {
        self.build_example_images();
        let manifests = repository().join("examples/settlement/manifests");
        self.kubectl(&["apply", "-f", &manifests.display().to_string()]);
        for deployment in ["ledger", "orders", "web"] {
            self.kubectl(&[
                "rollout",
                "status",
                "-n",
                "settlement",
                &format!("deployment/{deployment}"),
                "--timeout=90s",
            ]);
        }
        eventually("the page and an order come through the gateway", || {
            let page = http::get(&self.gateway_url("/")).ok()?;
            let placed = http::post(&self.gateway_url("/orders"), "hello", &order("hello")).ok()?;
            (page.0.is_success() && placed.0.is_success()).then_some(())
        });
    }
}
