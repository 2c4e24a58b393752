//! What a layer of this crate answers instead of the service behind it, and what callers may conclude from an error.
//!
//! Every layer keeps the error type of the service it wraps and asks of it one thing: that a [`Rejection`] can become one.
//! A service with another error type is wrapped at the bottom of the stack with `map_err(Failure::Service)`; boxed errors
//! fit as they are. So a stack of ten layers has one error type, without boxes, and [`Rejection`] is matched in one place.

use std::{convert::Infallible, io, time::Duration};

use http::StatusCode;
use tower::BoxError;

/// Why a request was refused by a layer rather than answered by the service.
///
/// All but [`Rejection::DeadlineExceeded`] are said before anything of the request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The request's time was over, before it was sent or while it was answered.
    #[error("the deadline of the request has passed")]
    DeadlineExceeded,
    /// The circuit breaker is open.
    #[error("the circuit is open for another {retry_after:?}")]
    CircuitOpen {
        /// When a probe will be let through.
        retry_after: Duration,
    },
    /// All places are taken and so is the queue for them.
    #[error("too many requests are under way and waiting")]
    Full,
    /// The request waited for a place longer than it may.
    #[error("no place became free in time")]
    QueueTimeout,
    /// The caller's rate is above its limit.
    #[error("the rate limit is exceeded; the next request is possible in {retry_after:?}")]
    RateLimited {
        /// When the request would be let through.
        retry_after: Duration,
    },
    /// The service is overloaded and the request not among the most important.
    #[error("the service is overloaded")]
    Shed,
}

impl Rejection {
    /// The status that says this in HTTP.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::CircuitOpen { .. } | Self::Full | Self::QueueTimeout | Self::Shed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// When another try has a chance, where that is known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CircuitOpen { retry_after } | Self::RateLimited { retry_after } => Some(*retry_after),
            Self::DeadlineExceeded | Self::Full | Self::QueueTimeout | Self::Shed => None,
        }
    }

    /// Whether nothing of the request has reached the service.
    pub const fn unsent(&self) -> bool {
        !matches!(self, Self::DeadlineExceeded)
    }
}

/// An error of a stack whose service has an error type of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure<E> {
    /// A layer refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The service failed.
    #[error("the service failed")]
    Service(#[source] E),
}

/// What a layer may conclude from an error; implement it for the errors of your transport.
pub trait Fault {
    /// The rejection that this is, where a layer refused the request.
    fn rejection(&self) -> Option<Rejection>;

    /// Whether it is certain that nothing of the request has reached a server, so that sending it again is the first time.
    fn unsent(&self) -> bool;
}

impl Fault for Rejection {
    fn rejection(&self) -> Option<Rejection> {
        Some(*self)
    }

    fn unsent(&self) -> bool {
        self.unsent()
    }
}

impl<E: Fault> Fault for Failure<E> {
    fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected(rejection) => Some(*rejection),
            Self::Service(error) => error.rejection(),
        }
    }

    fn unsent(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.unsent(),
            Self::Service(error) => error.unsent(),
        }
    }
}

impl Fault for BoxError {
    fn rejection(&self) -> Option<Rejection> {
        self.downcast_ref().copied()
    }

    fn unsent(&self) -> bool {
        match (self.rejection(), self.downcast_ref::<io::Error>()) {
            (Some(rejection), _) => rejection.unsent(),
            (None, Some(error)) => error.unsent(),
            (None, None) => false,
        }
    }
}

impl Fault for io::Error {
    fn rejection(&self) -> Option<Rejection> {
        None
    }

    /// A refused connection carried nothing; of every other error that cannot be known here.
    fn unsent(&self) -> bool {
        self.kind() == io::ErrorKind::ConnectionRefused
    }
}

impl Fault for Infallible {
    fn rejection(&self) -> Option<Rejection> {
        match *self {}
    }

    fn unsent(&self) -> bool {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_found_in_what_it_became() {
        let rejection = Rejection::CircuitOpen { retry_after: Duration::from_secs(1) };
        assert_eq!(BoxError::from(rejection).rejection(), Some(rejection));
        assert_eq!(Failure::<io::Error>::from(rejection).rejection(), Some(rejection));
        assert_eq!(BoxError::from("else").rejection(), None);
    }

    #[test]
    fn only_what_carried_nothing_is_unsent() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(Failure::Service(refused()).unsent() && BoxError::from(refused()).unsent());
        assert!(!Failure::Service(reset()).unsent() && !BoxError::from(reset()).unsent());
        assert!(Rejection::Full.unsent());
        assert!(!Rejection::DeadlineExceeded.unsent(), "a request may have been sent before its time was over");
    }
}
