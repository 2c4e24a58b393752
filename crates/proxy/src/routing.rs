//! Which rule takes a request or a connection, and what happens to it: pure, no socket, no clock.
//!
//! A [`RouteTable`] holds what Gateways, routes and Ingresses amount to, by place and port, listener, hostname and path.
//! [`PortTable::route`] turns a request's head and a random number into a [`Decision`], [`Listener::stream`] does so for a
//! connection. The order among rules that match is Gateway API's: the listener with the most specific hostname, then
//! among its rules the most specific hostname, an exact path, the longest prefix, a method, the most headers, the most
//! query parameters, the older route, the route's name, the order in the route.
//!
//! Tables are changed part by part: a change of one route copies the way to its rules and shares everything else with
//! the table before, so that it costs the same among ten routes and among ten thousand.

mod backend;
mod canary;
mod client;
mod cookies;
mod cors;
mod cow;
mod decision;
mod direct;
mod edit;
mod guards;
mod hosts;
mod listener;
mod matching;
mod mirror;
mod once;
mod pages;
pub(crate) mod path;
mod ranges;
mod redirect;
mod rule;
mod rules;
mod services;
mod substitution;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod text;
mod traffic;
mod versions;

pub(crate) use backend::choose;
pub use backend::{Backend, Security, Share, Target, Wire};
pub use canary::{Canary, HeldBy, Values};
pub use client::{
    AddressBy, CertificateDetail, Cleaned, Client, ClientEdits, ConnectionTerms, Http1Terms, Http2Terms, Keepalive,
    Kept, Paths, Proxied, RequestId, Slashes, Times, ToldCertificates, Underscores,
};
pub use cookies::cookie;
pub use cors::Cors;
pub use decision::{Decision, Forward, Found, KeptForward};
pub use direct::{Credential, Direct};
pub use edit::HeaderEdits;
pub use guards::{
    ApiKeyAuth, ApiKeys, AuthProtocol, AuthTarget, Authorization, AuthorizationRule, BasicAuth, ClaimCondition, Claims,
    Entrant, External, Failure, Flaw, Grant, Guard, Guards, HttpAuth, Inherited, Jwt, KeyPlace, KeyServer, KeySource,
    Lenience, MalformedPasswords, Origins, Passwords, Permission, Policies, Provider, Reading, Refusal, RemoteKeys,
    Said, TokenCondition, TokenPlace, check,
};
pub(crate) use guards::{Examined, Known};
pub use hosts::Hosts;
pub(crate) use hosts::{covers, overlap, shared};
pub use listener::{Identity, Listener, ListenerConfig, Mode, PortTable, Protocol};
pub use matching::{PathMatch, Rank, RequestHead, RequestMatch, ValueMatch};
pub use mirror::Mirror;
pub use once::Once;
pub use pages::ErrorPages;
pub(crate) use ranges::own_range;
pub(crate) use redirect::Origin;
pub use redirect::{Captures, HostChange, PathChange, Redirect, Rewrite};
pub use rule::{Action, Filters, Owner, Rule, StreamRule, Timeouts};
pub use rules::Entry;
pub use services::{Destination, Frontend, plain};
pub use substitution::{Substitution, SubstitutionError};
pub use table::{Place, RouteTable, Site, Spot, Transport};
pub use template::{Template, UnknownVariable};
pub use text::TextMatch;
pub use traffic::{
    Abort, Attempt, Balance, Carrier, Check, Compression, Condition, Crowd, Distinct, Disturbance, Elsewhere, Failed,
    Group, Guest, HashKey, Health, Instead, Keyed, Limits, LineTerms, Member, Network, Overflow, Part, Permit,
    ProxyVersion, Question, RateRule, Rates, Reply, Retry, Session, Token, Traffic, Trigger, Upstream, UpstreamConfig,
    Want, What, Whose, head_in_gzip, takes_gzip, vary,
};
pub(crate) use versions::without;
pub use versions::{Picked, Version, VersionPlace, Versions};

/// A certificate and its key.
pub type Certificate = std::sync::Arc<rustls::sign::CertifiedKey>;
