//! The formats of strings that are enforced; all other names of formats are annotations.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex_lite::Regex;

use crate::names;

/// A format as a schema names it, and what it checks.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    name: Box<str>,
    fits: fn(&str) -> bool,
}

impl Format {
    /// The format of this name, dashes ignored; `None` for one that is not enforced.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let fits: fn(&str) -> bool = match name {
            "k8s-short-name" => |text| names::dns1123_label(text).is_empty(),
            "k8s-long-name" => |text| names::dns1123_subdomain(text).is_empty(),
            name => by_name(&name.replace('-', ""))?,
        };
        Some(Self { name: name.into(), fits })
    }

    /// The name as it was given.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether `text` is of the format.
    pub(crate) fn fits(&self, text: &str) -> bool {
        (self.fits)(text)
    }
}

fn by_name(name: &str) -> Option<fn(&str) -> bool> {
    Some(match name {
        "bsonobjectid" => |text| text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "uri" => |text| cel::library::Url::parse(text).is_ok(),
        "email" => email,
        "hostname" => hostname,
        "ipv4" => |text| text.contains('.') && ip_bits(text).is_some(),
        "ipv6" => |text| text.contains(':') && ip_bits(text).is_some(),
        "cidr" => cidr,
        "mac" => mac,
        "uuid" => |text| uuid(text, None, false),
        "uuid3" => |text| uuid(text, Some(b'3'), false),
        "uuid4" => |text| uuid(text, Some(b'4'), true),
        "uuid5" => |text| uuid(text, Some(b'5'), true),
        "isbn" => |text| isbn10(text) || isbn13(text),
        "isbn10" => isbn10,
        "isbn13" => isbn13,
        "creditcard" => credit_card,
        "ssn" => |text| SSN.is_match(text),
        "hexcolor" => |text| HEX_COLOR.is_match(text),
        "rgbcolor" => |text| RGB_COLOR.is_match(text),
        "byte" => |text| STANDARD.decode(text).is_ok(),
        "password" => |_| true,
        "date" => date,
        "duration" => duration,
        "datetime" => date_time,
        _ => return None,
    })
}

fn compiled(pattern: &'static str) -> Regex {
    Regex::new(pattern).expect("invariant: the patterns of this file compile")
}

static SSN: LazyLock<Regex> = LazyLock::new(|| compiled(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"));
static HEX_COLOR: LazyLock<Regex> = LazyLock::new(|| compiled("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: LazyLock<Regex> = LazyLock::new(|| {
    compiled(concat!(
        r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])",
        r"\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
    ))
});
static CREDIT_CARD: LazyLock<Regex> = LazyLock::new(|| {
    compiled(concat!(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}",
        r"|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$"
    ))
});
static TIME: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$"));
static DURATION_PART: LazyLock<Regex> = LazyLock::new(|| compiled(r"(\d+)\s*([A-Za-zµ]+)"));

/// The bits of an address; leading zeros in a part are tolerated, as ever.
fn ip_bits(text: &str) -> Option<u8> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|_| 128);
    }
    let part = |part: &str| {
        let digits = part.trim_start_matches('0');
        let digits = if digits.is_empty() && !part.is_empty() { "0" } else { digits };
        digits.parse::<u8>().is_ok() && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = text.split('.').collect();
    let plain = text.parse::<Ipv4Addr>().is_ok();
    (plain || parts.len() == 4 && parts.into_iter().all(part)).then_some(32)
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    digits && ip_bits(address).is_some_and(|max| bits.parse::<u8>().is_ok_and(|bits| bits <= max))
}

