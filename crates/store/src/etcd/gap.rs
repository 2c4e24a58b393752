//! Where an object's revision goes. etcd decides the revision, so what lies there cannot carry it; it is put into
//! `metadata.resourceVersion` when the object comes back. This is the one place where the store looks into an object.

use bytes::Bytes;

/// Where the digits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// Between these offsets, within the quotes of `resourceVersion`.
    Between(usize, usize),
    /// Here, behind the brace of `metadata`, which has no `resourceVersion`; whether more follows in it.
    Missing { at: usize, more: bool },
}

/// The object with the revision in its place; `None` when it is no JSON object with metadata.
pub(super) fn complete(stored: &[u8], revision: u64) -> Option<Bytes> {
    let mut whole = Vec::with_capacity(stored.len() + 48);
    let (rest, before, after) = match find(stored)? {
        Gap::Between(start, end) => {
            whole.extend_from_slice(&stored[..start]);
            (end, "", "")
        }
        Gap::Missing { at, more } => {
            whole.extend_from_slice(&stored[..at]);
            (at, "\"resourceVersion\":\"", if more { "\"," } else { "\"" })
        }
    };
    whole.extend_from_slice(before.as_bytes());
    whole.extend_from_slice(revision.to_string().as_bytes());
    whole.extend_from_slice(after.as_bytes());
    whole.extend_from_slice(&stored[rest..]);
    Some(whole.into())
}

fn find(stored: &[u8]) -> Option<Gap> {
    let mut scan = Scan { bytes: stored, at: 0 };
    scan.expect(b'{')?;
    while scan.peek()? == b'"' {
        let key = scan.string()?;
        scan.expect(b':')?;
        if stored[key.0..key.1] == *b"metadata" {
            return scan.metadata();
        }
        scan.skip()?;
        scan.comma();
    }
    None
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn comma(&mut self) {
        let _ = self.expect(b',');
    }

    /// The offsets between the quotes of a string.
    fn string(&mut self) -> Option<(usize, usize)> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let found = memchr::memchr2(b'"', b'\\', self.bytes.get(self.at..)?)?;
            self.at += found + 1;
            if self.bytes[self.at - 1] == b'"' {
                return Some((start, self.at - 1));
            }
            // whatever is escaped, the byte after the backslash ends nothing
            self.at += 1;
        }
    }

    /// Passes over a value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b',' | b':' => return None,
                _ => {
                    while self.bytes.get(self.at).is_some_and(|b| !b",:]}".contains(b) && !b.is_ascii_whitespace()) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn metadata(&mut self) -> Option<Gap> {
        self.expect(b'{')?;
        let start = self.at;
        if self.peek()? == b'}' {
            return Some(Gap::Missing { at: start, more: false });
        }
        while self.peek()? == b'"' {
            let key = self.string()?;
            self.expect(b':')?;
            if self.bytes[key.0..key.1] == *b"resourceVersion" {
                let (from, to) = self.string()?;
                return Some(Gap::Between(from, to));
            }
            self.skip()?;
            self.comma();
        }
        Some(Gap::Missing { at: start, more: true })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_revision_goes_into_the_metadata_and_nowhere_else() {
        for (stored, whole) in [
            (
                r#"{"kind":"A","metadata":{"resourceVersion":"","name":"a"}}"#,
                r#"{"kind":"A","metadata":{"resourceVersion":"7","name":"a"}}"#,
            ),
            (
                r#"{"metadata":{"name":"a","resourceVersion":"123"},"x":1}"#,
                r#"{"metadata":{"name":"a","resourceVersion":"7"},"x":1}"#,
            ),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (r#"{ "metadata" : { "name":"a" } }"#, r#"{ "metadata" : {"resourceVersion":"7", "name":"a" } }"#),
            (
                r#"{"data":{"metadata":{"resourceVersion":""},"x":[1,"\"]}",{"y":null}]},"n":-1.5e3,"metadata":{"labels":{"resourceVersion":"l"},"name":"a"}}"#,
                r#"{"data":{"metadata":{"resourceVersion":""},"x":[1,"\"]}",{"y":null}]},"n":-1.5e3,"metadata":{"resourceVersion":"7","labels":{"resourceVersion":"l"},"name":"a"}}"#,
            ),
        ] {
            assert_eq!(complete(stored.as_bytes(), 7).unwrap(), whole.as_bytes(), "{stored}");
        }
    }

    #[test]
    fn what_is_no_object_with_metadata_is_refused() {
        for stored in ["", "k8s\0\n", "[]", "{}", r#"{"a":1}"#, r#"{"metadata":"#, r#"{"metadata":1}"#, r#"{"a"#] {
            assert_eq!(complete(stored.as_bytes(), 7), None, "{stored}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in r#"[{}\[\]",:\\ a1metadata]{0,64}"#) {
            let _ = complete(text.as_bytes(), 7);
        }
    }
}
