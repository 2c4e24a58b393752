//! Exchange rates, as a table in one setting: `EURUSD=1.0850 EURJPY=163`.

use std::{collections::BTreeMap, str::FromStr};

/// Decimal places of a rate that count; integers keep amounts exact.
const SCALE: i128 = 1_000_000;

/// Rates by currency pair, times [`SCALE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates(BTreeMap<String, i128>);

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |entry: &str| {
            let (pair, rate) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not PAIR=RATE"))?;
            let scaled = parse_decimal(rate).filter(|rate| *rate > 0);
            Ok((pair.to_owned(), scaled.ok_or_else(|| format!("{pair}: {rate:?} is not a positive decimal"))?))
        };
        text.split_whitespace().map(pair).collect::<Result<_, String>>().map(Self)
    }
}

fn parse_decimal(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: i128 = format!("{fraction:0<6}").parse().ok()?;
    whole.parse::<u32>().ok().map(|whole| i128::from(whole) * SCALE + fraction)
}

impl Rates {
    /// Converts an amount in minor units, rounding half up.
    ///
    /// # Errors
    /// When the pair is not in the table or the result does not fit.
    pub fn convert(&self, amount: i64, from: &str, to: &str) -> Result<i64, String> {
        if from == to {
            return Ok(amount);
        }
        let rate =
            self.0.get(&format!("{from}{to}")).ok_or_else(|| format!("pay_in: no rate from {from:?} to {to:?}"))?;
        let converted = (i128::from(amount) * rate + SCALE / 2).div_euclid(SCALE);
        i64::try_from(converted).map_err(|_| format!("amount_minor: {amount} is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_converted_exactly_and_rounded_half_up() {
        let rates: Rates = "EURUSD=1.085 USDEUR=0.5".parse().unwrap();
        assert_eq!(rates.convert(10_000, "EUR", "USD"), Ok(10_850));
        assert_eq!(rates.convert(3, "USD", "EUR"), Ok(2));
        assert_eq!(rates.convert(7, "JPY", "JPY"), Ok(7));
        assert!(rates.convert(1, "EUR", "JPY").unwrap_err().contains("no rate"));
    }

    #[test]
    fn malformed_tables_are_refused() {
        for text in ["EURUSD", "EURUSD=x", "EURUSD=0", "EURUSD=-1", "EURUSD=1.0000001"] {
            assert!(text.parse::<Rates>().is_err(), "{text}");
        }
    }
}