fn mac(text: &str) -> bool {
    let hex = |groups: Vec<&str>, digits: usize, counts: [usize; 3]| {
        counts.contains(&groups.len())
            && groups.iter().all(|group| group.len() == digits && group.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    match text.as_bytes().get(2) {
        Some(b':') => hex(text.split(':').collect(), 2, [6, 8, 20]),
        Some(b'-') => hex(text.split('-').collect(), 2, [6, 8, 20]),
        _ => hex(text.split('.').collect(), 4, [3, 4, 10]),
    }
}

/// Hexadecimal digits in groups of 8, 4, 4, 4 and 12 with optional dashes.
fn uuid(text: &str, version: Option<u8>, variant: bool) -> bool {
    let mut digits = Vec::with_capacity(32);
    for byte in text.bytes() {
        match byte {
            b'-' if matches!(digits.len(), 8 | 12 | 16 | 20) && text.len() <= 36 => {}
            byte if byte.is_ascii_hexdigit() => digits.push(byte.to_ascii_lowercase()),
            _ => return false,
        }
    }
    !text.contains("--")
        && digits.len() == 32
        && version.is_none_or(|version| digits[12] == version)
        && (!variant || b"89ab".contains(&digits[16]))
}

fn isbn_digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| !matches!(byte, b' ' | b'-')).collect()
}

fn isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let value = |(at, byte): (usize, &u8)| match byte {
        b'0'..=b'9' => Some(u32::from(byte - b'0') * (at as u32 + 1)),
        b'X' if at == 9 => Some(100),
        _ => None,
    };
    digits.len() == 10 && digits.iter().enumerate().map(value).sum::<Option<u32>>().is_some_and(|sum| sum % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let value = |(at, byte): (usize, &u8)| {
        byte.is_ascii_digit().then(|| u32::from(byte - b'0') * if at % 2 == 0 { 1 } else { 3 })
    };
    digits.len() == 13 && digits.iter().enumerate().map(value).sum::<Option<u32>>().is_some_and(|sum| sum % 10 == 0)
}

fn credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    CREDIT_CARD.is_match(&digits)
}

fn date(text: &str) -> bool {
    text.len() == 10 && text.as_bytes()[4] == b'-' && text.parse::<jiff::civil::Date>().is_ok()
}

fn date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((day, time)) = lower.split_once('t') else { return false };
    let Some(found) = TIME.captures(time) else { return false };
    let at_most = |group: usize, max: &str| found.get(group).is_some_and(|found| found.as_str() <= max);
    date(day) && at_most(1, "23") && at_most(2, "59") && at_most(3, "59")
}

/// Units of durations by their beginning, the last of each also as a prefix: `22 nanos`.
const UNITS: [&[&str]; 8] = [
    &["ns", "nano"],
    &["us", "µs", "micro"],
    &["ms", "milli"],
    &["s", "sec"],
    &["m", "min"],
    &["h", "hr", "hour"],
    &["d", "day"],
    &["w", "wk", "week"],
];

fn duration(text: &str) -> bool {
    go_duration(text) || scala_duration(text)
}

fn scala_duration(text: &str) -> bool {
    let known = |unit: &str| {
        let unit = unit.to_lowercase();
        UNITS
            .iter()
            .any(|names| names.contains(&unit.as_str()) || names.last().is_some_and(|last| unit.starts_with(last)))
    };
    DURATION_PART.captures_iter(text).any(|found| found.get(2).is_some_and(|unit| known(unit.as_str())))
}

/// `1h30m`, `-1.5s`, `0`: signed decimal numbers with units.
fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        if !digits.bytes().any(|byte| byte.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let unit = tail.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        if !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&unit) {
            return false;
        }
        rest = tail;
    }
    true
}

