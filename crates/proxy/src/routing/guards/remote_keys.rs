//! Keys that are fetched: what is known of them, and when they are to be fetched again.
//!
//! Keys that were fetched once stay until others are: a server of keys that is down keeps nobody out whose key is known.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, uri::PathAndQuery};
use identity::jwt::VerificationKey;
use tokio::time::Instant;

use super::super::backend::{Backend, Share};

/// How old keys are at least before an unknown name of a key has them fetched again: whoever makes up names must not have
/// the server of the keys asked for each.
const MEANWHILE: Duration = Duration::from_secs(10);

/// Keys that are fetched.
pub struct RemoteKeys {
    /// Who is asked.
    pub server: KeyServer,
    /// What is asked for.
    pub target: PathAndQuery,
    /// The authority that is asked.
    pub authority: HeaderValue,
    /// How long keys are good.
    pub lifetime: Duration,
    /// How long after a failure they are fetched again.
    pub pause: Duration,
    state: ArcSwap<State>,
    /// Held by the one who fetches.
    pub(crate) fetching: Arc<tokio::sync::Mutex<()>>,
}

/// Who is asked for keys.
#[derive(Clone, Debug)]
pub enum KeyServer {
    /// Backends, by weight.
    Shares(Vec<Share>),
    /// A host of some name, whose addresses are looked up each time; the backend says how it is spoken to.
    Host {
        /// The name.
        name: Box<str>,
        /// The port.
        port: u16,
        /// What its addresses are given to.
        backend: Arc<Backend>,
    },
}

#[derive(Default)]
struct State {
    keys: Option<(Arc<[VerificationKey]>, Instant)>,
    failed: Option<Instant>,
}

/// What is known of the keys now.
pub(crate) enum Known {
    /// They are good.
    Fresh(Arc<[VerificationKey]>),
    /// They are good until there are others, which is to be seen to.
    Stale(Arc<[VerificationKey]>),
    /// There are none; whether it is too early to ask again.
    None { wait: bool },
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteKeys of {:?}{}", self.authority, self.target)
    }
}

impl RemoteKeys {
    /// Keys of which none are known yet.
    pub fn new(
        server: KeyServer,
        (authority, target): (HeaderValue, PathAndQuery),
        (lifetime, pause): (Duration, Duration),
    ) -> Self {
        let (state, fetching) = (ArcSwap::default(), Arc::default());
        RemoteKeys { server, target, authority, lifetime, pause, state, fetching }
    }

    /// What is known at a time.
    pub(crate) fn known(&self, now: Instant) -> Known {
        let state = self.state.load();
        let wait = state.failed.is_some_and(|failed| now.duration_since(failed) < self.pause);
        match &state.keys {
            Some((keys, at)) if wait || now.duration_since(*at) < self.lifetime => Known::Fresh(Arc::clone(keys)),
            Some((keys, _)) => Known::Stale(Arc::clone(keys)),
            None => Known::None { wait },
        }
    }

    /// Whether there may be others than those that are known.
    pub(crate) fn may_differ(&self, now: Instant) -> bool {
        let state = self.state.load();
        let asked = state.keys.as_ref().map(|(_, at)| *at).max(state.failed);
        asked.is_none_or(|asked| now.duration_since(asked) >= MEANWHILE)
    }

    /// Remembers what was fetched, or that nothing was.
    pub(crate) fn fetched(&self, keys: Option<Vec<VerificationKey>>, now: Instant) {
        let state = match keys {
            Some(keys) => State { keys: Some((keys.into(), now)), failed: None },
            None => State { keys: self.state.load().keys.clone(), failed: Some(now) },
        };
        self.state.store(Arc::new(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_stay_until_there_are_others() {
        let server = KeyServer::Shares(Vec::new());
        let place = (HeaderValue::from_static("h"), PathAndQuery::from_static("/"));
        let keys = RemoteKeys::new(server, place, (Duration::from_secs(300), Duration::from_secs(1)));
        let tell = |now| match keys.known(now) {
            Known::Fresh(keys) => format!("fresh {}", keys.len()),
            Known::Stale(keys) => format!("stale {}", keys.len()),
            Known::None { wait } => format!("none, wait {wait}"),
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((tell(at(0)).as_str(), keys.may_differ(at(0))), ("none, wait false", true));
        keys.fetched(None, at(0));
        assert_eq!((tell(at(0)).as_str(), tell(at(1)).as_str()), ("none, wait true", "none, wait false"));
        keys.fetched(Some(Vec::new()), at(10));
        assert_eq!((tell(at(309)).as_str(), tell(at(310)).as_str()), ("fresh 0", "stale 0"));
        assert_eq!([19, 20].map(|seconds| keys.may_differ(at(seconds))), [false, true]);
        keys.fetched(None, at(310));
        assert_eq!((tell(at(310)).as_str(), tell(at(311)).as_str()), ("fresh 0", "stale 0"));
    }
}
