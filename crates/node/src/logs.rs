//! Reads container logs in CRI's format: tail, since, limit, and following without polling, across rotation.

mod line;
mod reader;
mod rotation;
mod watch;

pub(crate) use line::parse;
pub(crate) use reader::{Liveness, LogOptions, LogReader, StreamChoice};
pub(crate) use rotation::{remove, rotate};
