//! Answers in place of those that say that something went wrong.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::routing::HeaderEdits;

/// Whose answers are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All.
    All,
    /// The gateway's own.
    Own,
    /// Those of backends.
    Backends,
}

/// Another answer.
#[derive(Clone, Debug)]
pub struct Instead {
    /// Whose answers.
    pub whose: Whose,
    /// Those with these statuses.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Another status.
    pub status: Option<StatusCode>,
    /// Another body, and its type.
    pub body: Option<(Bytes, Option<HeaderValue>)>,
    /// Changes of the headers.
    pub edits: HeaderEdits,
}

impl Instead {
    /// Whether an answer is replaced.
    pub fn takes(&self, own: bool, status: StatusCode) -> bool {
        let whose = match self.whose {
            Whose::All => true,
            Whose::Own => own,
            Whose::Backends => !own,
        };
        whose && self.statuses.iter().any(|range| range.contains(&status.as_u16()))
    }
}
