//! Images: names, the distribution API, and the store on disk.

pub(crate) mod pull;
pub(crate) mod reference;
mod registry;
pub(crate) mod store;
mod unpack;
