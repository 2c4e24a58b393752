//! What requests have to pass before they are forwarded, and where rules have it from.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::StatusCode;

use super::{cors::Cors, traffic::Traffic};

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
