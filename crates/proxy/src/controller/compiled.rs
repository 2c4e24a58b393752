//! What a route amounts to, whatever its kind: rules, and what is wrong with it.

use std::sync::Arc;

use super::{
    grpc, http,
    lookup::{Route, Seen},
    requests, stream,
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
#[derive(Clone)]
pub(crate) enum Rules {
    /// For requests: conditions and what happens, in the order of the route.
    Requests(Vec<(Vec<RequestMatch>, Arc<Rule>)>),
    /// For connections or datagrams.
    Stream(Option<Arc<StreamRule>>),
}

/// Compiles a route of any kind.
pub(crate) fn compile(seen: &Seen<'_>, route: &Route) -> Compiled {
    match route {
        Route::Http(object) => requests::compile(seen, route, object.spec.rules.iter().map(http::rule)),
        Route::Grpc(object) => requests::compile(seen, route, object.spec.rules.iter().map(grpc::rule)),
        Route::Tls(object) => stream::compile(seen, route, &object.spec.rules),
        Route::Tcp(object) => stream::compile(seen, route, &object.spec.rules),
        Route::Udp(object) => stream::compile(seen, route, &object.spec.rules),
    }
}

/// Fine, or the first of the faults.
pub(crate) fn first(faults: Vec<Fault>) -> Result<(), Fault> {
    faults.into_iter().next().map_or(Ok(()), Err)
}
