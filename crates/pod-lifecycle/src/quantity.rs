//! Kubernetes quantities as integers: `500m`, `1.5Gi`, `2e3`.

/// Thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(text: &str) -> Option<i128> {
    parse(text.trim(), 1000)
}

/// Whole units, rounded up.
pub fn whole(text: &str) -> Option<i64> {
    i64::try_from(parse(text.trim(), 1)?).ok()
}

/// `text` times `scale`, rounded up.
fn parse(text: &str, scale: i128) -> Option<i128> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (factor, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10_i128.checked_pow(power.unsigned_abs().min(18))?;
            if power < 0 { (1, ten) } else { (ten, 1) }
        }
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if integer.is_empty() && fraction.is_empty() {
        return None;
    }
    let fraction = fraction.get(..fraction.len().min(9))?;
    let ten = 10_i128.pow(fraction.len() as u32);
    let value = format!("0{integer}{fraction}").parse::<i128>().ok()?;
    let numerator = value.checked_mul(factor)?.checked_mul(scale)?;
    let denominator = ten * divisor;
    let magnitude = numerator.checked_add(denominator - 1)? / denominator;
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale_and_garbage_is_none() {
        let cases = [
            ("1", 1000),
            ("500m", 500),
            ("0.1", 100),
            ("1.5Ki", 1_536_000),
            ("2e3", 2_000_000),
            ("1u", 1),
            ("-1", -1000),
            ("100n", 1),
            (".5", 500),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        assert_eq!(whole("128Mi"), Some(128 << 20));
        for text in ["", "x", "1X", ".", "1.2.3", "12Eii"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
