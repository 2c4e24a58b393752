//! Regular expressions as the reference implementation writes them: RE2's syntax, brought into the syntax of the `regex`
//! crates, which differ in details that change what matches.
//!
//! `\d`, `\w`, `\s` and `\b` mean ASCII; `[` stands for itself in a class, and classes have no operators; `{` stands for
//! itself where no repetition follows; `\Q…\E` and octal numbers are known, `\u` and `\<` are not; repetitions do not nest
//! and end at 1000. Mistakes are told in the reference's words.

mod class;

pub use regex::Regex;

/// Memory that one compiled regular expression may take; the reference bounds program size likewise.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// The highest count of a repetition.
const REPEAT_MAX: u32 = 1000;
/// A word boundary of ASCII.
const BOUNDARY: &str = r"(?-u:\b)";

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {what}: `{fragment}`")]
pub struct SyntaxError {
    what: &'static str,
    fragment: String,
}

impl SyntaxError {
    fn new(what: &'static str, fragment: &str) -> Self {
        Self { what, fragment: fragment.to_owned() }
    }

    /// Of a pattern whose program would be too large.
    pub fn too_large(pattern: &str) -> Self {
        Self::new("expression too large", pattern)
    }
}

/// A pattern in the syntax of the `regex` crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    text: String,
    names_classes: bool,
}

impl Translation {
    /// The pattern for a crate that knows of ASCII only; `None` where it names classes of Unicode.
    pub fn ascii(&self) -> Option<String> {
        // nothing else translates to this text: the flag is none of the syntax
        (!self.names_classes).then(|| self.text.replace(BOUNDARY, r"\b"))
    }
}

/// Compiles a pattern.
///
/// # Errors
/// It is none, or its program is too large.
pub fn compile(pattern: &str) -> Result<Regex, SyntaxError> {
    let translated = translate(pattern)?;
    let built = regex::RegexBuilder::new(&translated.text).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => SyntaxError::too_large(pattern),
        // what is left is a name of a class that nobody knows, or of a group that is there twice
        _ => SyntaxError::new("invalid pattern", pattern),
    })
}

/// Brings a pattern into the syntax of the `regex` crates.
///
/// # Errors
/// It is none.
pub fn translate(pattern: &str) -> Result<Translation, SyntaxError> {
    let mut walk = Walk {
        pattern,
        rest: pattern,
        out: String::with_capacity(pattern.len()),
        depth: 0,
        before: Before::Nothing,
        names_classes: false,
    };
    while let Some(next) = walk.rest.chars().next() {
        walk.step(next)?;
    }
    if walk.depth > 0 {
        return Err(SyntaxError::new("missing closing )", pattern));
    }
    Ok(Translation { text: walk.out, names_classes: walk.names_classes })
}

/// What stands before, as far as repetitions care.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before<'p> {
    Nothing,
    Something,
    /// A repetition, and the pattern from there on.
    Repetition(&'p str),
}

struct Walk<'p> {
    pattern: &'p str,
    rest: &'p str,
    out: String,
    /// Open groups.
    depth: usize,
    before: Before<'p>,
    names_classes: bool,
}

impl<'p> Walk<'p> {
    /// Takes `bytes` bytes.
    fn take(&mut self, bytes: usize) -> &'p str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    /// What was taken since `start`.
    fn since(&self, start: &'p str) -> &'p str {
        &start[..start.len() - self.rest.len()]
    }

    fn step(&mut self, next: char) -> Result<(), SyntaxError> {
        match next {
            '(' => self.open()?,
            ')' => {
                if self.depth == 0 {
                    return Err(SyntaxError::new("unexpected )", self.pattern));
                }
                self.depth -= 1;
                self.keep_one();
                self.before = Before::Something;
            }
            '|' => {
                self.keep_one();
                self.before = Before::Nothing;
            }
            '*' | '+' | '?' => self.repeat(1)?,
            '{' => match counts(self.rest) {
                Some((bytes, counts)) => {
                    let fragment = &self.rest[..bytes];
                    if !counts.fit() {
                        return Err(SyntaxError::new("invalid repeat count", fragment));
                    }
                    self.repeat(bytes)?;
                }
                None => {
                    self.take(1);
                    self.literal('{');
                }
            },
            '[' => self.class()?,
            '\\' => self.escape()?,
            _ => {
                self.keep(next.len_utf8());
                self.before = Before::Something;
            }
        }
        Ok(())
    }

    /// Takes `bytes` bytes over as they are.
    fn keep(&mut self, bytes: usize) {
        let text = self.take(bytes);
        self.out.push_str(text);
    }

    fn keep_one(&mut self) {
        let text = self.take_one();
        self.out.push_str(text);
    }

    fn take_one(&mut self) -> &'p str {
        let bytes = self.rest.chars().next().map_or(0, char::len_utf8);
        self.take(bytes)
    }

    fn literal(&mut self, char: char) {
        if char.is_ascii() && !char.is_ascii_alphanumeric() {
            self.out.push_str(&format!("\\x{{{:X}}}", char as u32));
        } else {
            self.out.push(char);
        }
        self.before = Before::Something;
    }

    /// A repetition of `bytes` bytes, and the `?` behind it that makes it lazy.
    fn repeat(&mut self, bytes: usize) -> Result<(), SyntaxError> {
        let start = self.rest;
        let operator = self.take(bytes);
        self.out.push_str(operator);
        if self.rest.starts_with('?') {
            self.keep_one();
        }
        match self.before {
            Before::Nothing => {
                return Err(SyntaxError::new("missing argument to repetition operator", self.since(start)));
            }
            Before::Repetition(first) => {
                return Err(SyntaxError::new("invalid nested repetition operator", self.since(first)));
            }
            Before::Something => self.before = Before::Repetition(start),
        }
        Ok(())
    }

