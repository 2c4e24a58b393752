//! A time, or a range of times: `2s`, `500ms..3s`.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;

/// From one time to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    shortest: SignedDuration,
    longest: SignedDuration,
}

/// Why a text is no span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// It cannot be read.
    #[error("{0:?} is not a time such as 500ms, 2s, 1m30s or 1s..3s")]
    Malformed(String),
    /// Its end is before its beginning.
    #[error("{0:?} ends before it begins")]
    Reversed(String),
}

impl Span {
    /// Always this time.
    pub const fn exactly(time: SignedDuration) -> Self {
        Self { shortest: time, longest: time }
    }

    /// A time of whole milliseconds in this range.
    pub const fn milliseconds(shortest: i64, longest: i64) -> Self {
        Self { shortest: SignedDuration::from_millis(shortest), longest: SignedDuration::from_millis(longest) }
    }

    /// The time at a share of the range, 0 being its beginning.
    pub(crate) fn at(self, share: f64) -> SignedDuration {
        self.shortest + (self.longest - self.shortest).mul_f64(share)
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let time = |part: &str| {
            let time = part.trim().parse::<SignedDuration>().ok().filter(|time| !time.is_negative());
            time.ok_or_else(|| SpanError::Malformed(text.to_owned()))
        };
        let (shortest, longest) = match text.split_once("..") {
            Some((from, to)) => (time(from)?, time(to)?),
            None => (time(text)?, time(text)?),
        };
        if longest < shortest {
            return Err(SpanError::Reversed(text.to_owned()));
        }
        Ok(Self { shortest, longest })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shortest == self.longest {
            return write!(f, "{:#}", self.shortest);
        }
        write!(f, "{:#}..{:#}", self.shortest, self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ranges_are_read_and_written() {
        let cases = [("2s", 2000, 2000), ("500ms..3s", 500, 3000), ("1m30s", 90_000, 90_000), ("0s", 0, 0)];
        for (text, shortest, longest) in cases {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span::milliseconds(shortest, longest), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span), "{text}");
        }
        for text in ["", "2", "s", "1s..", "-1s", "1s...2s", "a while"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError::Malformed(text.to_owned())));
        }
        assert_eq!("3s..1s".parse::<Span>(), Err(SpanError::Reversed("3s..1s".to_owned())));
    }

    #[test]
    fn a_share_of_a_range_lies_in_it() {
        let span = Span::milliseconds(1000, 3000);
        assert_eq!(span.at(0.0), SignedDuration::from_millis(1000));
        assert_eq!(span.at(0.5), SignedDuration::from_millis(2000));
    }
}
