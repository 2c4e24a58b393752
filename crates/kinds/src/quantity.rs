//! Resource quantities (`100m`, `1.5Gi`, `2e3`) as integers, rounded up. What is larger than an integer holds counts as
//! the largest one.

const NANO: i128 = 1_000_000_000;

/// The quantity in thousandths; `None` for what is none.
pub fn milli(text: &str) -> Option<i64> {
    rounded_up(text, NANO / 1000)
}

/// The quantity in whole units; `None` for what is none.
pub fn units(text: &str) -> Option<i64> {
    rounded_up(text, NANO)
}

fn rounded_up(text: &str, unit: i128) -> Option<i64> {
    let nanos = nanos(text)?;
    let whole = nanos / unit + i128::from(nanos % unit > 0);
    Some(i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX }))
}

fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let mut fraction_nanos: i128 = 0;
    for at in 0..9 {
        let digit = fraction.as_bytes().get(at).map_or(Some(0), |byte| char::from(*byte).to_digit(10))?;
        fraction_nanos = fraction_nanos * 10 + i128::from(digit);
    }
    let mantissa = digits(whole)?.checked_mul(NANO)?.checked_add(fraction_nanos)?;
    let (multiplier, divisor) = scale(suffix)?;
    let nanos = mantissa.saturating_mul(multiplier);
    let nanos = nanos / divisor + i128::from(nanos % divisor > 0);
    Some(if negative { -nanos } else { nanos })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1i128 << (10 * power), 1));
    let decimal = |power: u32| Some((10i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            match exponent {
                0..=18 => decimal(exponent.unsigned_abs()),
                -18..0 => Some((1, 10i128.pow(exponent.unsigned_abs()))),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_rounded_up() {
        for (text, expected_milli, expected_units) in [
            ("100m", 100, 1),
            ("2", 2000, 2),
            ("1.5", 1500, 2),
            ("0.1", 100, 1),
            ("1u", 1, 1),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("2e3", 2_000_000, 2000),
            ("5E-1", 500, 1),
            ("1k", 1_000_000, 1000),
            ("8Ei", i64::MAX, i64::MAX),
            ("-1", -1000, -1),
        ] {
            assert_eq!((milli(text), units(text)), (Some(expected_milli), Some(expected_units)), "{text}");
        }
        for text in ["", "x", "1x", "e3", "1e99"] {
            assert_eq!((milli(text), units(text)), (None, None), "{text}");
        }
    }
}
