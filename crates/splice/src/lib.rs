//! Where the members of a JSON object lie in its bytes, and other bytes in their place.
//!
//! Objects are kept as bytes. Reading one field of them, or changing one, costs a pass over the bytes here and some twenty
//! times as much through a tree. [`find`] gives the place of a value, [`set`] a document with another value there.
//!
//! It is no parser: documents come from an encoder, and of one that is malformed a wrong place may be given, never one
//! outside of it. Names are compared as they are written, so that one spelled with escapes is not found.

use std::ops::Range;

/// The value at a path of names, without the space around it; `None` when there is none, or no well-formed document.
///
/// ```
/// let document = br#"{"metadata": {"name": "a"}}"#;
/// assert_eq!(&document[splice::find(document, &["metadata", "name"]).unwrap()], br#""a""#);
/// assert_eq!(splice::find(document, &["metadata", "uid"]), None);
/// ```
pub fn find(document: &[u8], path: &[&str]) -> Option<Range<usize>> {
    let mut scan = Scan { bytes: document, at: 0 };
    for name in path {
        scan.enter(name)?;
    }
    scan.peek()?;
    let start = scan.at;
    scan.skip()?;
    Some(start..scan.at)
}

/// The document with `value` as the value at a path of names; a name that is missing is added to its object, which must be
/// there.
///
/// ```
/// let document = br#"{"metadata":{"name":"a"}}"#;
/// assert_eq!(splice::set(document, &["metadata", "name"], br#""b""#).unwrap(), br#"{"metadata":{"name":"b"}}"#);
/// assert_eq!(splice::set(document, &["metadata", "uid"], b"7").unwrap(), br#"{"metadata":{"uid":7,"name":"a"}}"#);
/// ```
pub fn set(document: &[u8], path: &[&str], value: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::with_capacity(document.len() + value.len() + 32);
    if let Some(place) = find(document, path) {
        whole.extend_from_slice(&document[..place.start]);
        whole.extend_from_slice(value);
        whole.extend_from_slice(&document[place.end..]);
        return Some(whole);
    }
    let (name, parents) = path.split_last()?;
    let parent = find(document, parents)?;
    let mut scan = Scan { bytes: document, at: parent.start };
    scan.expect(b'{')?;
    let start = scan.at;
    let more = scan.peek()? != b'}';
    whole.extend_from_slice(&document[..start]);
    let comma: &[u8] = if more { b"," } else { b"" };
    for part in [b"\"", name.as_bytes(), b"\":", value, comma] {
        whole.extend_from_slice(part);
    }
    whole.extend_from_slice(&document[start..]);
    Some(whole)
}

/// The values of several members of the object at `place`, each found in the one pass over it.
///
/// ```
/// let document = br#"{"metadata": {"uid": "u", "name": "a"}}"#;
/// let metadata = splice::find(document, &["metadata"]).unwrap();
/// let [name, none] = splice::find_each(document, metadata, ["name", "labels"]);
/// assert_eq!((&document[name.unwrap()], none), (&br#""a""#[..], None));
/// ```
pub fn find_each<const N: usize>(document: &[u8], place: Range<usize>, names: [&str; N]) -> [Option<Range<usize>>; N] {
    let mut found = [const { None }; N];
    // what was found before the bytes ceased to be an object stays found, as with `find`
    if let Some(object) = document.get(..place.end) {
        let mut scan = Scan { bytes: object, at: place.start };
        let _ = scan.each(&names, &mut found);
    }
    found
}

/// The places of the values in the list at `place`, in their order; of one that is malformed those in front of the fault.
///
/// ```
/// let document = br#"{"items": [{"a": 1}, 2]}"#;
/// let items = splice::find(document, &["items"]).unwrap();
/// let items: Vec<&[u8]> = splice::items(document, items).map(|place| &document[place]).collect();
/// assert_eq!(items, [&br#"{"a": 1}"#[..], b"2"]);
/// ```
pub fn items(document: &[u8], place: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut scan = Scan { bytes: document.get(..place.end).unwrap_or_default(), at: place.start };
    let mut before = b'[';
    std::iter::from_fn(move || {
        scan.expect(before)?;
        before = b',';
        scan.peek()?;
        let start = scan.at;
        scan.skip()?;
        Some(start..scan.at)
    })
}

/// A value to stand at a place, or what is put in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What it replaces; an empty range replaces nothing.
    pub place: Range<usize>,
    /// The bytes that stand there.
    pub bytes: Vec<u8>,
}

