//! The proxy in its position as mesh: traffic between the pods of a cluster.

pub mod policy;
mod status;
