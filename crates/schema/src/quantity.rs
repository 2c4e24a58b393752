//! `resource.Quantity`: fixed-point numbers with decimal (`k`), binary (`Ki`) or exponent (`e3`) suffixes.
//!
//! A quantity is an integer count of nano units, so that comparing and adding are exact. Finer values round up, larger
//! ones saturate, as upstream does.

use std::cmp::Ordering;
use std::fmt;

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Powers of ten with suffixes: `500m`, `2k`.
    DecimalSi,
    /// Powers of 1024: `64Mi`.
    BinarySi,
    /// Powers of ten as an exponent: `1e3`.
    DecimalExponent,
}

/// The text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

/// A parsed quantity.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
/// Upstream caps a quantity at 2^63-1 units.
const MAX: i128 = i64::MAX as i128 * NANO;
/// Longer texts hold no more than a saturated value or zeros.
const MAX_DIGITS: usize = 64;

impl Quantity {
    /// Parses the API's form.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (digits, suffix) = unsigned.split_at(end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || digits.len() > MAX_DIGITS {
            return Err(QuantityError);
        }
        let (format, base, exponent) = suffix_of(suffix).ok_or(QuantityError)?;
        let nano = scale(whole, fraction, base, exponent).min(MAX);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// A whole number of units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nano: i128::from(units) * NANO, format }
    }

    /// A number of thousandths, as CPU is counted.
    pub fn from_millis(millis: i64) -> Self {
        Self { nano: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, rounded up.
    pub fn units(&self) -> i64 {
        saturate(ceiling(self.nano, NANO))
    }

    /// Thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        saturate(ceiling(self.nano, NANO / 1000))
    }

    /// Whole units, `None` when there is a fraction.
    pub fn as_integer(&self) -> Option<i64> {
        if self.nano % NANO == 0 { i64::try_from(self.nano / NANO).ok() } else { None }
    }

    /// As a double, which may be less exact.
    pub fn as_double(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether this is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether this is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// The sum, in the first operand's format.
    pub fn plus(&self, other: &Self) -> Self {
        Self { nano: (self.nano + other.nano).clamp(-MAX, MAX), format: self.format }
    }

    /// The difference, in the first operand's format.
    pub fn minus(&self, other: &Self) -> Self {
        Self { nano: (self.nano - other.nano).clamp(-MAX, MAX), format: self.format }
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn ceiling(value: i128, unit: i128) -> i128 {
    value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0)
}

/// Format, base and exponent of a suffix.
fn suffix_of(suffix: &str) -> Option<(Format, i128, i32)> {
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some((_, exponent)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((Format::DecimalSi, 10, *exponent));
    }
    if let Some(at) = BINARY.iter().position(|known| *known == suffix) {
        return Some((Format::BinarySi, 1024, at as i32 + 1));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((Format::DecimalExponent, 10, exponent.parse().ok().filter(|value: &i32| value.abs() <= 1000)?))
}

/// `whole.fraction × base^exponent` in nano units, rounded up, saturated.
fn scale(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    // Decimal exponent of the last digit, in nano units.
    let mut shift = 9 - fraction.len() as i64 + if base == 10 { i64::from(exponent) } else { 0 };
    let (mut value, mut dropped) = (0_i128, false);
    for digit in whole.bytes().chain(fraction.bytes()) {
        if value > MAX {
            // Too large to hold more digits: count them instead.
            shift += 1;
            dropped |= digit != b'0';
            continue;
        }
        value = value * 10 + i128::from(digit - b'0');
    }
    if base != 10 {
        for _ in 0..exponent {
            value = value.saturating_mul(base);
        }
    }
    while shift > 0 && value != 0 && value <= MAX {
        value = value.saturating_mul(10);
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        dropped |= value % 10 != 0;
        value /= 10;
        shift += 1;
        if value == 0 {
            break;
        }
    }
    value.saturating_add(i128::from(dropped))
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// The canonical form: the largest suffix that leaves an integer.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nano % NANO == 0 && self.nano.abs() >= 1024 * NANO {
            let (mut value, mut at) = (self.nano / NANO, 0);
            while value % 1024 == 0 && at < 6 {
                value /= 1024;
                at += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][at]);
        }
        let (mut value, mut at) = (self.nano, 0);
        while value % 1000 == 0 && at < 9 {
            value /= 1000;
            at += 1;
        }
        let suffix = match self.format {
            Format::DecimalExponent => ["e-9", "e-6", "e-3", "", "e3", "e6", "e9", "e12", "e15", "e18"][at],
            _ => ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][at],
        };
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_have_one_canonical_form() {
        let cases = [
            ("0", "0"),
            ("0.0", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("12e-1", "1200e-3"),
            ("-1.5", "-1500m"),
            ("+3", "3"),
            ("100n", "100n"),
            ("0.1n", "1n"),
            ("1E", "1E"),
            ("123456789", "123456789"),
            ("1Ei", "1Ei"),
            ("0001", "1"),
            ("3M", "3M"),
            ("0.3Mi", "314572800m"),
        ];
        for (text, canonical) in cases {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in ["", "-", ".", "1.2.3", "1Kii", "1 ", "x", "1e", "1ee3", "e3", "1KI", "--1"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_compare_across_formats() {
        let value = |text| Quantity::parse(text).unwrap();
        assert_eq!(value("1"), value("1000m"));
        assert!(value("1Ki") > value("1k") && value("-1") < value("0"));
        assert_eq!(value("0.1").millis(), 100);
        assert_eq!(value("1.1").units(), 2);
        assert_eq!(value("99999999999999999999E"), value("9223372036854775807"));
        assert_eq!(value("1Gi").plus(&value("1Gi")).to_string(), "2Gi");
    }

    proptest! {
        #[test]
        fn printing_and_parsing_keep_the_value(text in "[+-]?[0-9]{1,12}(\\.[0-9]{0,6})?(m|k|M|Ki|Mi|e3|e-2)?") {
            let first = Quantity::parse(&text).unwrap();
            let again = Quantity::parse(&first.to_string()).unwrap();
            prop_assert_eq!(first, again);
            prop_assert_eq!(first.to_string(), again.to_string());
        }

        #[test]
        fn any_text_is_handled(text in "\\PC{0,20}") {
            let _ = Quantity::parse(&text);
        }
    }
}