impl Edit {
    /// Puts a member into the object at `object`, which must not have it, in front of all others.
    pub fn adding(document: &[u8], object: Range<usize>, name: &str, value: &[u8]) -> Option<Self> {
        let mut scan = Scan { bytes: document.get(..object.end)?, at: object.start };
        scan.expect(b'{')?;
        let start = scan.at;
        let comma: &[u8] = if scan.peek()? == b'}' { b"" } else { b"," };
        let bytes = [b"\"", name.as_bytes(), b"\":", value, comma].concat();
        Some(Self { place: start..start, bytes })
    }
}

/// The document with each edit made; they must be in the order of their places, which do not overlap. Nothing where they
/// are not.
///
/// ```
/// let document = br#"{"a":1,"b":2}"#;
/// let edits = [splice::Edit { place: 5..6, bytes: b"7".to_vec() }, splice::Edit { place: 11..12, bytes: b"8".to_vec() }];
/// assert_eq!(splice::edited(document, &edits).unwrap(), br#"{"a":7,"b":8}"#);
/// ```
pub fn edited(document: &[u8], edits: &[Edit]) -> Option<Vec<u8>> {
    let added: usize = edits.iter().map(|edit| edit.bytes.len()).sum();
    let mut whole = Vec::with_capacity(document.len() + added);
    let mut at = 0;
    for Edit { place, bytes } in edits {
        whole.extend_from_slice(document.get(at..place.start)?);
        whole.extend_from_slice(bytes);
        at = place.end.max(place.start);
    }
    whole.extend_from_slice(document.get(at..)?);
    Some(whole)
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

    /// Passes into an object, up to the value of that name.
    fn enter(&mut self, name: &str) -> Option<()> {
        self.expect(b'{')?;
        while self.peek()? == b'"' {
            let key = self.string()?;
            self.expect(b':')?;
            if self.bytes[key] == *name.as_bytes() {
                return Some(());
            }
            self.skip()?;
            self.expect(b',')?;
        }
        None
    }

    /// Passes over an object until all of these members are found.
    fn each(&mut self, names: &[&str], found: &mut [Option<Range<usize>>]) -> Option<()> {
        let mut missing = names.len();
        self.expect(b'{')?;
        while missing > 0 && self.peek()? == b'"' {
            let key = self.string()?;
            self.expect(b':')?;
            self.peek()?;
            let start = self.at;
            self.skip()?;
            let name = &self.bytes[key];
            if let Some(at) = names.iter().position(|wanted| wanted.as_bytes() == name)
                && found[at].is_none()
            {
                found[at] = Some(start..self.at);
                missing -= 1;
            }
            self.expect(b',')?;
        }
        Some(())
    }

    /// The place between the quotes of a string.
    fn string(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = behind_string(self.bytes, start)?;
        Some(start..self.at - 1)
    }

    /// Passes over a value.
    fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' | b'[' => self.skip_nested(),
            b',' | b':' | b'}' | b']' => None,
            _ => {
                while self.bytes.get(self.at).is_some_and(|b| !b",:]}".contains(b) && !b.is_ascii_whitespace()) {
                    self.at += 1;
                }
                Some(())
            }
        }
    }

    /// Passes over an object or a list, in which only brackets and strings have to be looked at.
    fn skip_nested(&mut self) -> Option<()> {
        let (bytes, mut at, mut depth) = (self.bytes, self.at, 0usize);
        loop {
            let byte = *bytes.get(at)?;
            at += 1;
            match byte {
                b'"' => at = behind_string(bytes, at)?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at = at;
                        return Some(());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Bytes of a string that are looked at eight at a time. Names and most values are no longer, and for them a call of what
/// is faster for long ones takes longer than the search.
const SHORT: usize = 32;

/// The place behind the string that begins at `start`, which is behind its opening quote.
fn behind_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += quote_or_backslash(bytes.get(at..)?)? + 1;
        if bytes[at - 1] == b'"' {
            return Some(at);
        }
        // whatever is escaped, the byte after the backslash ends nothing
        at += 1;
    }
}

fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    while bytes.len() - rest.len() < SHORT
        && let Some((eight, behind)) = rest.split_first_chunk()
    {
        let eight = u64::from_le_bytes(*eight);
        let hits = zero_bytes(eight ^ each(b'"')) | zero_bytes(eight ^ each(b'\\'));
        if hits != 0 {
            return Some(bytes.len() - rest.len() + hits.trailing_zeros() as usize / 8);
        }
        rest = behind;
    }
    memchr::memchr2(b'"', b'\\', rest).map(|at| bytes.len() - rest.len() + at)
}

