//! Timestamps and durations: their texts, and the calendar fields of a timestamp in a time zone.

use jiff::civil::Weekday;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::error::EvalError;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the first and last second of a timestamp.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;

/// The timestamp if it is in the years that timestamps may have.
pub(crate) fn in_range(at: Timestamp) -> Result<Timestamp, EvalError> {
    let seconds = at.as_nanosecond().div_euclid(i128::from(NANOS_PER_SECOND));
    if (i128::from(SECONDS_MIN)..=i128::from(SECONDS_MAX)).contains(&seconds) {
        Ok(at)
    } else {
        Err(EvalError::Overflow("timestamp"))
    }
}

/// The timestamp of a number of seconds since 1970.
pub(crate) fn from_seconds(seconds: i64) -> Result<Timestamp, EvalError> {
    Timestamp::from_second(seconds).map_err(|_| EvalError::Overflow("timestamp")).and_then(in_range)
}

/// `at` moved by nanoseconds.
pub(crate) fn shift(at: Timestamp, nanos: i64, back: bool) -> Result<Timestamp, EvalError> {
    let nanos = if back { -i128::from(nanos) } else { i128::from(nanos) };
    Timestamp::from_nanosecond(at.as_nanosecond() + nanos)
        .map_err(|_| EvalError::Overflow("timestamp"))
        .and_then(in_range)
}

/// Nanoseconds from `b` to `a`.
pub(crate) fn between(a: Timestamp, b: Timestamp) -> Result<i64, EvalError> {
    i64::try_from(a.as_nanosecond() - b.as_nanosecond()).map_err(|_| EvalError::Overflow("duration"))
}

/// RFC 3339 text as a timestamp.
pub(crate) fn parse_timestamp(text: &str) -> Result<Timestamp, EvalError> {
    let failed = || EvalError::conversion("string", "google.protobuf.Timestamp");
    let bytes = text.as_bytes();
    // The calendar library reads more notations than RFC 3339 has.
    let strict = bytes.len() >= 20
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && (bytes.ends_with(b"Z") || matches!(bytes[bytes.len() - 6], b'+' | b'-'))
        && bytes.iter().all(|byte| byte.is_ascii_digit() || b"-+:.TZ".contains(byte));
    if !strict {
        return Err(failed());
    }
    text.parse::<Timestamp>().map_err(|_| failed()).and_then(in_range)
}

/// Text of the formats `date-time` and `date` as a timestamp.
pub(crate) fn parse_date_time(text: &str) -> Result<Timestamp, EvalError> {
    let failed = || EvalError::other(format!("invalid date-time formatted string {text}"));
    if text.len() == 10 {
        return format!("{text}T00:00:00Z").parse().map_err(|_| failed());
    }
    text.parse::<Timestamp>().map_err(|_| failed()).and_then(in_range)
}

/// Text such as `1h30m`, `-1.5s` or `300ms` as nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, EvalError> {
    go_duration(text).ok_or_else(|| EvalError::conversion("string", "google.protobuf.Duration"))
}

/// Text of the format `duration`, which has days, weeks and unit names besides, as nanoseconds.
pub(crate) fn parse_declared_duration(text: &str) -> Result<i64, EvalError> {
    go_duration(text)
        .or_else(|| worded_duration(text))
        .ok_or_else(|| EvalError::other(format!("invalid duration formatted string {text}")))
}

fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            nanos += i128::from(digit - b'0') * place / 10;
            place /= 10;
        }
        rest = after;
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

fn worded_duration(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
    let (count, unit) = text.split_at(digits);
    let seconds: i64 = match unit.trim() {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "wk" | "wks" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    count.parse::<i64>().ok()?.checked_mul(seconds)?.checked_mul(NANOS_PER_SECOND)
}

/// A duration in seconds: `5400s`, `0.3s`.
pub(crate) fn format_duration(nanos: i64) -> String {
    let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let sign = if nanos < 0 { "-" } else { "" };
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// A timestamp as RFC 3339 in UTC.
pub(crate) fn format_timestamp(at: Timestamp) -> String {
    at.to_string()
}

/// A timestamp in a time zone: a name of the zone database, or an offset such as `+02:00`.
pub(crate) fn zoned(at: Timestamp, zone: Option<&str>) -> Result<Zoned, EvalError> {
    let Some(zone) = zone else { return Ok(at.to_zoned(TimeZone::UTC)) };
    let unknown = || EvalError::other(format!("unknown time zone {zone}"));
    if let Some((hours, minutes)) = zone.split_once(':') {
        let (sign, hours) = match hours.as_bytes().first() {
            Some(b'-') => (-1, &hours[1..]),
            Some(b'+') => (1, &hours[1..]),
            _ => (1, hours),
        };
        let (hours, minutes) =
            (hours.parse::<i32>().map_err(|_| unknown())?, minutes.parse::<i32>().map_err(|_| unknown())?);
        if !(0..=23).contains(&hours) || !(0..=59).contains(&minutes) {
            return Err(unknown());
        }
        let offset = Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).map_err(|_| unknown())?;
        return Ok(at.to_zoned(TimeZone::fixed(offset)));
    }
    if zone.is_empty() || zone == "UTC" {
        return Ok(at.to_zoned(TimeZone::UTC));
    }
    TimeZone::get(zone).map(|zone| at.to_zoned(zone)).map_err(|_| unknown())
}

/// Sunday is 0.
pub(crate) fn day_of_week(day: Weekday) -> i64 {
    i64::from(day.to_sunday_zero_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, nanos, back) in [
            ("1h30m", 5_400_000_000_000, "5400s"),
            ("-1.5s", -1_500_000_000, "-1.5s"),
            ("300ms", 300_000_000, "0.3s"),
            ("0", 0, "0s"),
            ("1.25us", 1_250, "0.00000125s"),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
            assert_eq!(format_duration(nanos), back);
        }
        for text in ["", "1", "1x", "s", "--1s", "9999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_declared_duration("2 weeks"), Ok(1_209_600_000_000_000));
    }
}
