//! Timestamps and durations: their texts, and the calendar fields of a timestamp in a time zone.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::error::EvalError;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// The first point in time, which counts as none.
pub(crate) const FIRST: DateTime = Date::constant(1, 1, 1).at(0, 0, 0, 0);
/// What seconds and nanoseconds count from.
const EPOCH: DateTime = Date::constant(1970, 1, 1).at(0, 0, 0, 0);

/// The timestamp if it is in the years that timestamps may have.
fn in_range(at: DateTime) -> Result<DateTime, EvalError> {
    if at.year() >= 1 { Ok(at) } else { Err(EvalError::Overflow("timestamp")) }
}

fn moved(at: DateTime, by: SignedDuration) -> Result<DateTime, EvalError> {
    at.checked_add(by).map_err(|_| EvalError::Overflow("timestamp")).and_then(in_range)
}

/// The timestamp of a number of seconds since 1970.
pub(crate) fn from_seconds(seconds: i64) -> Result<DateTime, EvalError> {
    moved(EPOCH, SignedDuration::from_secs(seconds))
}

/// Whole seconds since 1970.
pub(crate) fn seconds(at: DateTime) -> i64 {
    let since = at.duration_since(EPOCH);
    since.as_secs() - i64::from(since.subsec_nanos() < 0)
}

/// `at` moved by nanoseconds.
pub(crate) fn shift(at: DateTime, nanos: i64, back: bool) -> Result<DateTime, EvalError> {
    let by = SignedDuration::from_nanos(nanos);
    moved(at, if back { -by } else { by })
}

/// Nanoseconds from `b` to `a`.
pub(crate) fn between(a: DateTime, b: DateTime) -> Result<i64, EvalError> {
    i64::try_from(a.duration_since(b).as_nanos()).map_err(|_| EvalError::Overflow("integer"))
}

/// RFC 3339 text as a timestamp.
pub(crate) fn parse_timestamp(text: &str) -> Result<DateTime, EvalError> {
    strict(text).ok_or_else(|| EvalError::conversion("string", "google.protobuf.Timestamp"))
}

/// `2006-01-02T15:04:05.999Z` and `…+02:00`, and nothing else that the calendar library reads.
fn strict(text: &str) -> Option<DateTime> {
    let (local, offset) = match text.strip_suffix('Z') {
        Some(local) => (local, SignedDuration::ZERO),
        None => {
            let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let (hours, minutes) = (small(hours, 23)?, small(minutes, 59)?);
            let offset = SignedDuration::from_mins(hours * 60 + minutes);
            (local, if zone.starts_with('-') { -offset } else { offset })
        }
    };
    let bytes = local.as_bytes();
    let formed = bytes.len() >= 19
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && &bytes[17..19] != b"60"
        && bytes.iter().all(|byte| byte.is_ascii_digit() || b"-:.T".contains(byte))
        && matches!(text.as_bytes()[bytes.len()], b'Z' | b'+' | b'-');
    if !formed {
        return None;
    }
    // a point in time has nanoseconds, and no more
    let local = local.get(..29).unwrap_or(local);
    moved(local.parse().ok()?, -offset).ok()
}

/// Two digits up to `max`.
fn small(digits: &str, max: i64) -> Option<i64> {
    let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| two && *number <= max)
}

/// Text of the formats `date-time` and `date` as a timestamp.
pub(crate) fn parse_date_time(text: &str) -> Result<DateTime, EvalError> {
    let failed = || EvalError::other(format!("invalid date-time formatted string {text}"));
    if text.len() == 10 {
        return text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)).map_err(|_| failed());
    }
    if let Some(at) = strict(text) {
        return Ok(at);
    }
    text.parse::<Timestamp>().map_err(|_| failed()).and_then(|at| in_range(Offset::UTC.to_datetime(at)))
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
pub(crate) fn format_timestamp(at: DateTime) -> String {
    format!("{at}Z")
}

/// Date and time of a timestamp in a time zone: a name of the zone database, or an offset such as `+02:00`.
pub(crate) fn zoned(at: DateTime, zone: Option<&str>) -> Result<DateTime, EvalError> {
    let Some(zone) = zone.filter(|zone| !zone.is_empty() && *zone != "UTC") else { return Ok(at) };
    let unknown = || EvalError::other(format!("unknown time zone {zone}"));
    let offset = if let Some((hours, minutes)) = zone.split_once(':') {
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
        Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).map_err(|_| unknown())?
    } else {
        // the last hours of the last year are in no zone that the database knows of; it has the zone's last offset
        let known = Offset::UTC.to_timestamp(at).unwrap_or(Timestamp::MAX);
        TimeZone::get(zone).map_err(|_| unknown())?.to_offset(known)
    };
    Ok(at.saturating_add(SignedDuration::from_secs(i64::from(offset.seconds()))))
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

    #[test]
    fn the_last_second_is_a_timestamp() {
        for (text, back) in [
            ("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("0001-01-01T00:00:00+01:00", None),
            ("2020-01-01T01:00:00.1234567891+01:00", Some("2020-01-01T00:00:00.123456789Z")),
            ("2020-01-01T00:00:60Z", None),
            ("2020-01-01T00:00:00+24:00", None),
            ("2020-01-01t00:00:00z", None),
            ("2020-02-30T00:00:00Z", None),
            ("2020-01-01T00:00:00", None),
        ] {
            assert_eq!(parse_timestamp(text).ok().map(format_timestamp).as_deref(), back, "{text}");
        }
        assert_eq!(from_seconds(253_402_300_799).map(seconds), Ok(253_402_300_799));
        assert!(from_seconds(253_402_300_800).is_err() && from_seconds(-62_135_596_801).is_err());
        let last = parse_timestamp("9999-12-31T23:59:59Z").unwrap();
        assert_eq!(zoned(last, Some("America/New_York")).map(|at| at.hour()), Ok(18));
        assert_eq!(shift(last, NANOS_PER_SECOND, false), Err(EvalError::Overflow("timestamp")));
    }
}
