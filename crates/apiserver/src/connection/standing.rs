//! Whom a connection stands for: what its certificate says, looked at again when who is accepted has changed. A root that
//! is taken away ends what its certificates were good for on open connections too, as upstream verifies each request's.

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

use crate::{
    authentication::{Authenticator, Presented},
    server::Caller,
    tls::{SharedTls, Tls},
};

pub(super) struct Standing {
    /// As the connection began.
    caller: Caller,
    chain: Vec<CertificateDer<'static>>,
    tls: SharedTls,
    /// How often who is accepted had changed when the connection was accepted.
    generation: u64,
    /// What was found later, and how often it had changed by then.
    revised: Mutex<Option<(u64, Presented)>>,
}

impl Standing {
    pub(super) fn new(caller: Caller, chain: &[CertificateDer<'_>], tls: SharedTls, generation: u64) -> Self {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { caller, chain, tls, generation, revised: Mutex::default() }
    }

    /// Who is at the other end now.
    pub(super) fn caller(&self, authenticator: &Authenticator) -> Caller {
        let mut caller = self.caller.clone();
        let generation = self.tls.generation();
        if generation == self.generation || self.chain.is_empty() {
            return caller;
        }
        let mut revised = self.revised.lock();
        let known = revised.take().filter(|(at, _)| *at == generation);
        let (_, presented) = revised.insert(known.unwrap_or_else(|| {
            let tls: &Tls = &self.tls.current();
            (generation, authenticator.presented(&self.chain, tls.kinds.as_ref()))
        }));
        caller.user.clone_from(&presented.user);
        (caller.until, caller.is_front_proxy) = (presented.until, presented.is_front_proxy);
        caller
    }
}