/// Eight times the byte.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The highest bit of the lowest byte that is zero; the bits above it mean nothing.
const fn zero_bytes(eight: u64) -> u64 {
    eight.wrapping_sub(each(0x01)) & !eight & each(0x80)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value<'a>(document: &'a str, path: &[&str]) -> Option<&'a str> {
        find(document.as_bytes(), path).map(|place| &document[place])
    }

    #[test]
    fn a_value_is_found_at_its_path_and_nowhere_else() {
        let document = r#"{"data":{"metadata":{"name":""},"x":[1,"\"]}",{"y":null}]},"n":-1.5e3,
            "metadata" : {"labels":{"name":"l"}, "name" : "a", "t": true }}"#;
        assert_eq!(value(document, &["metadata", "name"]), Some("\"a\""));
        assert_eq!(value(document, &["metadata", "labels"]), Some(r#"{"name":"l"}"#));
        assert_eq!(value(document, &["metadata", "t"]), Some("true"));
        assert_eq!(value(document, &["n"]), Some("-1.5e3"));
        assert_eq!(value(document, &["data", "x"]), Some(r#"[1,"\"]}",{"y":null}]"#));
        assert_eq!(value(document, &[]), Some(document));
        assert_eq!(value(document, &["metadata", "uid"]), None);
        assert_eq!(value(document, &["data", "metadata", "name", "x"]), None);
    }

    #[test]
    fn a_value_is_replaced_or_added_in_front() {
        for (document, path, expected) in [
            (r#"{"a":{"b":1},"c":2}"#, &["a", "b"][..], Some(r#"{"a":{"b":7},"c":2}"#)),
            (r#"{"a":{"b":1},"c":2}"#, &["a"], Some(r#"{"a":7,"c":2}"#)),
            (r#"{"a":{"b":1}}"#, &["a", "c"], Some(r#"{"a":{"c":7,"b":1}}"#)),
            (r#"{"a":{}}"#, &["a", "c"], Some(r#"{"a":{"c":7}}"#)),
            (r#"{ "a" : { "b":1 } }"#, &["a", "c"], Some(r#"{ "a" : {"c":7, "b":1 } }"#)),
            (r#"{"a":1}"#, &["a", "c"], None),
            (r#"{"a":1}"#, &["b", "c"], None),
        ] {
            let set = set(document.as_bytes(), path, b"7").map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(set.as_deref(), expected, "{document} {path:?}");
        }
    }

    #[test]
    fn members_are_added_and_replaced_in_one_go() {
        let document = br#"{"a":{"x":1},"b":2,"c":{}}"#;
        let [a, b, c, d] = find_each(document, 0..document.len(), ["a", "b", "c", "d"]);
        assert_eq!(d, None);
        let edits = [
            Edit::adding(document, a.unwrap(), "y", b"7").unwrap(),
            Edit { place: b.unwrap(), bytes: b"[]".to_vec() },
            Edit::adding(document, c.unwrap(), "z", b"8").unwrap(),
        ];
        let expected = br#"{"a":{"y":7,"x":1},"b":[],"c":{"z":8}}"#;
        assert_eq!(edited(document, &edits).as_deref(), Some(&expected[..]));
        let [last, first] = [edits[2].clone(), edits[0].clone()];
        assert_eq!(edited(document, &[last, first]), None, "out of order");
        assert_eq!(Edit::adding(document, 0..1, "z", b"8"), None);
    }

    #[test]
    fn a_string_ends_at_its_quote_however_long_it_is() {
        for length in 0..80 {
            for escape in ["", r#"\""#, r"\\", r"\u0022"] {
                for before in 0..=length {
                    let (a, b) = ("x".repeat(before), "]}\u{a2}\u{dc}".repeat(length - before));
                    let document = format!(r#"{{"a{a}{escape}{b}":["{a}{escape}{b}"],"b":7}}"#);
                    assert_eq!(value(&document, &["b"]), Some("7"), "{document}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for document in
            ["", "k8s\0\n", "[]", "{}", r#"{"a":1}"#, r#"{"metadata":"#, r#"{"metadata"}"#, r#"{"a"#, "\"\\"]
        {
            assert_eq!(find(document.as_bytes(), &["metadata"]), None, "{document}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_gives_places_within_it(text in r#"[{}\[\]",:\\ a1metadata]{0,64}"#) {
            for path in [&["metadata"][..], &["a"], &["a", "a"], &[]] {
                if let Some(place) = find(text.as_bytes(), path) {
                    prop_assert!(place.start <= place.end && place.end <= text.len());
                }
                let _ = set(text.as_bytes(), path, b"1");
            }
            let [a, metadata] = find_each(text.as_bytes(), 0..text.len(), ["a", "metadata"]);
            prop_assert_eq!(a, find(text.as_bytes(), &["a"]), "one pass finds what two find");
            prop_assert_eq!(metadata, find(text.as_bytes(), &["metadata"]));
            for place in items(text.as_bytes(), 0..text.len()) {
                prop_assert!(place.start < place.end && place.end <= text.len());
            }
        }
    }
}
