//! Tokens of requests, verified by keys that may have to be fetched.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use identity::jwt::VerificationKey;
use tokio::time::Instant;
use tracing::debug;

use super::{
    super::Shared,
    asking::{self, Silence},
};
use crate::routing::{
    Backend, Claims, Entrant, Examined, Flaw, Jwt, KeyServer, KeySource, Known, Lenience, Provider, Refusal,
    RemoteKeys, Target, choose, own_range,
};

/// How long fetching keys may take: requests wait for it when there are none yet.
const FETCH: Duration = Duration::from_secs(5);

/// Bytes of a set of keys at most; providers publish some kilobytes.
const KEYS_BYTES: usize = 256 << 10;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum Unfetched {
    #[error("its name cannot be resolved")]
    Name(#[source] std::io::Error),
    #[error("there is nobody to ask")]
    Nobody,
    #[error(transparent)]
    Silence(#[from] Silence),
    #[error("it answers with {0}")]
    Status(StatusCode),
    #[error("its answer is no JSON")]
    Format(#[source] serde_json::Error),
    #[error("there is no key in its answer that could be used")]
    Empty,
}

/// Asks for a token; says whether the rule is to be looked for again with what the backend is told.
pub(super) async fn ask(shared: &Arc<Shared>, jwt: &Jwt, entrant: &mut Entrant<'_>) -> Result<bool, Refusal> {
    let now = jiff::Timestamp::now().as_second();
    let mut flaw = Flaw::Missing;
    let mut passed = None;
    for provider in &jwt.providers {
        match verified(shared, provider, entrant, now).await {
            Ok(claims) => {
                passed = Some((provider, claims));
                break;
            }
            Err(other) => flaw = flaw.or(other),
        }
    }
    jwt.clear(entrant);
    let Some((provider, claims)) = passed else {
        return match (jwt.lenience, flaw) {
            (Lenience::Failed, _) | (Lenience::Missing, Flaw::Missing) => Ok(false),
            (Lenience::None | Lenience::Missing, flaw) => Err(flaw.refusal(entrant)),
        };
    };
    let told = provider.tell(&claims, entrant);
    entrant.tokens.push((Arc::clone(&provider.name), claims));
    Ok(told && provider.recompute)
}

/// What the first token for a provider says. All of them must be good: nobody knows which one the backend reads.
async fn verified(shared: &Arc<Shared>, provider: &Provider, entrant: &Entrant<'_>, now: i64) -> Result<Claims, Flaw> {
    let mut first = None;
    for token in provider.tokens(entrant) {
        let examined = provider.examine(&token, now)?;
        let claims = match &provider.keys {
            KeySource::Local(keys) => examined.verify(keys)?,
            KeySource::Remote(remote) => by_remote(shared, remote, &examined).await?,
        };
        first.get_or_insert(claims);
    }
    first.ok_or(Flaw::Missing)
}

async fn by_remote(shared: &Arc<Shared>, remote: &Arc<RemoteKeys>, examined: &Examined<'_>) -> Result<Claims, Flaw> {
    let keys = keys(shared, remote).await.ok_or(Flaw::Keys)?;
    if examined.names_one_of(&keys) || !remote.may_differ(Instant::now()) {
        return examined.verify(&keys);
    }
    // A key that is new at its issuer.
    let turn = remote.fetching.lock().await;
    if remote.may_differ(Instant::now()) {
        renew(shared, remote).await;
    }
    drop(turn);
    match remote.known(Instant::now()) {
        Known::Fresh(keys) | Known::Stale(keys) => examined.verify(&keys),
        Known::None { .. } => Err(Flaw::Keys),
    }
}

/// The keys that are known; without any they are fetched, once for all who wait.
async fn keys(shared: &Arc<Shared>, remote: &Arc<RemoteKeys>) -> Option<Arc<[VerificationKey]>> {
    match remote.known(Instant::now()) {
        Known::Fresh(keys) => return Some(keys),
        Known::Stale(keys) => {
            if let Ok(turn) = Arc::clone(&remote.fetching).try_lock_owned() {
                let (on, of) = (Arc::clone(shared), Arc::clone(remote));
                shared.tasks.spawn(async move {
                    tokio::select! {
                        () = on.kill.cancelled() => {}
                        () = renew(&on, &of) => {}
                    }
                    drop(turn);
                });
            }
            return Some(keys);
        }
        Known::None { wait: true } => return None,
        Known::None { wait: false } => {}
    }
    let _turn = remote.fetching.lock().await;
    if let Known::None { wait: false } = remote.known(Instant::now()) {
        renew(shared, remote).await;
    }
    match remote.known(Instant::now()) {
        Known::Fresh(keys) | Known::Stale(keys) => Some(keys),
        Known::None { .. } => None,
    }
}

async fn renew(shared: &Arc<Shared>, remote: &RemoteKeys) {
    let fetched = tokio::time::timeout(FETCH, fetch(shared, remote)).await.unwrap_or(Err(Silence::Late.into()));
    if let Err(error) = &fetched {
        debug!(?remote, %error, "cannot fetch keys");
    }
    remote.fetched(fetched.ok(), Instant::now());
}

async fn fetch(shared: &Arc<Shared>, remote: &RemoteKeys) -> Result<Vec<VerificationKey>, Unfetched> {
    let (backend, http2) = server(&remote.server).await?;
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = remote.target.clone().into();
    request.headers_mut().insert(header::HOST, remote.authority.clone());
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let said = asking::ask(shared, (&backend, http2), request, (FETCH, KEYS_BYTES)).await?;
    if said.head.status != StatusCode::OK {
        return Err(Unfetched::Status(said.head.status));
    }
    let set = serde_json::from_slice(&said.body).map_err(Unfetched::Format)?;
    let keys = VerificationKey::from_jwks(&set);
    if keys.is_empty() { Err(Unfetched::Empty) } else { Ok(keys) }
}

/// Who is asked, with the addresses of this moment.
async fn server(server: &KeyServer) -> Result<(Arc<Backend>, bool), Unfetched> {
    match server {
        KeyServer::Shares(shares) => match choose(shares, rand::random()).map(|share| &share.target) {
            Some(Target::Service { backend, http2 }) => Ok((Arc::clone(backend), *http2)),
            Some(Target::Invalid) | None => Err(Unfetched::Nobody),
        },
        KeyServer::Host { name, port, backend } => {
            let found = tokio::net::lookup_host((&**name, *port)).await.map_err(Unfetched::Name)?;
            // Whoever may write a policy must not reach what only this machine reaches.
            let outside = |address: &SocketAddr| own_range(address.ip()).is_none();
            backend.set_endpoints(found.filter(outside).collect());
            Ok((Arc::clone(backend), false))
        }
    }
}
