//! What a route itself says of how its requests are forwarded: tried again, and kept with one endpoint.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use kinds::gateway::{HTTPRouteRetry, SessionPersistence};
use resilience::balance::hash;

use super::{duration, filters::unsupported, verdict::Fault};
use crate::routing::{Carrier, Owner, Retry, Session, Trigger};

/// How often a request is tried again when the route does not say it: as often as Envoy Gateway does.
pub(crate) const RETRIES: u32 = 2;

/// The longest first pause when the route does not say any, and the longest of all: Envoy's.
pub(crate) const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// The longest pause as a multiple of the first, where only that is said.
const PAUSE_GROWTH: u32 = 10;

/// What a failed connection, a broken one and silence have in common: the API has them tried again in any case.
const UNANSWERED: [Trigger; 3] = [Trigger::Reset, Trigger::ConnectFailure, Trigger::Refused];

/// What names of sessions begin with that the gateway chooses itself.
const SESSION: &str = "keelson-session-";

/// When requests of a rule are tried again.
pub(crate) fn retry(from: &HTTPRouteRetry) -> Result<Retry, Fault> {
    let statuses = from.codes.iter().map(|code| {
        let status = u16::try_from(*code).ok().and_then(|code| StatusCode::from_u16(code).ok());
        status.ok_or_else(|| unsupported(format!("retry.codes: {code} is no status")))
    });
    let retries = match from.attempts {
        None => RETRIES,
        Some(attempts) => {
            u32::try_from(attempts).map_err(|_| unsupported(format!("retry.attempts: {attempts} is negative")))?
        }
    };
    let pause = duration::limit(from.backoff.as_deref())?;
    let (base, max) = pause.map_or(PAUSES, |pause| (pause, pause.saturating_mul(PAUSE_GROWTH)));
    let retry = Retry {
        triggers: UNANSWERED.to_vec(),
        statuses: statuses.collect::<Result<_, _>>()?,
        config: Retry::config(retries, base, max.min(resilience::retry::PAUSE_MAX)),
        pause: pause.unwrap_or_default(),
        attempt: None,
        careful: false,
        within: None,
    };
    retry.validate().map_err(|error| unsupported(format!("retry: {error}")))?;
    Ok(retry)
}

/// How requests of a rule, the `order`th of its route, find the endpoint of their session.
pub(crate) fn session(from: &SessionPersistence, owner: &Owner, order: usize) -> Result<Session, Fault> {
    let chosen = || format!("{SESSION}{:016x}", hash(owner.to_string().as_bytes(), order as u64));
    let name = from.session_name.clone().unwrap_or_else(chosen);
    let absolute = duration::limit(from.absolute_timeout.as_deref())?;
    let header = || HeaderName::try_from(&*name).map_err(|_| unsupported(format!("sessionName {name:?} is no token")));
    let carrier = match from.type_.as_deref().unwrap_or("Cookie") {
        "Header" => Carrier::Header(header()?),
        "Cookie" => {
            // Names of cookies and of headers are made of the same characters.
            header()?;
            let lifetime = from.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_deref());
            let permanent = lifetime == Some("Permanent");
            if permanent && absolute.is_none() {
                return Err(unsupported("a permanent cookie needs an absoluteTimeout"));
            }
            Carrier::Cookie {
                name: name.into(),
                permanent,
                attributes: "".into(),
                path: "/".into(),
                secure_as_sent: false,
            }
        }
        other => return Err(unsupported(format!("sessionPersistence of type {other} is not known"))),
    };
    Ok(Session { carrier, absolute, idle: duration::limit(from.idle_timeout.as_deref())?, keeps: false })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::routing::Failed;

    #[test]
    fn retries_are_those_of_the_route() {
        let retry = |from: Value| retry(&serde_json::from_value(from).unwrap());
        let full = retry(json!({"codes": [500, 503], "attempts": 4, "backoff": "100ms"})).unwrap();
        assert_eq!((full.config.tries_max, full.pause), (5, Duration::from_millis(100)));
        let status = |status| Failed::Status(StatusCode::from_u16(status).unwrap());
        for (failed, taken) in [
            (status(500), true),
            (status(503), true),
            (status(502), false),
            (Failed::Timeout, true),
            (Failed::Connect, true),
            (Failed::Reset { sent: true }, true),
        ] {
            assert_eq!(full.takes(failed), taken, "{failed:?}");
        }
        assert_eq!(retry(json!({})).unwrap().config.tries_max, 3);
        assert_eq!(retry(json!({"attempts": 0})).unwrap().config.tries_max, 1);
        for (wrong, told) in [
            (json!({"attempts": -1}), "retry.attempts: -1 is negative"),
            (json!({"attempts": 100}), "retry: tries_max: must be between 1 and 20, not 101"),
            (json!({"codes": [99]}), "retry.codes: 99 is no status"),
            (json!({"backoff": "1x"}), "\"1x\" is no duration"),
        ] {
            assert_eq!(retry(wrong).unwrap_err().message, told);
        }
    }

    #[test]
    fn sessions_are_those_of_the_route() {
        let owner = Owner { kind: "HTTPRoute", name: "ns/route".into() };
        let session = |from: Value, order| session(&serde_json::from_value(from).unwrap(), &owner, order);
        let cookie = |session: &Session| match &session.carrier {
            Carrier::Cookie { name, permanent, .. } => (name.to_string(), *permanent),
            Carrier::Header(name) => panic!("{name}"),
        };
        let from = json!({
            "sessionName": "s", "absoluteTimeout": "1h", "idleTimeout": "1m",
            "cookieConfig": {"lifetimeType": "Permanent"},
        });
        let full = session(from, 0).unwrap();
        assert_eq!(cookie(&full), ("s".to_owned(), true));
        assert_eq!((full.absolute, full.idle), (Some(Duration::from_secs(3600)), Some(Duration::from_secs(60))));
        let (first, second) = (session(json!({}), 0).unwrap(), session(json!({}), 1).unwrap());
        assert_ne!(cookie(&first), cookie(&second), "every rule has a session of its own");
        assert_eq!(first, session(json!({}), 0).unwrap(), "and keeps it");
        let header = session(json!({"type": "Header", "sessionName": "X-Session"}), 0).unwrap();
        assert_eq!(header.carrier, Carrier::Header(HeaderName::from_static("x-session")));
        for wrong in [
            json!({"sessionName": "no good"}),
            json!({"cookieConfig": {"lifetimeType": "Permanent"}}),
            json!({"type": "Wish"}),
            json!({"idleTimeout": "soon"}),
        ] {
            assert_eq!(session(wrong.clone(), 0).unwrap_err().reason, "UnsupportedValue", "{wrong}");
        }
    }
}
