//! RESP, the protocol of Redis, as far as a store needs it: commands out, simple replies in.

/// Bytes of a string in a reply, at most: an answer with its headers.
const STRING_BYTES_MAX: usize = 80 << 20;

/// Bytes of a line, at most: errors are a sentence.
const LINE_BYTES_MAX: usize = 4096;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A word, such as `OK`.
    Simple(String),
    /// Why it did not.
    Error(String),
    Integer(i64),
    /// Bytes, or nothing.
    Bulk(Option<Vec<u8>>),
}

/// What a server says is no RESP, or not what a store asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reply is not in the protocol of Redis")]
pub(super) struct NoReply;

/// Writes a command.
pub(super) fn encode(command: &[&[u8]], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for word in command {
        into.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        into.extend_from_slice(word);
        into.extend_from_slice(b"\r\n");
    }
}

/// Reads the reply that bytes begin with, and how long it is; `None` until all of it is there.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NoReply> {
    let Some((kind, rest)) = bytes.split_first() else { return Ok(None) };
    let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\r') else {
        return if rest.len() < LINE_BYTES_MAX { Ok(None) } else { Err(NoReply) };
    };
    match rest.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(NoReply),
    }
    let line = std::str::from_utf8(&rest[..end]).map_err(|_| NoReply)?;
    let after = 1 + end + 2;
    match kind {
        b'+' => Ok(Some((Reply::Simple(line.to_owned()), after))),
        b'-' => Ok(Some((Reply::Error(line.to_owned()), after))),
        b':' => Ok(Some((Reply::Integer(line.parse().map_err(|_| NoReply)?), after))),
        b'$' if line == "-1" => Ok(Some((Reply::Bulk(None), after))),
        b'$' => {
            let length: usize = line.parse().map_err(|_| NoReply)?;
            if length > STRING_BYTES_MAX {
                return Err(NoReply);
            }
            let Some(string) = bytes.get(after..after + length + 2) else { return Ok(None) };
            match string.split_at(length) {
                (string, b"\r\n") => Ok(Some((Reply::Bulk(Some(string.to_vec())), after + length + 2))),
                _ => Err(NoReply),
            }
        }
        _ => Err(NoReply),
    }
}

/// Reads arbitrary bytes as replies, for fuzzing: a reply is as long as it says, and is there only when all of it is.
#[doc(hidden)]
pub fn fuzz_replies(mut bytes: &[u8]) {
    while let Ok(Some((reply, length))) = decode(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(decode(&bytes[..length]), Ok(Some((reply, length))));
        assert_ne!(decode(&bytes[..length - 1]).map(|reply| reply.map(|(_, length)| length)), Ok(Some(length)));
        bytes = &bytes[length..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_read_once_they_are_whole() {
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], Reply::Simple("OK".into())),
            (b"-ERR no\r\n", Reply::Error("ERR no".into())),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", Reply::Bulk(Some(Vec::new()))),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb".to_vec()))),
        ] {
            assert_eq!(decode(bytes), Ok(Some((reply, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
        }
        for bytes in [
            &b"hello\r\n"[..],
            b"*1\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b":1x\r\n",
            b"$1\r\nab\r\n",
            b"+a\rb",
            b"$99999999999\r\n",
        ] {
            assert_eq!(decode(bytes), Err(NoReply), "{bytes:?}");
        }
        assert_eq!(decode(&[b'+'; LINE_BYTES_MAX + 1]), Err(NoReply));
        let mut command = Vec::new();
        encode(&[b"SET", b"k", b""], &mut command);
        assert_eq!(command, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in "[-+:$*\r\n0-9a-c]{0,60}") {
            fuzz_replies(bytes.as_bytes());
        }
    }
}
