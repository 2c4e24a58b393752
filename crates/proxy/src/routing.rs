//! Which rule takes a request, and what happens to it: pure, no socket, no clock.
//!
//! A [`RouteTable`] is compiled from Gateways, routes and Ingresses and never changes afterwards; [`RouteTable::route`]
//! turns a request's head and a random number into a [`Decision`]. The order among rules that match is Gateway API's:
//! the listener with the most specific hostname, then among its rules the most specific hostname, an exact path, the
//! longest prefix, a method, the most headers, the most query parameters, the older route, the route's name, the order
//! in the route.

mod backend;
mod edit;
mod hosts;
mod matching;
mod redirect;
mod table;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Share, Target};
pub use edit::HeaderEdits;
pub use hosts::Hosts;
pub(crate) use hosts::{covers, intersect};
pub use matching::{PathMatch, Rank, RequestHead, RequestMatch, ValueMatch};
pub use redirect::{PathChange, Redirect, Rewrite};
pub use table::{Action, Certificate, Decision, ListenerRoutes, PortBuilder, PortTable, RouteTable, Rule, Timeouts};
