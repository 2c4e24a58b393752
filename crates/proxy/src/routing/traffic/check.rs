//! Asking endpoints whether they are well: what is asked, and what the answers amount to.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};

/// How endpoints are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What they are asked.
    pub question: Question,
    /// The time between two questions.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// The longest time until the first question.
    pub jitter: Duration,
    /// Failures in a row until one is not well.
    pub unhealthy: u32,
    /// Successes in a row until it is again.
    pub healthy: u32,
    /// Where they are asked, unless it is where requests go.
    pub port: Option<u16>,
}

/// What endpoints are asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A request.
    Http {
        /// Its method.
        method: Method,
        /// Its path.
        path: Box<str>,
        /// Its host; the endpoint's address when absent.
        host: Option<HeaderValue>,
        /// Statuses of who is well.
        statuses: Vec<u16>,
        /// Statuses that are a failure among others; any other that is not expected is the end.
        retriable: Vec<u16>,
        /// What is in the answer.
        text: Option<Bytes>,
    },
    /// Bytes.
    Tcp {
        /// What is sent.
        send: Option<Bytes>,
        /// What comes.
        receive: Option<Bytes>,
    },
    /// A call of `grpc.health.v1.Health/Check`.
    Grpc {
        /// About which service.
        service: Box<str>,
    },
}

/// What an endpoint answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// That it is well.
    Well,
    /// Something else, or nothing.
    Failed,
    /// That it is not well, which needs no second question.
    Sick,
}

/// What is known of an endpoint's health. One that is new is taken to be well until it fails once, so that a backend whose
/// endpoints have not been asked yet is not without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    sick: bool,
    /// Answers in a row that speak against what is known.
    against: u32,
    asked: bool,
}

impl Health {
    /// Whether the endpoint is not well.
    pub fn is_sick(self) -> bool {
        self.sick
    }

    /// What is known after another answer.
    #[must_use]
    pub fn after(self, reply: Reply, check: &Check) -> Health {
        let well = reply == Reply::Well;
        if well != self.sick {
            return Health { against: 0, asked: true, ..self };
        }
        let against = self.against + 1;
        let enough = match (well, reply) {
            (true, _) => against >= check.healthy,
            // The first answer decides at once, as in Envoy.
            (false, Reply::Sick) => true,
            (false, _) => !self.asked || against >= check.unhealthy,
        };
        match enough {
            true => Health { sick: !self.sick, against: 0, asked: true },
            false => Health { against, asked: true, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> Check {
        Check {
            question: Question::Tcp { send: None, receive: None },
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(1),
            jitter: Duration::ZERO,
            unhealthy: 3,
            healthy: 2,
            port: None,
        }
    }

    fn sick(replies: &[Reply]) -> bool {
        replies.iter().fold(Health::default(), |health, reply| health.after(*reply, &check())).is_sick()
    }

    #[test]
    fn an_endpoint_is_sick_after_enough_failures_and_well_after_enough_successes() {
        use Reply::{Failed, Sick, Well};
        for (replies, expected) in [
            (&[][..], false),
            (&[Failed], true),
            (&[Well, Failed, Failed], false),
            (&[Well, Failed, Failed, Failed], true),
            (&[Well, Failed, Failed, Well, Failed], false),
            (&[Well, Sick], true),
            (&[Failed, Well], true),
            (&[Failed, Well, Well], false),
            (&[Failed, Well, Failed, Well], true),
        ] {
            assert_eq!(sick(replies), expected, "{replies:?}");
        }
    }
}
