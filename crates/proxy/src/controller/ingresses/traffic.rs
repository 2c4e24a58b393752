//! What annotations say of how requests are forwarded, compiled; with the defaults of ingress-nginx.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use resilience::ConfigError;

use super::{
    Context,
    settings::{Balancing, NextUpstream, SameSite, TrafficSettings},
    values::{cookie_path, invalid},
};
use crate::{
    controller::ingresses::annotations::Report,
    routing::{
        Balance, Carrier, Condition, Crowd, Distinct, HashKey, RateRule, Rates, Retry, Session, Traffic, Trigger,
        Upstream, UpstreamConfig, What,
    },
};

/// How long a backend may be silent.
const READ: Duration = Duration::from_secs(60);

/// Bytes of the longest body of a request.
const BODY_BYTES: u64 = 1 << 20;

/// Endpoints that are tried.
pub(super) const TRIES: u32 = 3;

/// How many times as many as per second or minute may come at once.
const BURST: u32 = 5;

/// How many endpoints a key stands for, where it stands for several.
const SUBSET: u32 = 3;

/// The cookie's name.
const COOKIE: &str = "INGRESSCOOKIE";

/// What is said about too many requests, and about too many at once.
const TOO_MANY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// Another endpoint is tried at once: it is not the one that was in trouble.
const AT_ONCE: Duration = Duration::from_nanos(1);

/// How requests are forwarded by these settings; what is counted is new.
pub(super) fn traffic(settings: &TrafficSettings) -> Result<Traffic, ConfigError> {
    let some = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
    let limits = &settings.limits;
    let status = limits.statuses.1.unwrap_or(TOO_MANY);
    let crowd = (limits.connections > 0).then(|| Crowd::new(limits.connections, limits.free.clone(), status));
    Ok(Traffic {
        upstream: upstream(settings)?,
        retry: retry(settings)?.map(Arc::new),
        rates: rates(settings)?.map(Arc::new).into_iter().collect(),
        connect: some(settings.connect),
        silence: some(settings.read.or(Some(READ))),
        body_max: settings.body_max.unwrap_or(Some(BODY_BYTES)),
        crowd,
        ..Traffic::default()
    })
}

fn upstream(settings: &TrafficSettings) -> Result<Option<Arc<Upstream>>, ConfigError> {
    let key = settings.hash.clone().map(HashKey::Text);
    let balance = match (key, settings.balancing) {
        (Some(key), _) if settings.subset => Balance::Few(key, settings.subset_size.unwrap_or(SUBSET)),
        (Some(key), _) => Balance::Hash(key),
        (None, Some(Balancing::Fastest)) => Balance::Fastest,
        // What happens anyway.
        (None, Some(Balancing::Turns) | None) => return Ok(None),
    };
    Upstream::new(UpstreamConfig { balance, ..UpstreamConfig::default() }).map(Some)
}

fn retry(settings: &TrafficSettings) -> Result<Option<Retry>, ConfigError> {
    let next = &settings.next;
    if next.when.is_none() && next.tries.is_none() && next.within.is_none() {
        return Ok(None);
    }
    let when = next.when.clone().unwrap_or_else(anyway);
    let triggers = [(when.error, Trigger::Broken), (when.timeout, Trigger::Timeout)];
    let retry = Retry {
        triggers: triggers.into_iter().filter(|(named, _)| *named).map(|(_, trigger)| trigger).collect(),
        statuses: when.statuses,
        config: Retry::config(next.tries.unwrap_or(TRIES).saturating_sub(1), AT_ONCE, AT_ONCE),
        pause: Duration::ZERO,
        attempt: None,
        careful: !when.any_method,
        within: next.within.filter(|within| !within.is_zero()),
    };
    retry.validate()?;
    Ok(Some(retry))
}

fn rates(settings: &TrafficSettings) -> Result<Option<Rates>, ConfigError> {
    let limits = &settings.limits;
    let burst = limits.burst.unwrap_or(BURST);
    let rule = |requests: u32, per: Duration| {
        let free = limits.free.iter().map(|network| Condition { what: What::Source(*network), invert: true });
        // The first is within the rate; the burst comes on top.
        let at_once = requests.saturating_mul(burst).saturating_add(1);
        RateRule::with_burst(requests, per, at_once, free.collect(), vec![Distinct::Source])
    };
    let rates = [(limits.minute, Duration::from_secs(60)), (limits.second, Duration::from_secs(1))];
    let rules = rates.into_iter().filter(|(requests, _)| *requests > 0).map(|(requests, per)| rule(requests, per));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    if rules.is_empty() {
        return Ok(None);
    }
    let mut rates = Rates::new(rules, false);
    rates.status = limits.statuses.0.unwrap_or(TOO_MANY);
    Ok(Some(rates))
}

/// What another endpoint is tried for when that is not said.
pub(super) fn anyway() -> NextUpstream {
    NextUpstream { error: true, timeout: true, ..NextUpstream::default() }
}

/// The same as before where that was made of the same, so that what is counted goes on.
pub(super) fn shared(
    context: &Context<'_>,
    before: Option<&(TrafficSettings, Arc<Traffic>)>,
) -> (TrafficSettings, Arc<Traffic>) {
    let settings = &context.settings.traffic;
    if let Some(before) = before.filter(|(of, _)| of == settings) {
        return before.clone();
    }
    let traffic = traffic(settings).unwrap_or_else(|error| {
        context.report(Report::refused("limit-rps", invalid(error.to_string())));
        Traffic::default()
    });
    (settings.clone(), Arc::new(traffic))
}

/// How the clients of a path find their endpoint again. Where that is a pattern the cookie is for every path.
pub(super) fn session(context: &Context<'_>, path: Option<&str>) -> Option<Arc<Session>> {
    let cookie = Some(&context.settings.session).filter(|cookie| cookie.enabled)?;
    let own = path.and_then(|path| cookie_path(path).ok()).unwrap_or_else(|| "/".into());
    let same_site = cookie.same_site.map(|same_site| match same_site {
        SameSite::None => "; SameSite=None",
        SameSite::Lax => "; SameSite=Lax",
        SameSite::Strict => "; SameSite=Strict",
    });
    let domain = cookie.domain.as_ref().map(|domain| format!("; Domain={domain}"));
    let switches = [(cookie.secure == Some(true), "; Secure"), (cookie.partitioned, "; Partitioned")];
    let switches = switches.into_iter().filter(|(on, _)| *on).map(|(_, text)| text);
    let attributes: String = domain.as_deref().into_iter().chain(same_site).chain(switches).collect();
    let absolute = cookie.max_age.or(cookie.expires).filter(|age| !age.is_zero());
    let carrier = Carrier::Cookie {
        name: cookie.name.as_deref().unwrap_or(COOKIE).into(),
        permanent: absolute.is_some(),
        attributes: attributes.into(),
        path: cookie.path.clone().unwrap_or(own),
        secure_as_sent: cookie.secure.is_none(),
    };
    Some(Arc::new(Session { carrier, absolute, idle: None, keeps: !cookie.changes }))
}
