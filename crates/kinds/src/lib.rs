//! Rust types of every API that Keelson serves, and the table of resources behind discovery.
//!
//! Pure: no I/O, no clock. Core types are `k8s_openapi`'s, re-exported as [`k8s`]; types of APIs that live in CRDs
//! (Gateway API, Envoy Gateway, Istio) stand in a module per API group, [`matching`] says what selectors, node terms and
//! tolerations mean, and [`demand`] what a pod takes of its node.
//! [`Resource`] is one row of the group-version-resource table: built-in rows are generated from the published OpenAPI
//! document, rows of CustomResourceDefinitions are made at run time.
//! [`Schedule`] is the schedule of a CronJob, which the API server validates and the controller follows.

pub use k8s_openapi as k8s;

mod builtin;
mod custom;
pub mod demand;
pub mod envoy_gateway;
pub mod gateway;
pub mod gateway_extensions;
pub mod istio;
pub mod matching;
pub mod quantity;
mod resource;
mod schedule;

pub use builtin::builtin;
pub use resource::{GroupVersionKind, Resource, Subresource};
pub use schedule::{Schedule, ScheduleError, time_zone};
