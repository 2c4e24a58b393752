//! The framing that log segments and checkpoints share.
//!
//! A file starts with a header: magic, format version, checksum, the revision it starts from, and a random salt. Frames
//! follow: magic, payload length, and a checksum over the salt, the length and the payload. The salt makes it
//! impossible to store an object whose bytes look like a frame of the file it lies in.

use std::hash::{BuildHasher, RandomState};

use crate::Revision;

/// The on-disk format this build writes, and the newest it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Bytes of a file header.
pub(crate) const HEADER_LEN: usize = 32;

/// Bytes before a frame's payload.
pub(crate) const FRAME_LEN: usize = 12;

/// First bytes of a frame; none of them is zero, so that preallocated space is never mistaken for one.
const FRAME_MAGIC: [u8; 4] = *b"KFRM";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Log,
    Checkpoint,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            FileKind::Log => *b"KEELLOG\n",
            FileKind::Checkpoint => *b"KEELCKP\n",
        }
    }
}

/// The head of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// A log segment holds what came after this revision, a checkpoint the state at it.
    pub(crate) revision: Revision,
    pub(crate) salt: u64,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// A newer build wrote the file.
    Newer(u32),
    /// Too short, foreign, or damaged.
    Broken(&'static str),
}

impl Header {
    /// A header with a fresh salt.
    pub(crate) fn new(revision: Revision) -> Self {
        Header { revision, salt: RandomState::new().hash_one(revision.0) }
    }

    pub(crate) fn encode(self, kind: FileKind) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&kind.magic());
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.revision.0.to_le_bytes());
        bytes[24..].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], kind: FileKind) -> Result<Self, HeaderFault> {
        let mut bytes = *bytes.first_chunk::<HEADER_LEN>().ok_or(HeaderFault::Broken("shorter than its header"))?;
        if bytes[..8] != kind.magic() {
            return Err(HeaderFault::Broken("not a file of this store"));
        }
        let mut fields = Reader(&bytes[8..]);
        let (version, crc) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
        let (revision, salt) = (fields.u64().unwrap_or(0), fields.u64().unwrap_or(0));
        // The version comes first: a newer format may lay out the rest differently.
        if version > FORMAT_VERSION {
            return Err(HeaderFault::Newer(version));
        }
        bytes[12..16].fill(0);
        if crc32fast::hash(&bytes) != crc {
            return Err(HeaderFault::Broken("checksum of the header does not match"));
        }
        Ok(Header { revision: Revision(revision), salt })
    }
}

/// Reserves a frame's head at the end of `buffer`; the payload is appended next, then [`finish`] is called.
pub(crate) fn begin(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_LEN]);
    start
}

/// Completes the frame that [`begin`] started at `start`.
pub(crate) fn finish(buffer: &mut [u8], start: usize, salt: u64) {
    let (head, payload) = buffer[start..].split_at_mut(FRAME_LEN);
    let len = payload.len() as u32;
    head[..4].copy_from_slice(&FRAME_MAGIC);
    head[4..8].copy_from_slice(&len.to_le_bytes());
    head[8..].copy_from_slice(&checksum(salt, len, payload).to_le_bytes());
}

fn checksum(salt: u64, len: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&len.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// What lies at an offset of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A whole frame.
    Whole { payload: &'a [u8], next: usize },
    /// The end of the file, or space that was never written.
    End,
    /// Anything else.
    Broken(&'static str),
}

/// Reads the frame at `offset`.
pub(crate) fn read(bytes: &[u8], offset: usize, salt: u64) -> Frame<'_> {
    let rest = &bytes[offset.min(bytes.len())..];
    let head = &rest[..rest.len().min(FRAME_LEN)];
    if head.iter().all(|b| *b == 0) {
        return Frame::End;
    }
    let mut fields = Reader(head);
    if fields.take(4) != Some(&FRAME_MAGIC[..]) {
        return Frame::Broken("no record starts here");
    }
    let (Some(len), Some(crc)) = (fields.u32(), fields.u32()) else { return Frame::Broken("record head cut short") };
    let Some(payload) = rest.get(FRAME_LEN..FRAME_LEN + len as usize) else {
        return Frame::Broken("record cut short");
    };
    if checksum(salt, len, payload) != crc {
        return Frame::Broken("checksum of the record does not match");
    }
    Frame::Whole { payload, next: offset + FRAME_LEN + payload.len() }
}

/// Offset of the first whole frame after `offset`: proof that what lies at `offset` was once synced.
pub(crate) fn find_later(bytes: &[u8], offset: usize, salt: u64) -> Option<usize> {
    let from = (offset + 1).min(bytes.len());
    memchr::memmem::find_iter(&bytes[from..], &FRAME_MAGIC)
        .map(|at| from + at)
        .find(|at| matches!(read(bytes, *at, salt), Frame::Whole { .. }))
}

/// Takes little-endian fields off the front of a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string behind its two-byte length.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(usize::from(len))?).ok()
    }

    /// Bytes behind their four-byte length.
    pub(crate) fn blob(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

/// Appends a string behind its two-byte length; the caller keeps it under 64 KiB.
pub(crate) fn put_text(buffer: &mut Vec<u8>, text: &str) {
    buffer.extend_from_slice(&(text.len() as u16).to_le_bytes());
    buffer.extend_from_slice(text.as_bytes());
}

/// Appends bytes behind their four-byte length.
pub(crate) fn put_blob(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(payloads: &[&[u8]], salt: u64) -> Vec<u8> {
        let mut buffer = Vec::new();
        for payload in payloads {
            let start = begin(&mut buffer);
            buffer.extend_from_slice(payload);
            finish(&mut buffer, start, salt);
        }
        buffer
    }

    #[test]
    fn header_survives_and_names_what_is_wrong() {
        let header = Header::new(Revision(7));
        let bytes = header.encode(FileKind::Log);
        assert_eq!(Header::decode(&bytes, FileKind::Log), Ok(header));
        assert!(matches!(Header::decode(&bytes, FileKind::Checkpoint), Err(HeaderFault::Broken(_))));
        assert!(matches!(Header::decode(&bytes[..9], FileKind::Log), Err(HeaderFault::Broken(_))));
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(Header::decode(&newer, FileKind::Log), Err(HeaderFault::Newer(9)));
        let mut damaged = bytes;
        damaged[20] ^= 1;
        assert!(matches!(Header::decode(&damaged, FileKind::Log), Err(HeaderFault::Broken(_))));
    }

    #[test]
    fn every_single_bit_flip_in_a_frame_is_noticed() {
        let bytes = framed(&[b"payload"], 3);
        assert!(matches!(read(&bytes, 0, 3), Frame::Whole { payload: b"payload", .. }));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(read(&damaged, 0, 3), Frame::Broken(_)), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_salt_is_no_frame() {
        let inner = framed(&[b"inner"], 4);
        let outer = framed(&[&inner], 3);
        assert_eq!(find_later(&outer, 0, 3), None);
        let two = framed(&[b"one", b"two"], 3);
        assert_eq!(find_later(&two, 0, 3), Some(FRAME_LEN + 3));
    }
}
