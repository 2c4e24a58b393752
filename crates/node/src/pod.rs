//! The pod state machine's pure core: what to do next, and what to report, from what is wanted and what is seen.
//!
//! [`plan`](plan::plan) decides, [`status`](status::status) reports; neither reads a clock, a disk or a socket. The
//! worker (`crate::worker`) observes, carries the decisions out and writes the reports.

pub(crate) mod backoff;
pub(crate) mod lost;
pub(crate) mod plan;
pub(crate) mod qos;
pub(crate) mod status;
pub(crate) mod view;
