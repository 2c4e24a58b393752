//! What to do with a request.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{
    backend::{Backend, Share, Target, choose_among},
    cors::Cors,
    direct::Direct,
    guards::{Guards, Policies},
    listener::{Identity, ListenerConfig},
    matching::RequestHead,
    redirect::{Origin, Redirect},
    rule::{Action, Rule},
    rules::Entry,
    traffic::{Retry, Session, Traffic},
    versions::Picked,
};

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// Send it to an endpoint of the backend.
    Forward(Forward<'a>),
    /// Answer with a redirect.
    Redirect {
        /// The rule.
        rule: &'a Rule,
        /// The status.
        status: StatusCode,
        /// The `Location`.
        location: String,
    },
    /// Answer as the route says.
    Answer {
        /// The rule.
        rule: &'a Rule,
        /// The answer.
        direct: &'a Direct,
    },
    /// Answer a browser's question whether it may send a request.
    Preflight(HeaderMap),
    /// No rule takes it.
    NotFound,
    /// Its connection was made for another listener.
    Misdirected,
    /// A rule takes it that cannot be served.
    Fail(StatusCode),
}

/// The rule that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    pub(super) entry: &'a Entry,
    pub(super) listener: &'a ListenerConfig,
    pub(super) tls: bool,
    pub(super) port: u16,
}

impl<'a> Found<'a> {
    /// What the rule gets from its listener. Whoever decides looks once, so that a request sees it as it was then.
    pub fn inherited(&self) -> Option<Arc<Policies>> {
        self.entry.inherited.as_ref()?.get()
    }

    /// Whether it is the rule of an Ingress.
    pub(crate) fn is_of_ingress(&self) -> bool {
        self.entry.rule.owner.kind == "Ingress"
    }

    /// What the request has to pass: what the rule says, else what its listener says.
    pub fn guards<'p>(&self, inherited: Option<&'p Policies>) -> Option<&'p Arc<Guards>>
    where
        'a: 'p,
    {
        self.entry.rule.guards.as_ref().or_else(|| inherited?.guards.as_ref())
    }

    /// What to do with the request, which has passed. Its rule is the one that took it, whatever its guards changed.
    pub fn decide<'p>(&self, head: &RequestHead<'_>, inherited: Option<&'p Policies>, random: u64) -> Decision<'p>
    where
        'a: 'p,
    {
        let RequestHead { host, path, query, .. } = *head;
        let origin = Origin { tls: self.tls, host, port: self.port, path, query, client: None };
        decide(self.entry, head, origin, (self.listener, inherited), random)
    }
}

/// How a request is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// The share that was drawn, with its own changes.
    pub share: &'a Share,
    /// Its backend.
    pub backend: &'a Arc<Backend>,
    /// Whether only HTTP/2 will do.
    pub http2: bool,
    /// Length of the matched path prefix.
    pub matched: usize,
    /// By which certificate the backend knows the gateway.
    pub identity: Option<&'a Arc<Identity>>,
    /// What a policy says of how it is forwarded.
    pub traffic: Option<&'a Arc<Traffic>>,
    /// Which version of the service's API it is for.
    pub version: Option<Picked>,
}

impl<'a> Forward<'a> {
    /// Who may read the answer.
    pub fn cors(&self) -> Option<&'a Cors> {
        self.share.filters.cors.as_deref().or(self.rule.filters.cors.as_deref())
    }

    /// How often it is tried again: as the route says, else as the policy does.
    pub fn retry(&self) -> Option<&'a Retry> {
        self.rule.retry.as_deref().or_else(|| self.traffic?.retry.as_deref())
    }

    /// How a client finds its endpoint again: as the route says, else as the policy does.
    pub fn session(&self) -> Option<&'a Session> {
        self.rule.session.as_deref().or_else(|| self.traffic?.session.as_deref())
    }
}

/// A [`Forward`] that outlives the table it is from.
#[derive(Clone, Debug)]
pub struct KeptForward {
    rule: Arc<Rule>,
    share: usize,
    matched: usize,
    identity: Option<Arc<Identity>>,
    traffic: Option<Arc<Traffic>>,
    version: Option<Picked>,
}

