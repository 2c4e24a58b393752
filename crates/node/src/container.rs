//! From a container's spec to what the runtime is given: environment, security, network files.

pub(crate) mod environment;
pub(crate) mod fields;
pub(crate) mod netfiles;
pub(crate) mod security;
