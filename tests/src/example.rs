//! The example application on an instance.

use std::{env, fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{Instance, eventually, http};

/// Port of the example's Gateway.
const GATEWAY_PORT: u16 = 8080;

/// An order that the example accepts; the key is its id too.
pub fn order(key: &str) -> Value {
    json!({"id": key, "debtor": "a", "creditor": "b", "amount_minor": 100, "currency": "EUR", "pay_in": "USD"})
}

/// A day as the ledger writes it, and how many orders it settled.
pub type Day = (String, i64);

/// What the ledger has on its disk, read where it lies.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LedgerJournal {
    /// The first line.
    pub header: Value,
    /// Idempotency keys, oldest first.
    pub keys: Vec<String>,
    /// Closed days in the order in which they were closed, and how many orders were settled on each.
    pub closed: Vec<Day>,
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
        for workload in ["statefulset/ledger", "deployment/orders", "deployment/web"] {
            self.kubectl(&["rollout", "status", "-n", "settlement", workload, "--timeout=90s"]);
        }
        eventually("the page and an order come through the gateway", || {
            let page = http::get(&self.gateway_url("/")).ok()?;
            let placed = http::post(&self.gateway_url("/orders"), "hello", &order("hello")).ok()?;
            (page.0.is_success() && placed.0.is_success()).then_some(())
        });
    }

    /// The folder of the example's ledger on this machine.
    pub fn ledger_folder(&self) -> PathBuf {
        let claim = self.get(&["pvc", "data-ledger-0", "-n", "settlement"]).expect("the ledger's claim");
        let volume =
            self.get(&["pv", claim["spec"]["volumeName"].as_str().expect("a bound claim")]).expect("its volume");
        let path = volume["spec"]["local"]["path"].as_str().or(volume["spec"]["hostPath"]["path"].as_str());
        path.expect("a volume on this machine").into()
    }

    /// What the ledger has written.
    pub fn ledger_journal(&self) -> LedgerJournal {
        let text = fs::read_to_string(self.ledger_folder().join("settlements.jsonl")).expect("the journal is read");
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        let mut journal = LedgerJournal { header: lines.next().unwrap_or_default(), ..LedgerJournal::default() };
        for line in lines {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            match line.get("closed") {
                Some(closed) => {
                    let settled = closed["totals"]["settlements"].as_i64().unwrap_or_default();
                    journal.closed.push((word(&closed["day"]), settled));
                }
                None => journal.keys.push(word(&line["settled"]["settlement"]["idempotency_key"])),
            }
        }
        journal
    }
}
