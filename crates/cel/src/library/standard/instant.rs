//! Calendar fields of timestamps, and units of durations.

use jiff::civil::DateTime;

use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::time;
use crate::types::Type;
use crate::value::Value;

type Accessor = (&'static str, [&'static str; 2], fn(DateTime) -> i64);

/// Months, days of the month and days of the year count from zero, as in JavaScript; `getDate` counts from one.
const ACCESSORS: [Accessor; 10] = [
    ("getFullYear", ["timestamp_to_year", "timestamp_to_year_with_tz"], |at| i64::from(at.year())),
    ("getMonth", ["timestamp_to_month", "timestamp_to_month_with_tz"], |at| i64::from(at.month()) - 1),
    ("getDayOfYear", ["timestamp_to_day_of_year", "timestamp_to_day_of_year_with_tz"], |at| {
        i64::from(at.day_of_year()) - 1
    }),
    ("getDayOfMonth", ["timestamp_to_day_of_month", "timestamp_to_day_of_month_with_tz"], |at| i64::from(at.day()) - 1),
    ("getDate", ["timestamp_to_day_of_month_1_based", "timestamp_to_day_of_month_1_based_with_tz"], |at| {
        i64::from(at.day())
    }),
    ("getDayOfWeek", ["timestamp_to_day_of_week", "timestamp_to_day_of_week_with_tz"], |at| {
        time::day_of_week(at.weekday())
    }),
    ("getHours", ["timestamp_to_hours", "timestamp_to_hours_with_tz"], |at| i64::from(at.hour())),
    ("getMinutes", ["timestamp_to_minutes", "timestamp_to_minutes_tz"], |at| i64::from(at.minute())),
    ("getSeconds", ["timestamp_to_seconds", "timestamp_to_seconds_tz"], |at| i64::from(at.second())),
    ("getMilliseconds", ["timestamp_to_milliseconds", "timestamp_to_milliseconds_tz"], |at| {
        i64::from(at.millisecond())
    }),
];

const UNITS: [(&str, &str, i64); 4] = [
    ("getHours", "duration_to_hours", 3_600_000_000_000),
    ("getMinutes", "duration_to_minutes", 60_000_000_000),
    ("getSeconds", "duration_to_seconds", 1_000_000_000),
    ("getMilliseconds", "duration_to_milliseconds", 1_000_000),
];

pub(super) fn library() -> Library {
    let mut library = Library::new();
    for (name, [utc, zoned], field) in ACCESSORS {
        let overload = |id, args| {
            Overload::member(id, args, Type::Int, move |_, args| {
                let Value::Timestamp(at) = args[0] else { return Err(EvalError::NoSuchOverload) };
                let zone = args.get(1).map(Value::str).transpose()?;
                Ok(Value::Int(field(time::zoned(at, zone)?)))
            })
        };
        library = library.function(
            name,
            vec![overload(utc, vec![Type::Timestamp]), overload(zoned, vec![Type::Timestamp, Type::String])],
        );
    }
    for (name, id, unit) in UNITS {
        let overload = Overload::member(id, vec![Type::Duration], Type::Int, move |_, args| {
            let Value::Duration(nanos) = args[0] else { return Err(EvalError::NoSuchOverload) };
            Ok(Value::Int(nanos / unit))
        });
        library = library.function(name, vec![overload]);
    }
    library
}
