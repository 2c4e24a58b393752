//! What is wrong with a configuration, and the rules that several of them share.

use std::{fmt::Display, time::Duration};

/// A field of a configuration has a value that its mechanism cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: must be {rule}, not {value}")]
pub struct ConfigError {
    field: &'static str,
    rule: String,
    value: String,
}

impl ConfigError {
    /// The field, as it is written in the configuration's type.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

/// Refuses a value that breaks its rule.
pub(crate) fn check(
    holds: bool,
    field: &'static str,
    rule: impl Into<String>,
    value: impl Display,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { field, rule: rule.into(), value: value.to_string() }) }
}

/// Refuses a duration that is zero or longer than `max`.
pub(crate) fn check_duration(field: &'static str, value: Duration, max: Duration) -> Result<(), ConfigError> {
    check(!value.is_zero() && value <= max, field, format!("above 0s and at most {max:?}"), format!("{value:?}"))
}

/// Refuses a share that is not above 0 and at most 1.
pub(crate) fn check_share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    check(value > 0.0 && value <= 1.0, field, "above 0 and at most 1", value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_field_rule_and_value() {
        let error = check_share("failure_rate", 1.5).unwrap_err();
        assert_eq!(error.to_string(), "failure_rate: must be above 0 and at most 1, not 1.5");
        assert_eq!(error.field(), "failure_rate");
        assert!(check_share("failure_rate", f64::NAN).is_err(), "what is no number is no share");
        let error = check_duration("window", Duration::ZERO, Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.to_string(), "window: must be above 0s and at most 60s, not 0ns");
    }
}