    /// A group, or flags for what follows.
    fn open(&mut self) -> Result<(), SyntaxError> {
        let start = self.rest;
        self.take(1);
        if !self.rest.starts_with('?') {
            self.out.push('(');
            self.depth += 1;
            self.before = Before::Nothing;
            return Ok(());
        }
        self.take(1);
        for name in ["P<", "<"] {
            if let Some(rest) = self.rest.strip_prefix(name) {
                let Some(end) = rest.find('>') else {
                    return Err(SyntaxError::new("invalid named capture", start));
                };
                let given = &rest[..end];
                self.take(name.len() + end + 1);
                if given.is_empty() || !given.chars().all(|char| char.is_ascii_alphanumeric() || char == '_') {
                    return Err(SyntaxError::new("invalid named capture", self.since(start)));
                }
                self.out.push_str(&format!("(?P<{given}>"));
                self.depth += 1;
                self.before = Before::Nothing;
                return Ok(());
            }
        }
        self.flags(start)
    }

    fn flags(&mut self, start: &'p str) -> Result<(), SyntaxError> {
        let (mut negated, mut any) = (false, false);
        loop {
            let flag = self.take_one();
            match flag {
                "i" | "m" | "s" | "U" => any = true,
                "-" if !negated => (negated, any) = (true, false),
                ":" | ")" if !negated || any => {
                    let text = self.since(start);
                    self.out.push_str(text);
                    if flag == ":" {
                        self.depth += 1;
                        self.before = Before::Nothing;
                    }
                    return Ok(());
                }
                _ => return Err(SyntaxError::new("invalid or unsupported Perl syntax", self.since(start))),
            }
        }
    }

    /// What follows a backslash outside of a class.
    fn escape(&mut self) -> Result<(), SyntaxError> {
        let kind = self.rest.chars().nth(1);
        match kind {
            Some('A' | 'z' | 'B') => {
                self.keep(2);
            }
            Some('b') => {
                self.take(2);
                self.out.push_str(BOUNDARY);
            }
            Some('Q') => {
                self.take(2);
                let end = self.rest.find("\\E");
                for char in self.take(end.unwrap_or(self.rest.len())).chars() {
                    self.literal(char);
                }
                self.take(if end.is_some() { 2 } else { 0 });
                return Ok(());
            }
            Some('p' | 'P') => {
                let class = self.unicode_class()?;
                self.out.push_str(&class);
            }
            Some(kind) if let Some(set) = class::perl(kind) => {
                self.take(2);
                self.out.push_str(&format!("[{set}]"));
            }
            _ => {
                let char = self.escaped_char()?;
                self.literal(char);
            }
        }
        self.before = Before::Something;
        Ok(())
    }

    /// A character that is written with a backslash.
    fn escaped_char(&mut self) -> Result<char, SyntaxError> {
        let start = self.rest;
        self.take(1);
        let Some(kind) = self.rest.chars().next() else {
            return Err(SyntaxError::new("trailing backslash at end of expression", ""));
        };
        self.take(kind.len_utf8());
        let invalid = |walk: &Self| SyntaxError::new("invalid escape sequence", walk.since(start));
        let next_is_octal = || self.rest.starts_with(|char: char| ('0'..='7').contains(&char));
        Ok(match kind {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' => return self.hexadecimal().ok_or_else(|| invalid(self)),
            // a digit by itself would be a reference to a group, which there are none of
            '1'..='7' if !next_is_octal() => return Err(invalid(self)),
            '0'..='7' => {
                let mut value = kind as u32 - '0' as u32;
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().filter(|char| ('0'..='7').contains(char)) else { break };
                    value = value * 8 + (digit as u32 - '0' as u32);
                    self.take(1);
                }
                return char::from_u32(value).ok_or_else(|| invalid(self));
            }
            kind if kind.is_ascii() && !kind.is_ascii_alphanumeric() => kind,
            _ => return Err(invalid(self)),
        })
    }

    /// Two hexadecimal digits, or any number of them in braces.
    fn hexadecimal(&mut self) -> Option<char> {
        let digits = match self.rest.strip_prefix('{') {
            Some(rest) => {
                let end = rest.find('}')?;
                let digits = &rest[..end];
                self.take(end + 2);
                digits
            }
            None => {
                self.rest.get(..2)?;
                self.take(2)
            }
        };
        let is_hexadecimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hexadecimal.then(|| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)).flatten()
    }
}

/// Bounds of a repetition in braces.
struct Counts {
    min: u32,
    /// `None` where there is none.
    max: Option<u32>,
}

impl Counts {
    fn fit(&self) -> bool {
        self.min <= REPEAT_MAX && self.max.is_none_or(|max| max <= REPEAT_MAX && self.min <= max)
    }
}

/// A repetition in braces at the beginning of a text, and its length; whatever else stands in braces is text.
fn counts(text: &str) -> Option<(usize, Counts)> {
    let end = text.find('}')?;
    let inner = &text[1..end];
    // too long for a number is too high a number
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_padded = digits.len() > 1 && digits.starts_with('0');
        (is_number && !is_padded).then(|| digits.parse().unwrap_or(u32::MAX))
    };
    let counts = match inner.split_once(',') {
        None => Counts { min: number(inner)?, max: number(inner) },
        Some((min, "")) => Counts { min: number(min)?, max: None },
        Some((min, max)) => Counts { min: number(min)?, max: Some(number(max)?) },
    };
    Some((end + 1, counts))
}

#[cfg(test)]
mod tests;
