//! What a route amounts to, whatever its kind: rules, and what is wrong with it.

use std::sync::Arc;

use super::{
    grpc, http,
    lookup::{Route, Seen},
    stream,
    verdict::Fault,
};
use crate::routing::{RequestMatch, Rule, StreamRule};

/// A compiled route.
pub(crate) struct Compiled {
    pub(crate) rules: Rules,
    /// Whether it can be served, at least in part.
    pub(crate) accepted: Result<(), Fault>,
    /// What is wrong with some of its rules while others are served.
    pub(crate) partially: Option<Fault>,
    /// Whether all its references lead somewhere.
    pub(crate) references: Result<(), Fault>,
}

/// The rules of a route.
pub(crate) enum Rules {
    /// For requests: conditions and what happens, in the order of the route.
    Requests(Vec<(Vec<RequestMatch>, Arc<Rule>)>),
    /// For connections or datagrams.
    Stream(Option<Arc<StreamRule>>),
}

/// Compiles a route of any kind.
pub(crate) fn compile(seen: &Seen<'_>, route: &Route) -> Compiled {
    match route {
        Route::Http(object) => http::compile(seen, route, object),
        Route::Grpc(object) => grpc::compile(seen, route, object),
        Route::Tls(object) => stream::compile(seen, route, &object.spec.rules),
        Route::Tcp(object) => stream::compile(seen, route, &object.spec.rules),
        Route::Udp(object) => stream::compile(seen, route, &object.spec.rules),
    }
}

/// What became of one rule.
pub(crate) enum Outcome {
    Served(Vec<RequestMatch>, Rule),
    /// Its requests are answered with an error.
    Failing(Vec<RequestMatch>, Rule, Fault),
    /// It is not even known which requests it is for.
    Dropped(Fault),
}

impl Compiled {
    /// Out of rules of which some may be wrong: a wrong rule is answered with an error, the others are served.
    pub(crate) fn of_requests(outcomes: Vec<Outcome>, broken: Vec<Fault>) -> Compiled {
        let (mut rules, mut fault, mut good) = (Vec::new(), None, outcomes.is_empty());
        for outcome in outcomes {
            match outcome {
                Outcome::Served(matches, rule) => {
                    good = true;
                    rules.push((matches, Arc::new(rule)));
                }
                Outcome::Failing(matches, rule, wrong) => {
                    rules.push((matches, Arc::new(rule)));
                    fault = fault.or(Some(wrong));
                }
                Outcome::Dropped(wrong) => fault = fault.or(Some(wrong)),
            }
        }
        let (accepted, partially) = match (fault, good) {
            (None, _) => (Ok(()), None),
            (Some(fault), true) => (Ok(()), Some(fault)),
            (Some(fault), false) => (Err(fault), None),
        };
        Compiled { rules: Rules::Requests(rules), accepted, partially, references: first(broken) }
    }
}

/// Fine, or the first of the faults.
pub(crate) fn first(faults: Vec<Fault>) -> Result<(), Fault> {
    faults.into_iter().next().map_or(Ok(()), Err)
}
