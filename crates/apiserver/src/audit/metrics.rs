//! Counters of the audit, under upstream's names.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::policy::Level;

/// The counters.
#[derive(Debug, Default)]
pub(super) struct AuditMetrics {
    events: AtomicU64,
    errors: AtomicU64,
    undelivered: AtomicU64,
    levels: [AtomicU64; 4],
}

impl AuditMetrics {
    pub(super) fn level(&self, level: Level) {
        self.levels[level as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn written(&self, count: usize) {
        self.events.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn failed(&self, count: usize) {
        self.errors.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn undelivered(&self, count: usize) {
        self.undelivered.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn render(&self, out: &mut String) {
        let name = "apiserver_audit_event_total";
        let help = "Counter of audit events generated and sent to the audit backend.";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", self.events.load(Relaxed));
        let name = "apiserver_audit_error_total";
        let help = "Counter of audit events that failed to be audited properly.";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        let _ = writeln!(out, "{name}{{plugin=\"log\"}} {}", self.errors.load(Relaxed));
        let _ = writeln!(out, "{name}{{plugin=\"webhook\"}} {}", self.undelivered.load(Relaxed));
        let name = "apiserver_audit_level_total";
        let help = "Counter of policy levels for audit events (1 per request).";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for level in [Level::None, Level::Metadata, Level::Request, Level::RequestResponse] {
            let count = self.levels[level as usize].load(Relaxed);
            let _ = writeln!(out, "{name}{{level=\"{}\"}} {count}", level.as_str());
        }
    }
}
