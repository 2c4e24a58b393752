//! The rules of probes and lifecycle hooks.

use serde_json::Value;

use super::{scheduling::NON_NEGATIVE, validation::validate_choice};
use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{int, list, some, text},
};

/// Checks the probe in the container's field `key`.
pub(super) fn validate_probe(probe: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(value) = int(probe, number)
            && value < 0
        {
            errors.invalid(&path.child(number), value, NON_NEGATIVE);
        }
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds") {
        let path = path.child("terminationGracePeriodSeconds");
        if key == "readinessProbe" {
            errors.invalid(&path, seconds, "must not be set for readinessProbes");
        } else if seconds <= 0 {
            errors.invalid(&path, seconds, "must be greater than 0");
        }
    }
    if let Some(threshold) = int(probe, "successThreshold")
        && key != "readinessProbe"
        && threshold != 1
    {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

/// Checks the hooks of a container.
pub(super) fn validate_lifecycle(lifecycle: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["postStart", "preStop"] {
        if let Some(handler) = some(lifecycle, key) {
            validate_handler(handler, &["exec", "httpGet", "tcpSocket", "sleep"], &path.child(key), errors);
        }
    }
}

/// Signals that a container may ask to be stopped with, besides SIGRTMIN+n and SIGRTMAX-n.
const SIGNALS: [&str; 33] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
];

/// Checks the signal that stops a container; `os` is the operating system that the pod says it is for.
pub(super) fn validate_stop_signal(container: &Value, os: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(signal) = container.pointer("/lifecycle/stopSignal").and_then(Value::as_str) else { return };
    let path = path.child("lifecycle");
    let path = path.child("stopSignal");
    let known = SIGNALS.contains(&signal)
        || ["SIGXFSZ", "SIGRTMIN", "SIGRTMAX"].contains(&signal)
        || realtime(signal, "SIGRTMIN+", 15)
        || realtime(signal, "SIGRTMAX-", 14);
    match os {
        "" => errors.forbidden(&path, "may not be set for containers with empty `spec.os.name`"),
        "windows" if !["SIGTERM", "SIGKILL"].contains(&signal) => {
            errors.not_supported(&path, signal, &["SIGKILL", "SIGTERM"]);
        }
        _ if !known => errors.not_supported(&path, signal, &SIGNALS),
        _ => {}
    }
}

/// Whether `signal` is `prefix` and a number from 1 to `max`.
fn realtime(signal: &str, prefix: &str, max: u8) -> bool {
    let number = signal.strip_prefix(prefix).filter(|digits| !digits.starts_with('0'));
    number.and_then(|digits| digits.parse::<u8>().ok()).is_some_and(|number| number <= max)
}

fn validate_handler(handler: &Value, kinds: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for kind in kinds {
        let Some(action) = some(handler, kind) else { continue };
        let path = path.child(kind);
        count += 1;
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    errors.required(&path.child("command"), "");
                }
            }
            "httpGet" => {
                if text(action, "path").is_empty() {
                    errors.required(&path.child("path"), "");
                }
                validate_port(action, &path, errors);
                validate_choice(action, "scheme", &["HTTP", "HTTPS"], &path, errors);
                let headers = path.child("httpHeaders");
                for header in list(action, "httpHeaders") {
                    let name = text(header, "name");
                    if let Some(message) = names::http_header(name) {
                        errors.invalid(&headers, name, message);
                    }
                }
            }
            _ if *kind == "sleep" => {
                if let Some(seconds) = int(action, "seconds").filter(|seconds| *seconds < 0) {
                    errors.invalid(&path.child("seconds"), seconds, NON_NEGATIVE);
                }
            }
            _ => validate_port(action, &path, errors),
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

/// Checks `port`, a number or the name of one.
fn validate_port(action: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("port");
    let port = action.get("port").unwrap_or(&Value::Null);
    if let Some(name) = port.as_str() {
        if let Some(message) = names::port_name(name) {
            errors.invalid(&path, name, message);
        }
    } else {
        let number = port.as_i64().unwrap_or(0);
        if let Some(message) = names::port_number(number) {
            errors.invalid(&path, number, message);
        }
    }
}
