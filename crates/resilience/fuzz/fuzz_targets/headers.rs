//! Any bytes as the values of the headers that are read: deadlines, idempotency keys, and when to come back. Values are
//! separated by newlines, which no value may hold.
#![no_main]

use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{DATE, RETRY_AFTER},
};
use libfuzzer_sys::fuzz_target;
use resilience::{
    Rejection, deadline,
    idempotency::Key,
    retry::{HttpRules, IDEMPOTENCY_KEY, Repeatable, Rules},
};

fuzz_target!(|bytes: &[u8]| {
    let names = [deadline::GRPC_TIMEOUT, deadline::EXPECTED_TIMEOUT_MS, IDEMPOTENCY_KEY, RETRY_AFTER, DATE];
    let mut headers = HeaderMap::new();
    for (name, value) in names.into_iter().zip(bytes.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    if let Some(budget) = deadline::read(&headers) {
        let mut next = HeaderMap::new();
        deadline::write(&mut next, budget);
        assert!(deadline::read(&next).is_some());
    }
    if let Ok(Some(key)) = Key::read(&headers) {
        assert!(!key.as_str().is_empty() && key.as_str().is_ascii());
    }
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    *response.headers_mut() = headers;
    let result: Result<&Response<()>, &Rejection> = Ok(&response);
    let _verdict = Rules::<Request<()>, _, _>::judge(&HttpRules::default(), Repeatable::Always, result);
});
