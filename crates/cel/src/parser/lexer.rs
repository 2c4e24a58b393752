//! Source text as tokens.

use std::sync::Arc;

use crate::issue::Issue;
use crate::value::Value;

/// A token and where it is.
#[derive(Clone, Debug)]
pub(super) struct Token<'s> {
    pub(super) kind: TokenKind<'s>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a token is.
#[derive(Clone, Debug)]
pub(super) enum TokenKind<'s> {
    Ident(&'s str),
    /// Between backticks: any name, as a field only.
    Quoted(&'s str),
    /// Digits, possibly hexadecimal.
    Int(&'s str),
    Uint(&'s str),
    Double(&'s str),
    /// Text or bytes.
    Literal(Value<'static>),
    /// Operators, punctuation, and the words `in`, `true`, `false`, `null`.
    Symbol(&'static str),
    End,
}

/// Longest first.
const SYMBOLS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];
pub(super) const WORDS: [&str; 4] = ["in", "true", "false", "null"];

/// All tokens of a source, the last of which is [`TokenKind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token<'_>>, Issue> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        let kind = lexer.token()?;
        let end = matches!(kind, TokenKind::End);
        tokens.push(Token { kind, start, end: lexer.at });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']).len();
            self.at += blank;
            if self.rest().starts_with("//") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if blank == 0 {
                return;
            }
        }
    }

    fn take(&mut self, bytes: usize) -> &'s str {
        let text = &self.rest()[..bytes];
        self.at += bytes;
        text
    }

    fn unrecognised(&self, bytes: usize) -> Issue {
        let text = self.rest().get(..bytes).unwrap_or(self.rest());
        Issue { position: self.at, text: format!("Syntax error: token recognition error at: '{text}'") }
    }

    fn token(&mut self) -> Result<TokenKind<'s>, Issue> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(TokenKind::End) };
        if let Some(literal) = self.text_literal()? {
            return Ok(TokenKind::Literal(literal));
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let word = self.take(end);
            return Ok(match WORDS.iter().find(|own| **own == word) {
                Some(word) => TokenKind::Symbol(word),
                None => TokenKind::Ident(word),
            });
        }
        if first.is_ascii_digit() || (first == '.' && self.byte(1).is_ascii_digit()) {
            return Ok(self.number());
        }
        if first == '`' {
            let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && !"_.-/ ".contains(c));
            return match end {
                Some(end) if end > 0 && rest[1 + end..].starts_with('`') => {
                    let name = &rest[1..=end];
                    self.at += end + 2;
                    Ok(TokenKind::Quoted(name))
                }
                end => Err(self.unrecognised(end.map_or(rest.len(), |end| end + 1))),
            };
        }
        match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            Some(symbol) => {
                self.at += symbol.len();
                Ok(TokenKind::Symbol(symbol))
            }
            None => Err(self.unrecognised(first.len_utf8())),
        }
    }

    fn number(&mut self) -> TokenKind<'s> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let unsigned = |lexer: &mut Self, digits: usize| {
            let text = lexer.take(digits);
            if matches!(lexer.byte(0), b'u' | b'U') {
                lexer.at += 1;
                TokenKind::Uint(text)
            } else {
                TokenKind::Int(text)
            }
        };
        let run = |from: usize, is: fn(&u8) -> bool| bytes[from..].iter().take_while(|byte| is(byte)).count();
        if bytes.len() > 2 && bytes[0] == b'0' && matches!(bytes[1], b'x' | b'X') && bytes[2].is_ascii_hexdigit() {
            return unsigned(self, 2 + run(2, u8::is_ascii_hexdigit));
        }
        let whole = run(0, u8::is_ascii_digit);
        let mut end = whole;
        if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            end += 1 + run(end + 1, u8::is_ascii_digit);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                end += 1 + sign + run(end + 1 + sign, u8::is_ascii_digit);
            }
        }
        if end == whole { unsigned(self, whole) } else { TokenKind::Double(self.take(end)) }
    }

    /// Text or bytes, raw or not, in one or three quotes.
    fn text_literal(&mut self) -> Result<Option<Value<'static>>, Issue> {
        let mut ahead = 0;
        let bytes = matches!(self.byte(ahead), b'b' | b'B');
        ahead += usize::from(bytes);
        let raw = matches!(self.byte(ahead), b'r' | b'R');
        ahead += usize::from(raw);
        let quote = self.byte(ahead);
        if !matches!(quote, b'"' | b'\'') {
            return Ok(None);
        }
        let start = self.at;
        let triple = self.byte(ahead + 1) == quote && self.byte(ahead + 2) == quote;
        let marks = if triple { 3 } else { 1 };
        let body = &self.rest()[ahead + marks..];
        let Some(length) = closing(body, quote, triple, raw) else { return Err(self.unrecognised(usize::MAX)) };
        let body = &body[..length];
        self.at += ahead + marks + length + marks;
        let malformed = |text: &str| Issue { position: start, text: text.to_owned() };
        let content = if raw {
            body.replace("\r\n", "\n").into_bytes()
        } else {
            unescape(body, bytes).ok_or_else(|| malformed("unable to unescape string"))?
        };
        if bytes {
            return Ok(Some(Value::Bytes(content.into())));
        }
        let content = String::from_utf8(content).map_err(|_| malformed("invalid UTF-8 string"))?;
        Ok(Some(Value::String(crate::Str::Shared(Arc::from(content)))))
    }
}

/// Length of a literal's body, up to its closing quotes.
fn closing(body: &str, quote: u8, triple: bool, raw: bool) -> Option<usize> {
    let bytes = body.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'\\' && !raw {
            at += 1;
        } else if byte == quote && (!triple || bytes[at..].starts_with(&[quote; 3])) {
            return Some(at);
        } else if !triple && matches!(byte, b'\n' | b'\r') {
            return None;
        }
        at += 1;
    }
    None
}

/// A body with its escapes resolved. In bytes, `\x` and octal escapes are bytes and code points have no escapes.
fn unescape(body: &str, bytes: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        if c == '\r' && chars.as_str().starts_with('\n') {
            continue;
        }
        if c != '\\' {
            push(c);
            continue;
        }
        let escape = chars.next()?;
        let (digits, radix, skip) = match escape {
            'a' => {
                push('\u{7}');
                continue;
            }
            'b' => {
                push('\u{8}');
                continue;
            }
            'f' => {
                push('\u{c}');
                continue;
            }
            'n' => {
                push('\n');
                continue;
            }
            'r' => {
                push('\r');
                continue;
            }
            't' => {
                push('\t');
                continue;
            }
            'v' => {
                push('\u{b}');
                continue;
            }
            '\\' | '?' | '"' | '\'' | '`' => {
                push(escape);
                continue;
            }
            'x' | 'X' => (2, 16, 0),
            'u' if !bytes => (4, 16, 0),
            'U' if !bytes => (8, 16, 0),
            '0'..='3' => (3, 8, 1),
            _ => return None,
        };
        let text = if skip == 1 { &body[body.len() - chars.as_str().len() - 1..] } else { chars.as_str() };
        let text = text.get(..digits)?;
        if !text.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        let code = u32::from_str_radix(text, radix).ok()?;
        if bytes {
            out.push(u8::try_from(code).ok()?);
        } else {
            push(char::from_u32(code)?);
        }
        for _ in skip..digits {
            chars.next();
        }
    }
    Some(out)
}
