//! One line of a CRI log: `2026-01-02T03:04:05.678901234Z stdout F text`.

/// The stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// A parsed line, without its line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) time: &'a str,
    pub(crate) source: Source,
    /// The container's line goes on in the next record.
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

/// Parses a record; `None` when it is not one, which a crash can leave at the end of a file.
pub(crate) fn parse(record: &[u8]) -> Option<Line<'_>> {
    let mut fields = record.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let source = match fields.next()? {
        b"stdout" => Source::Stdout,
        b"stderr" => Source::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is whole.
    let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Line { time, source, partial, text: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_parse_or_are_refused() {
        let line = parse(b"2026-01-02T03:04:05.6Z stderr P:x some text ").unwrap();
        assert_eq!(
            line,
            Line { time: "2026-01-02T03:04:05.6Z", source: Source::Stderr, partial: true, text: b"some text " }
        );
        assert_eq!(parse(b"t stdout F ").unwrap().text, b"");
        for broken in [&b""[..], b"t stdin F x", b"t stdout X x", b"t stdout", b"\xff stdout F x"] {
            assert_eq!(parse(broken), None);
        }
    }
}
