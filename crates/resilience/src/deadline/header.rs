//! Budgets as headers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

/// How gRPC tells the time that is left.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How Envoy tells it, in milliseconds.
pub const EXPECTED_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Digits of a gRPC timeout, at most.
const GRPC_DIGITS_MAX: usize = 8;
/// The largest number with so many digits.
const GRPC_VALUE_MAX: u128 = 99_999_999;
/// Units of a gRPC timeout and their nanoseconds, finest first.
const GRPC_UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The budget that a request brings: the shortest of those that can be read.
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    let grpc = headers.get(GRPC_TIMEOUT).and_then(|value| grpc(value.as_bytes()));
    let expected = headers.get(EXPECTED_TIMEOUT_MS).and_then(|value| number(value.as_bytes()));
    [grpc, expected.map(Duration::from_millis)].into_iter().flatten().min()
}

/// Tells the next hop its budget, in the header of its protocol, and in no other.
pub fn write(headers: &mut HeaderMap, budget: Duration) {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        headers.remove(EXPECTED_TIMEOUT_MS);
        // digits and a letter are a valid value
        if let Ok(value) = HeaderValue::try_from(to_grpc(budget)) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    } else {
        headers.remove(GRPC_TIMEOUT);
        // rounded down, so that no hop has more time than its caller; 0 would mean "no limit" to some
        let ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX).max(1);
        headers.insert(EXPECTED_TIMEOUT_MS, HeaderValue::from(ms));
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    valid.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

fn grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (_, nanos) = GRPC_UNITS.iter().find(|(letter, _)| letter == unit)?;
    let count = number(digits).filter(|_| digits.len() <= GRPC_DIGITS_MAX)?;
    let nanos = u128::from(count) * nanos;
    Some(Duration::new(u64::try_from(nanos / 1_000_000_000).ok()?, (nanos % 1_000_000_000) as u32))
}

/// In the finest unit that eight digits suffice for, rounded down.
fn to_grpc(budget: Duration) -> String {
    let nanos = budget.as_nanos();
    let fits = GRPC_UNITS.iter().find(|(_, unit)| nanos / unit <= GRPC_VALUE_MAX);
    match fits {
        Some((letter, unit)) => format!("{}{}", nanos / unit, *letter as char),
        None => format!("{GRPC_VALUE_MAX}H"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn budgets_are_read_as_their_protocols_write_them() {
        for (text, ms) in
            [("250m", 250), ("2S", 2_000), ("1H", 3_600_000), ("1000u", 1), ("99999999M", 5_999_999_940_000)]
        {
            assert_eq!(read(&headers(GRPC_TIMEOUT, text)), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "m", "1", "1s", "-1m", "+1m", "123456789m", "1.5S", "١m"] {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(read(&HeaderMap::from_iter([(GRPC_TIMEOUT, value)])), None, "{text}");
        }
        assert_eq!(read(&headers(EXPECTED_TIMEOUT_MS, "250")), Some(Duration::from_millis(250)));
        assert_eq!(read(&headers(EXPECTED_TIMEOUT_MS, "18446744073709551616")), None);
        let mut both = headers(EXPECTED_TIMEOUT_MS, "250");
        both.extend(headers(GRPC_TIMEOUT, "1S"));
        assert_eq!(read(&both), Some(Duration::from_millis(250)), "the shorter holds");
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_read_and_never_more(nanos in 1_000_000u64.., is_grpc: bool) {
            let budget = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            if is_grpc {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
            }
            write(&mut headers, budget);
            let told = read(&headers).unwrap();
            prop_assert!(told <= budget);
            prop_assert!(budget - told <= budget / 1_000_000 + Duration::from_millis(1), "{:?} for {:?}", told, budget);
            prop_assert_eq!(headers.contains_key(GRPC_TIMEOUT), is_grpc);
            prop_assert_eq!(headers.contains_key(EXPECTED_TIMEOUT_MS), !is_grpc);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            grpc(&bytes);
            number(&bytes);
        }
    }
}
