//! When the token of a Secret was last used: a label on the Secret, written once a day.
//!
//! Authentication only notes it; the request that noticed writes the label after it was answered, so that reading stays
//! reading.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::{Timestamp, tz::TimeZone};
use parking_lot::Mutex;
use serde_json::Value;
use strategy::tree;

/// The label, as upstream names it.
pub(super) const LABEL: &str = "kubernetes.io/legacy-token-last-used";
/// Secrets whose label waits to be written; further ones are noted at their next use.
const WAITING_MAX: usize = 1024;

/// Secrets whose label is to be written.
#[derive(Default)]
pub(crate) struct LastUsed {
    any: AtomicBool,
    waiting: Mutex<BTreeSet<String>>,
}

impl LastUsed {
    pub(super) fn note(&self, path: &str) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.insert(path.to_owned());
            self.any.store(true, Ordering::Release);
        }
    }

    /// Whether something waits; one atomic load.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes what waits.
    pub(crate) fn take(&self) -> Vec<String> {
        let mut waiting = self.waiting.lock();
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut *waiting).into_iter().collect()
    }
}

/// The day that the label names.
pub(crate) fn day(now: Timestamp) -> String {
    now.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}

/// The day the label of a Secret names, empty for none.
pub(super) fn label(secret: &Value) -> &str {
    tree::text_at(secret, &["metadata", "labels", LABEL])
}

/// The merge patch that writes the label.
pub(crate) fn patch(now: Timestamp) -> Value {
    serde_json::json!({"metadata": {"labels": {LABEL: day(now)}}})
}
