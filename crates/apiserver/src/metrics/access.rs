//! What finding out who asks, and whether they may, counts.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    head,
    histogram::{Bounds, DOUBLING, Histogram},
};

/// What is left of a client's certificate: from half an hour to a year.
static LEFT: Bounds = Bounds::whole_seconds(&[
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
]);

/// Users with a counter of their own; upstream names these, and adds up all others.
const USERS: [&str; 7] =
    ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default", "email_id", "other"];
const RESULTS: [&str; 3] = ["success", "failure", "error"];
const DECISIONS: [&str; 2] = ["allowed", "no-opinion"];

/// Whether somebody vouches for who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identified<'a> {
    User(&'a str),
    /// There are no credentials.
    Nobody,
    /// There are some, and they are no good.
    Refused,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct AccessMetrics {
    users: [AtomicU64; USERS.len()],
    authentication: [Histogram; RESULTS.len()],
    authorization: [Histogram; DECISIONS.len()],
    certificates: Histogram,
}

impl Default for AccessMetrics {
    fn default() -> Self {
        Self {
            users: Default::default(),
            authentication: std::array::from_fn(|_| Histogram::new(&DOUBLING)),
            authorization: std::array::from_fn(|_| Histogram::new(&DOUBLING)),
            certificates: Histogram::new(&LEFT),
        }
    }
}

impl AccessMetrics {
    /// Notes what became of a request's credentials.
    pub(crate) fn identified(&self, who: Identified<'_>, took: Duration) {
        let result = match who {
            Identified::User(name) => {
                let other = if name.contains('@') { USERS.len() - 2 } else { USERS.len() - 1 };
                let named = USERS[..USERS.len() - 2].iter().position(|known| *known == name);
                self.users[named.unwrap_or(other)].fetch_add(1, Relaxed);
                0
            }
            Identified::Nobody => 1,
            Identified::Refused => 2,
        };
        self.authentication[result].took(took);
    }

    /// Notes how long the certificate is still good that somebody is known by; who needs none has no end.
    pub(crate) fn certified(&self, until: i64, now: i64) {
        if until < i64::MAX {
            self.certificates.took(Duration::from_secs(until.saturating_sub(now).max(0).unsigned_abs()));
        }
    }

    /// Notes whether somebody may do what they ask for.
    pub(crate) fn authorized(&self, allowed: bool, took: Duration) {
        self.authorization[usize::from(!allowed)].took(took);
    }

    /// Appends the metrics.
    pub(crate) fn render(&self, out: &mut String) {
        let name = "authenticated_user_requests";
        head(out, name, "counter", "Requests of users that somebody vouches for.");
        for (user, count) in USERS.iter().zip(&self.users).filter(|(_, count)| count.load(Relaxed) > 0) {
            let _ = writeln!(out, "{name}{{username=\"{user}\"}} {}", count.load(Relaxed));
        }
        let tried = "Attempts to find out who asks.";
        each(out, ("authentication_attempts", tried), &RESULTS, &self.authentication);
        let decided = "Decisions on who may do what.";
        each(out, ("authorization_attempts_total", decided), &DECISIONS, &self.authorization);
        let timed = "Time it took to find out who asks, in seconds.";
        times(out, ("authentication_duration_seconds", timed), &RESULTS, &self.authentication);
        let timed = "Time it took to decide who may do what, in seconds.";
        times(out, ("authorization_duration_seconds", timed), &DECISIONS, &self.authorization);
        let name = "apiserver_client_certificate_expiration_seconds";
        head(out, name, "histogram", "What is left of the certificates that requests are known by, in seconds.");
        self.certificates.render(name, "", out);
    }
}

fn each(out: &mut String, (name, help): (&str, &str), results: &[&str], histograms: &[Histogram]) {
    head(out, name, "counter", help);
    for (result, histogram) in results.iter().zip(histograms).filter(|(_, histogram)| histogram.is_used()) {
        let _ = writeln!(out, "{name}{{result=\"{result}\"}} {}", histogram.count());
    }
}

fn times(out: &mut String, (name, help): (&str, &str), results: &[&str], histograms: &[Histogram]) {
    head(out, name, "histogram", help);
    for (result, histogram) in results.iter().zip(histograms).filter(|(_, histogram)| histogram.is_used()) {
        histogram.render(name, &format!("result=\"{result}\""), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_added_up_but_for_well_known_ones() {
        let metrics = AccessMetrics::default();
        for name in ["admin", "ann@example.com", "system:serviceaccount:a:b", "bob", "other"] {
            metrics.identified(Identified::User(name), Duration::ZERO);
        }
        metrics.identified(Identified::Refused, Duration::ZERO);
        metrics.authorized(false, Duration::ZERO);
        metrics.certified(5000, 1399);
        metrics.certified(i64::MAX, 0);
        let mut out = String::new();
        metrics.render(&mut out);
        for line in [
            "authenticated_user_requests{username=\"admin\"} 1",
            "authenticated_user_requests{username=\"email_id\"} 1",
            "authenticated_user_requests{username=\"other\"} 3",
            "authentication_attempts{result=\"success\"} 5",
            "authentication_attempts{result=\"error\"} 1",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"3600\"} 0",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"7200\"} 1",
            "apiserver_client_certificate_expiration_seconds_sum 3601",
            "authorization_attempts_total{result=\"no-opinion\"} 1",
            "authentication_duration_seconds_bucket{result=\"success\",le=\"0.001\"} 5",
        ] {
            assert!(out.lines().any(|known| known == line), "{line}\n{out}");
        }
    }
}