impl Forward<'_> {
    /// Whether a share of the rule may be sent the request.
    pub fn serves(&self, share: usize) -> bool {
        let serving = self.rule.filters.versions.as_ref().zip(self.version);
        let serving = serving.and_then(|(versions, picked)| versions.shares(picked));
        serving.is_none_or(|serving| serving.get(share).copied().unwrap_or(false))
    }

    /// The same, to be kept.
    pub fn keep(&self) -> Option<KeptForward> {
        let Action::Forward(shares) = &self.rule.action else { return None };
        Some(KeptForward {
            rule: Arc::clone(self.rule),
            share: shares.iter().position(|share| std::ptr::eq(share, self.share))?,
            matched: self.matched,
            identity: self.identity.cloned(),
            traffic: self.traffic.cloned(),
            version: self.version,
        })
    }
}

impl KeptForward {
    /// What was kept.
    pub fn forward(&self) -> Option<Forward<'_>> {
        let Action::Forward(shares) = &self.rule.action else { return None };
        let share = shares.get(self.share)?;
        let Target::Service { backend, http2 } = &share.target else { return None };
        let (identity, traffic) = (self.identity.as_ref(), self.traffic.as_ref());
        let (rule, http2, matched, version) = (&self.rule, *http2, self.matched, self.version);
        Some(Forward { rule, share, backend, http2, matched, identity, traffic, version })
    }
}

fn decide<'a>(
    entry: &'a Entry,
    head: &RequestHead<'_>,
    origin: Origin<'_>,
    (listener, inherited): (&'a ListenerConfig, Option<&'a Policies>),
    random: u64,
) -> Decision<'a> {
    let (rule, matched) = (&entry.rule, entry.condition.path.prefix_len());
    let preflight = |cors: Option<&Arc<Cors>>| cors.and_then(|cors| cors.preflight(head.method, head.headers));
    if let Some(answer) = preflight(rule.filters.cors.as_ref()) {
        return Decision::Preflight(answer);
    }
    let redirected = |redirect: &Redirect| Decision::Redirect {
        rule,
        status: redirect.status,
        location: redirect.location(origin, matched),
    };
    if let Some(redirect) = &rule.filters.redirect {
        return redirected(redirect);
    }
    if let Some(direct) = &rule.filters.direct {
        return Decision::Answer { rule, direct };
    }
    let (version, serving) = match &rule.filters.versions {
        None => (None, None),
        Some(versions) => match versions.pick(head) {
            Ok(picked) => (Some(picked), versions.shares(picked)),
            Err(direct) => return Decision::Answer { rule, direct },
        },
    };
    match &rule.action {
        Action::Redirect { status, to } => {
            Decision::Redirect { rule, status: *status, location: to.render(head, origin) }
        }
        Action::Fail(status) => Decision::Fail(*status),
        Action::Forward(shares) => match choose_among(shares, serving, random) {
            Some(share) => match &share.target {
                Target::Service { backend, http2 } => {
                    if let Some(answer) = preflight(share.filters.cors.as_ref()) {
                        return Decision::Preflight(answer);
                    }
                    match (&share.filters.redirect, &share.filters.direct) {
                        (Some(redirect), _) => redirected(redirect),
                        (None, Some(direct)) => Decision::Answer { rule, direct },
                        (None, None) => {
                            let (http2, identity) = (*http2, listener.identity.as_ref());
                            let traffic = rule.traffic.as_ref().or_else(|| inherited?.traffic.as_ref());
                            Decision::Forward(Forward {
                                rule,
                                share,
                                backend,
                                http2,
                                matched,
                                identity,
                                traffic,
                                version,
                            })
                        }
                    }
                }
                Target::Invalid => Decision::Fail(StatusCode::INTERNAL_SERVER_ERROR),
            },
            // No backend at all, or none that may be sent anything.
            None => Decision::Fail(StatusCode::INTERNAL_SERVER_ERROR),
        },
    }
}
