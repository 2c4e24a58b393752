//! The life of a pod on its node as pure functions: what to do next, and what to report, from what is wanted and what is
//! seen.
//!
//! [`plan`](plan::plan) decides, [`status`](status::status) reports; neither reads a clock, a disk or a socket. What is
//! wanted is the Pod; what is seen is a [`PodView`](view::PodView), which the caller keeps. `node` fills it from the
//! runtime and carries the decisions out with containers; `simulate` fills it from a clock and a seed. Both therefore say
//! of a pod what a kubelet says of it.
//!
//! - [`plan`] the next steps, restart policy and when a pod is over; [`backoff`] how long restarts are held back.
//! - [`ending`] why a pod must end, and how long it has.
//! - [`status`] phase, conditions and container states; [`qos`] the quality-of-service class.
//! - [`lost`] runs that only the API remembers.
//! - [`advertised`] resources that somebody else has told the node to have.
//!
//! Tested by tables beside each module, and through `node` with real containers.

pub mod advertised;
pub mod backoff;
pub mod ending;
pub mod lost;
pub mod plan;
pub mod qos;
pub mod status;
pub mod view;
