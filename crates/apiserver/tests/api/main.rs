//! The server in process: every verb, every built-in kind, and the rules between them.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of the test functions that may unwrap")]

mod access;
mod addresses;
mod admission;
mod aggregation;
mod at_rest;
mod audit;
mod bodies;
mod conformance;
mod connections;
mod content;
mod conversion;
mod custom;
mod deletion;
mod fixture;
mod flow;
mod lists;
mod matrix;
mod metrics;
mod oidc;
mod patches;
mod pod_security;
mod policies;
mod quota;
mod semantics;
mod verbs;
mod watches;
mod webhook_server;
mod webhooks;
