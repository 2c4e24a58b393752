//! What requests have to pass before they are forwarded, and where rules have it from.
//!
//! A [`Guard`] is one step, a file each. Steps are taken one after the other, in the order that Envoy's filters have; each
//! may refuse the request, change it, or learn something of its sender that a later one asks for. Those that need nobody
//! else's answer are decided here, from the request alone; the server asks the others.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::StatusCode;

use super::{cors::Cors, traffic::Traffic};

mod api_key;
mod authorization;
mod basic;
mod entrant;
mod external;
mod htpasswd;
mod jwt;
mod origins;
mod refusal;
mod remote_keys;

pub use api_key::{ApiKeyAuth, ApiKeys, KeyPlace};
pub use authorization::{Authorization, AuthorizationRule, ClaimCondition, Permission, TokenCondition};
pub use basic::BasicAuth;
pub use entrant::{Claims, Entrant};
pub use external::{AuthProtocol, AuthTarget, External, Failure, Grant, HttpAuth, Reading, Said, check};
pub use htpasswd::{MalformedPasswords, Passwords};
pub(crate) use jwt::Examined;
pub use jwt::{Flaw, Jwt, KeySource, Lenience, Provider, TokenPlace};
pub use origins::Origins;
pub use refusal::Refusal;
pub(crate) use remote_keys::Known;
pub use remote_keys::{KeyServer, RemoteKeys};

/// What requests have to pass, in this order.
#[derive(Clone, Debug, Default)]
pub struct Guards {
    /// Which pages of other origins may send them and read the answers.
    pub cors: Option<Arc<Cors>>,
    /// What is asked of them, one after the other.
    pub steps: Vec<Guard>,
}

/// Something that is asked of a request.
#[derive(Clone, Debug)]
pub enum Guard {
    /// Nothing passes: what was asked for cannot be followed.
    Refuse(StatusCode),
    /// From pages of which origins requests may come that change something.
    Origins(Arc<Origins>),
    /// What a service says of it.
    External(Arc<External>),
    /// A key that its sender has.
    ApiKey(Arc<ApiKeyAuth>),
    /// A name and a password.
    Basic(Arc<BasicAuth>),
    /// A token.
    Jwt(Arc<Jwt>),
    /// Whether its sender may do that.
    Authorization(Arc<Authorization>),
    /// One of these, each of which is decided at once, and of which the others may refuse.
    Any(Arc<[Guard]>),
}

impl Guard {
    /// Asks what can be decided at once; `None` when somebody else has to be asked, which the server does.
    pub(crate) fn ask(&self, entrant: &mut Entrant<'_>) -> Option<Result<(), Refusal>> {
        Some(match self {
            Guard::Refuse(status) => Err(Refusal::bare(*status)),
            Guard::Origins(origins) => origins.ask(entrant),
            Guard::ApiKey(keys) => keys.ask(entrant),
            Guard::Basic(basic) => basic.ask(entrant),
            Guard::Authorization(authorization) => authorization.ask(entrant),
            Guard::Any(guards) => any(guards, entrant),
            Guard::External(_) | Guard::Jwt(_) => return None,
        })
    }

    /// Its place among the others.
    pub(crate) fn order(&self) -> u8 {
        match self {
            Guard::Refuse(_) => 0,
            Guard::Origins(_) => 1,
            Guard::External(_) => 2,
            Guard::ApiKey(_) => 3,
            Guard::Basic(_) => 4,
            Guard::Jwt(_) => 5,
            Guard::Authorization(_) => 6,
            Guard::Any(_) => 7,
        }
    }
}

/// Asks one after the other until one lets the request pass. Who can do something about it is told so: with a name and a
/// password it may pass.
fn any(guards: &[Guard], entrant: &mut Entrant<'_>) -> Result<(), Refusal> {
    let mut refused: Option<Refusal> = None;
    for guard in guards {
        match guard.ask(entrant) {
            Some(Ok(())) => return Ok(()),
            Some(Err(refusal)) if refused.is_none() || refusal.status == StatusCode::UNAUTHORIZED => {
                refused = Some(refusal);
            }
            // Who has to be asked elsewhere is not asked here, and lets nobody in.
            Some(Err(_)) | None => {}
        }
    }
    Err(refused.unwrap_or_else(|| Refusal::bare(StatusCode::FORBIDDEN)))
}

impl Guards {
    /// Whether a connection passes that is forwarded as bytes. Only what can be asked of one is: the address of its client.
    pub(crate) fn admit(&self, client: std::net::IpAddr) -> bool {
        self.steps.iter().all(|step| match step {
            Guard::Refuse(_) => false,
            Guard::Authorization(authorization) => authorization.admits(client),
            Guard::Origins(_)
            | Guard::ApiKey(_)
            | Guard::Basic(_)
            | Guard::External(_)
            | Guard::Jwt(_)
            | Guard::Any(_) => true,
        })
    }
}

/// What policies say about the rules that they are about.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// What requests have to pass.
    pub guards: Option<Arc<Guards>>,
    /// How requests are forwarded.
    pub traffic: Option<Arc<Traffic>>,
}

impl Policies {
    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self.guards.is_none() && self.traffic.is_none()
    }
}

/// What the rules behind a listener get where they have nothing of their own. It outlives tables and is changed in place:
/// a policy of a Gateway concerns all of its routes and compiles none of them again.
#[derive(Debug, Default)]
pub struct Inherited {
    policies: ArcSwapOption<Policies>,
}

impl Inherited {
    /// Replaces what is inherited.
    pub fn set(&self, policies: Policies) {
        self.policies.store((!policies.is_empty()).then(|| Arc::new(policies)));
    }

    /// What is inherited now.
    pub fn get(&self) -> Option<Arc<Policies>> {
        // Almost always there is nothing, which costs no count.
        let policies = self.policies.load();
        policies.as_ref().map(Arc::clone)
    }
}

impl PartialEq for Inherited {
    /// Each is only itself.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
