//! What may be sent again.

use std::time::Duration;

use crate::deadline::Deadline;

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeatable {
    /// Doing it twice does no more than doing it once.
    Always,
    /// Only when nothing of it has reached a server.
    Unsent,
    /// Not at all.
    Never,
}

/// What the rules say of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands.
    Final,
    /// Another try may do better.
    Again {
        /// After this time, by the server's word.
        retry_after: Option<Duration>,
    },
}

/// Which requests may be sent again, and after which results. [`HttpRules`](super::HttpRules) are those of HTTP.
pub trait Rules<Request, Response, Error> {
    /// Whether a request may be sent again.
    fn repeatable(&self, request: &Request) -> Repeatable;

    /// A copy to send; `None` when there cannot be one. Asked only for requests that may be sent again.
    fn copy(&self, request: &Request) -> Option<Request>;

    /// What a result means for a request of this kind.
    fn judge(&self, repeatable: Repeatable, result: Result<&Response, &Error>) -> Verdict;

    /// When nobody waits for the answer any more.
    fn deadline(&self, request: &Request) -> Option<Deadline>;
}
