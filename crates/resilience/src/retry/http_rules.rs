//! The rules of HTTP.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, Method, Request, Response, StatusCode,
    header::{DATE, RETRY_AFTER},
};

use super::{Repeatable, Rules, Verdict};
use crate::{
    deadline::Deadline,
    rejection::{Fault, Rejection},
};

/// With this header a client says that repeating its request does no harm (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Requests by their method and `Idempotency-Key`, answers by their status, errors by whether anything was sent.
///
/// A request of an idempotent method (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) or with a key is sent again after any error
/// and after the configured statuses; any other only when nothing of it was sent. `Retry-After` is understood in seconds,
/// and as a date where the answer has a `Date` to compare it with: the server's clock is compared with itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRules {
    /// Answers after which another try may do better.
    pub statuses: Vec<StatusCode>,
    /// Whether requests are kept that may be sent again only if nothing was sent. Costs them a copy.
    pub unsent: bool,
}

impl Default for HttpRules {
    /// 502, 503 and 504, which proxies and overloaded servers give, and 429, after the time that it asks for.
    fn default() -> Self {
        Self {
            statuses: vec![
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ],
            unsent: true,
        }
    }
}

impl<B, R, E> Rules<Request<B>, Response<R>, E> for HttpRules
where
    B: Clone,
    E: Fault,
{
    fn repeatable(&self, request: &Request<B>) -> Repeatable {
        let known = is_idempotent(request.method()) || request.headers().contains_key(IDEMPOTENCY_KEY);
        match (known, self.unsent) {
            (true, _) => Repeatable::Always,
            (false, true) => Repeatable::Unsent,
            (false, false) => Repeatable::Never,
        }
    }

    fn copy(&self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }

    fn judge(&self, repeatable: Repeatable, result: Result<&Response<R>, &E>) -> Verdict {
        let again = Verdict::Again { retry_after: None };
        match (repeatable, result) {
            (Repeatable::Always, Ok(response)) if self.statuses.contains(&response.status()) => {
                Verdict::Again { retry_after: retry_after(response.headers()) }
            }
            (_, Ok(_)) | (Repeatable::Never, Err(_)) => Verdict::Final,
            (Repeatable::Always | Repeatable::Unsent, Err(error)) => match error.rejection() {
                // a limit of our own: another try would only be refused again, or help to fill the queue
                Some(Rejection::Full | Rejection::QueueTimeout | Rejection::Shed) => Verdict::Final,
                Some(Rejection::CircuitOpen { retry_after } | Rejection::RateLimited { retry_after }) => {
                    Verdict::Again { retry_after: Some(retry_after) }
                }
                Some(Rejection::DeadlineExceeded) | None if repeatable == Repeatable::Always => again,
                Some(Rejection::DeadlineExceeded) | None if error.unsent() => again,
                Some(Rejection::DeadlineExceeded) | None => Verdict::Final,
            },
        }
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        request.extensions().get().copied()
    }
}

/// CONNECT is not: the standard calls it neither safe nor idempotent.
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let asked = text(RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    // a date that has passed asks for no patience
    Some(date(asked)?.duration_since(date(text(DATE)?)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::rejection::Failure;

    type Error = Failure<io::Error>;

    fn repeatable(method: Method, key: bool) -> Repeatable {
        let request = Request::builder().method(method);
        let request = if key { request.header(IDEMPOTENCY_KEY, "\"a\"") } else { request };
        Rules::<_, Response<()>, Error>::repeatable(&HttpRules::default(), &request.body(()).unwrap())
    }

    fn judge(repeatable: Repeatable, result: Result<Response<()>, Error>) -> Verdict {
        Rules::<Request<()>, _, _>::judge(&HttpRules::default(), repeatable, result.as_ref())
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Result<Response<()>, Error> {
        let response = Response::builder().status(status);
        let response = headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
        Ok(response.body(()).unwrap())
    }

    fn error(kind: io::ErrorKind) -> Result<Response<()>, Error> {
        Err(Failure::Service(kind.into()))
    }

    const AGAIN: Verdict = Verdict::Again { retry_after: None };

    #[test]
    fn only_what_is_safe_is_repeatable() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
            assert_eq!(repeatable(method.clone(), false), Repeatable::Always, "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert_eq!(repeatable(method.clone(), false), Repeatable::Unsent, "{method}");
            assert_eq!(repeatable(method.clone(), true), Repeatable::Always, "{method}");
        }
    }

    #[test]
    fn a_request_that_may_have_arrived_is_not_sent_twice() {
        let (reset, refused) = (io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionRefused);
        assert_eq!(judge(Repeatable::Always, error(reset)), AGAIN);
        assert_eq!(judge(Repeatable::Unsent, error(reset)), Verdict::Final);
        assert_eq!(judge(Repeatable::Unsent, error(refused)), AGAIN);
        assert_eq!(judge(Repeatable::Never, error(refused)), Verdict::Final);
        assert_eq!(judge(Repeatable::Unsent, Err(Rejection::DeadlineExceeded.into())), Verdict::Final);
        assert_eq!(judge(Repeatable::Always, Err(Rejection::DeadlineExceeded.into())), AGAIN);
        assert_eq!(judge(Repeatable::Unsent, answer(503, &[])), Verdict::Final);
    }

    #[test]
    fn a_full_queue_of_our_own_is_not_filled_further() {
        assert_eq!(judge(Repeatable::Always, Err(Rejection::Full.into())), Verdict::Final);
        let retry_after = Duration::from_secs(1);
        let open = Rejection::CircuitOpen { retry_after };
        assert_eq!(judge(Repeatable::Unsent, Err(open.into())), Verdict::Again { retry_after: Some(retry_after) });
    }

    #[test]
    fn answers_are_judged_by_status_and_retry_after() {
        for status in [429, 502, 503, 504] {
            assert_eq!(judge(Repeatable::Always, answer(status, &[])), AGAIN, "{status}");
        }
        for status in [200, 400, 404, 500, 501] {
            assert_eq!(judge(Repeatable::Always, answer(status, &[])), Verdict::Final, "{status}");
        }
        let after = |headers: &[(&str, &str)]| judge(Repeatable::Always, answer(503, headers));
        let seconds = |seconds| Verdict::Again { retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(after(&[("retry-after", "7")]), seconds(7));
        let (date, later) = (("date", "Tue, 15 Nov 1994 08:12:31 GMT"), "Tue, 15 Nov 1994 08:12:41 GMT");
        assert_eq!(after(&[date, ("retry-after", later)]), seconds(10));
        assert_eq!(after(&[("date", later), ("retry-after", date.1)]), seconds(0), "the date has passed");
        assert_eq!(after(&[("retry-after", later)]), AGAIN, "a date alone cannot be compared");
        assert_eq!(after(&[("retry-after", "soon")]), AGAIN);
    }
}
