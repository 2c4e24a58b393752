//! The files of a log: segments of framed records, written at the end of the newest one.
//!
//! A frame is the length of its record, a checksum, and the record. What a crash cut short is a frame whose checksum does
//! not match; the segment ends there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::record::HEAD_BYTES;

/// First bytes of a segment: what it is, and in which format.
const MAGIC: &[u8; 16] = b"KEELSON-IDEMP\0\0\x01";

/// Bytes before a record.
pub(super) const FRAME_BYTES: usize = 8;

/// No record is larger: the largest answer and its headers.
const RECORD_BYTES_MAX: usize = 80 << 20;

/// How a segment is called.
const SUFFIX: &str = ".idempotency";

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// With its frame.
    pub(super) length: u32,
}

/// A file of records.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    path: PathBuf,
    pub(super) bytes: u64,
}

impl Segment {
    /// A new one.
    pub(super) fn create(directory: &Path, number: u64) -> io::Result<Segment> {
        let path = directory.join(format!("{number:020}{SUFFIX}"));
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.write_all(MAGIC)?;
        file.sync_all()?;
        // Its name must be there after a crash too.
        File::open(directory)?.sync_all()?;
        Ok(Segment { number, file: Arc::new(file), path, bytes: MAGIC.len() as u64 })
    }

    /// Those of a directory, the oldest first.
    pub(super) fn all(directory: &Path) -> io::Result<Vec<Segment>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
            let Some(number) = name.and_then(|name| name.parse().ok()) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let bytes = file.metadata()?.len();
            segments.push(Segment { number, file: Arc::new(file), path, bytes });
        }
        segments.sort_by_key(|segment: &Segment| segment.number);
        Ok(segments)
    }

    /// Tells of every record; what follows the last whole one is cut off.
    pub(super) fn scan(&mut self, mut told: impl FnMut(Place, &[u8])) -> io::Result<()> {
        let bytes = fs::read(&self.path)?;
        let mut at = match bytes.starts_with(MAGIC) {
            true => MAGIC.len(),
            // A crash came before the file was one.
            false if MAGIC.starts_with(&bytes) => return self.restart(),
            false => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a log of idempotency keys")),
        };
        while let Some(record) = record(&bytes[at..]) {
            let length = (FRAME_BYTES + record.len()) as u32;
            told(Place { segment: self.number, offset: at as u64, length }, record);
            at += FRAME_BYTES + record.len();
        }
        if at < bytes.len() {
            self.file.set_len(at as u64)?;
            self.file.sync_all()?;
        }
        self.bytes = at as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.write_all_at(MAGIC, 0)?;
        self.file.sync_all()?;
        self.bytes = MAGIC.len() as u64;
        Ok(())
    }

    /// Appends frames and waits until the disk has them. After a failure the next ones overwrite what was left.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<u64> {
        let at = self.bytes;
        self.file.write_all_at(frames, at)?;
        self.file.sync_data()?;
        self.bytes += frames.len() as u64;
        Ok(at)
    }

    /// Deletes the file; who reads from it still can.
    pub(super) fn delete(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Reads the record at a place.
pub(super) fn read(file: &File, place: Place) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; place.length as usize];
    file.read_exact_at(&mut frame, place.offset)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a record's checksum does not match");
    record(&frame).map(<[u8]>::to_vec).ok_or_else(broken)
}

/// Frames a record, which `write` appends.
pub(super) fn frame(into: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend_from_slice(&[0; FRAME_BYTES]);
    write(into);
    let (head, record) = into[start..].split_at_mut(FRAME_BYTES);
    let length = record.len() as u32;
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&checksum(length, record).to_le_bytes());
}

/// The record that bytes begin with; `None` when there is no whole one.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    if !(HEAD_BYTES..=RECORD_BYTES_MAX).contains(&(length as usize)) {
        return None;
    }
    let record = rest.get(..length as usize)?;
    (u32::from_le_bytes(*crc) == checksum(length, record)).then_some(record)
}

fn checksum(length: u32, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(record);
    hasher.finalize()
}