/// `local@domain`, alone or in angle brackets behind a display name.
fn email(text: &str) -> bool {
    let text = text.trim();
    let address = match text.strip_suffix('>') {
        Some(rest) => match rest.rsplit_once('<') {
            Some((_, address)) => address,
            None => return false,
        },
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |char: char| char.is_alphanumeric() || !char.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(char);
    let dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (quoted || dotted(local)) && (literal || dotted(domain))
}

/// Labels of letters, digits, symbols and inner dashes, and a top level of letters; or one word with at most one dash,
/// behind its first letter.
fn hostname(text: &str) -> bool {
    const BYTES_MAX: usize = 255;
    const LABEL_MAX: usize = 63;
    let word = |char: char| char.is_ascii_alphanumeric() || !char.is_ascii();
    if text.is_empty() || text.len() > BYTES_MAX || text.split('.').any(|label| label.len() > LABEL_MAX) {
        return false;
    }
    let Some((labels, top)) = text.rsplit_once('.') else {
        let mut chars = text.chars();
        let first = chars.next().is_some_and(word);
        let rest = chars.as_str();
        return first && rest.strip_prefix('-').unwrap_or(rest).chars().all(word);
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|char| word(char) || char == '-')
    };
    let letters = top.chars().count() >= 2 && top.chars().all(|char| char.is_ascii_alphabetic() || !char.is_ascii());
    letters && labels.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        let cases: [(&str, &[&str], &[&str]); 25] = [
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f1f77bcf86cd79943901", "g07f1f77bcf86cd799439011"]),
            (
                "uri",
                &["http://a.b/c?d", "/a", "mailto:a@b", "http://[::1]:80/"],
                &["", "a/b", "http://a b/", "http://%zz"],
            ),
            ("email", &["a@b", "A B <a.b@c.d>"], &["a", "a@", "@b", "a b@c"]),
            (
                "hostname",
                &["localhost", "a.example.com", "1a.de"],
                &["", "a..com", "-a.com", "a.c", "a_b.com", "my-host"],
            ),
            ("ipv4", &["1.2.3.4", "01.2.3.4"], &["1.2.3", "::1", "256.1.1.1", "a"]),
            ("ipv6", &["::1", "2001:db8::1", "::ffff:1.2.3.4"], &["1.2.3.4", ":::1"]),
            ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33", "a/8", "10.0.0.0/+8"]),
            (
                "mac",
                &["00:00:5e:00:53:01", "02-00-5e-10-00-00-00-01", "0000.5e00.5301"],
                &["00:00", "0g:00:5e:00:53:01"],
            ),
            ("uuid", &["f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "F81D4FAE7DEC11D0A76500A0C91E6BF6"], &["f81d4fae"]),
            ("uuid3", &["a3bb189e-8bf9-3888-9912-ace4e6543002"], &["a3bb189e-8bf9-4888-9912-ace4e6543002"]),
            ("uuid4", &["16fd2706-8baf-433b-82eb-8c7fada847da"], &["16fd2706-8baf-433b-c2eb-8c7fada847da"]),
            ("uuid5", &["886313e1-3b8a-5372-9b90-0c9aee199e5d"], &["886313e1-3b8a-3372-9b90-0c9aee199e5d"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044", "12"]),
            ("isbn10", &["0321751043", "080442957X"], &["978-0321751041"]),
            ("isbn13", &["978-0321751041"], &["0321751043"]),
            ("creditcard", &["4111-1111-1111-1111"], &["4111", "x"]),
            ("ssn", &["111-11-1111", "111 11 1111"], &["1111"]),
            ("hexcolor", &["#FFF", "ffffff"], &["#FFFF", "x"]),
            ("rgbcolor", &["rgb(255,0, 12)"], &["rgb(256,0,0)", "rgb(1,2)"]),
            ("byte", &["aGk=", ""], &["a", "?"]),
            ("password", &["", "x"], &[]),
            ("date", &["2024-02-29"], &["2023-02-29", "20240229", "2024-2-9"]),
            ("duration", &["1h30m", "-1.5s", "22 ns", "3 days", "0"], &["", "1", "h", "1x"]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20+01:00"],
                &["2014-12-15", "2014-12-15T25:00:00Z"],
            ),
            ("k8s-short-name", &["a-b"], &["a.b", "A"]),
        ];
        for (name, good, bad) in cases {
            let format = Format::of(name).unwrap();
            assert_eq!(format.name(), name);
            for text in good {
                assert!(format.fits(text), "{name} {text:?}");
            }
            for text in bad {
                assert!(!format.fits(text), "{name} {text:?}");
            }
        }
        assert!(Format::of("int32").is_none() && Format::of("no-such").is_none());
    }
}
