//! What an answer says of the service that gave it.

use http::{Response, StatusCode};

use crate::rejection::{Fault, Rejection};

/// What an answer says of the health of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did what it is for, which includes telling a client of the client's mistake.
    Success,
    /// It did not.
    Failure,
    /// Nothing: the answer came from elsewhere.
    Neutral,
}

/// Decides what answers say; every closure over a result is one.
///
/// ```
/// use resilience::{Classify, Outcome};
///
/// let classify = |result: Result<&u32, &String>| match result {
///     Ok(_) => Outcome::Success,
///     Err(_) => Outcome::Failure,
/// };
/// assert_eq!(classify.classify(Ok(&1)), Outcome::Success);
/// ```
pub trait Classify<T, E> {
    /// What an answer says.
    fn classify(&self, result: Result<&T, &E>) -> Outcome;
}

impl<T, E, F> Classify<T, E> for F
where
    F: Fn(Result<&T, &E>) -> Outcome,
{
    fn classify(&self, result: Result<&T, &E>) -> Outcome {
        self(result)
    }
}

/// HTTP answers by their status: 5xx fails, but for 501 and 505, which are about the request. Errors fail, except what a
/// layer in between has refused: that says nothing of the service, unless its time was over.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByStatus;

impl<B, E: Fault> Classify<Response<B>, E> for ByStatus {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) => of_status(response.status()),
            Err(error) => of_fault(error),
        }
    }
}

/// HTTP answers by whether the service has too much to do: 429, 503 and 504, and a time that was over, fail; other answers
/// of 5xx say nothing, for a service that is broken is often fast.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByOverload;

impl<B, E: Fault> Classify<Response<B>, E> for ByOverload {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result.map(Response::status) {
            Ok(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) => {
                Outcome::Failure
            }
            Ok(status) if status.is_server_error() => Outcome::Neutral,
            Ok(_) => Outcome::Success,
            Err(error) if error.rejection() == Some(Rejection::DeadlineExceeded) => Outcome::Failure,
            Err(_) => Outcome::Neutral,
        }
    }
}

/// Answers of any kind: whatever is no error is a success.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByError;

impl<T, E: Fault> Classify<T, E> for ByError {
    fn classify(&self, result: Result<&T, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) => of_fault(error),
        }
    }
}

fn of_status(status: StatusCode) -> Outcome {
    match status {
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Outcome::Success,
        status if status.is_server_error() => Outcome::Failure,
        _ => Outcome::Success,
    }
}

fn of_fault(error: &impl Fault) -> Outcome {
    match error.rejection() {
        None | Some(Rejection::DeadlineExceeded) => Outcome::Failure,
        Some(_) => Outcome::Neutral,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::rejection::Failure;

    #[test]
    fn statuses_and_errors_say_what_they_say() {
        let of = |status: u16| {
            let response = Response::builder().status(status).body(()).unwrap();
            ByStatus.classify(Ok::<_, &io::Error>(&response))
        };
        for (status, outcome) in [(200, Outcome::Success), (404, Outcome::Success), (429, Outcome::Success)] {
            assert_eq!(of(status), outcome, "{status}");
        }
        assert_eq!((of(500), of(503), of(501)), (Outcome::Failure, Outcome::Failure, Outcome::Success));
        let overload = |status: u16| {
            let response = Response::builder().status(status).body(()).unwrap();
            ByOverload.classify(Ok::<_, &io::Error>(&response))
        };
        assert_eq!((overload(200), overload(500)), (Outcome::Success, Outcome::Neutral));
        assert_eq!((overload(429), overload(503)), (Outcome::Failure, Outcome::Failure));
        let of = |error: Failure<io::Error>| Classify::<(), _>::classify(&ByError, Err(&error));
        assert_eq!(of(Failure::Service(io::Error::other("reset"))), Outcome::Failure);
        assert_eq!(of(Rejection::DeadlineExceeded.into()), Outcome::Failure);
        assert_eq!(of(Rejection::Full.into()), Outcome::Neutral, "our own queue was full, not the service");
    }
}
