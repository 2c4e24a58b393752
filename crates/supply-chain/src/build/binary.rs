//! What an executable says about itself in its ELF header.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::BuildError;

/// Bytes read from an executable: the ELF header, the program headers and the loader's path all lie there.
const HEAD_MAX: u64 = 64 * 1024;
const MACHINE_AMD64: u16 = 62;
const MACHINE_ARM64: u16 = 183;
/// The program header that names a loader.
const PT_INTERP: u32 = 3;

/// The architecture of a static executable, by its name in images.
pub(super) fn architecture(path: &Path) -> Result<&'static str, BuildError> {
    let mut head = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(HEAD_MAX).read_to_end(&mut head));
    opened.map_err(|source| BuildError::Io { action: "read", path: path.to_owned(), source })?;
    let elf = Elf::read(&head).ok_or_else(|| BuildError::NotExecutable(path.to_owned()))?;
    match elf.interpreter {
        Some(interpreter) => Err(BuildError::Dynamic { path: path.to_owned(), interpreter }),
        None => Ok(elf.architecture),
    }
}

/// The architecture of this machine.
pub(super) fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Where an executable goes in the image.
pub(super) fn image_path(path: &Path) -> Result<String, BuildError> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(format!("/{}", name.ok_or_else(|| BuildError::NotExecutable(path.to_owned()))?))
}

#[derive(Debug, PartialEq, Eq)]
struct Elf {
    architecture: &'static str,
    interpreter: Option<String>,
}

impl Elf {
    /// Reads a 64-bit little-endian executable.
    fn read(head: &[u8]) -> Option<Self> {
        if head.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
            return None;
        }
        let architecture = match u16_at(head, 18)? {
            MACHINE_AMD64 => "amd64",
            MACHINE_ARM64 => "arm64",
            _ => return None,
        };
        let table = usize::try_from(u64_at(head, 32)?).ok()?;
        let (entry_len, entries) = (usize::from(u16_at(head, 54)?), usize::from(u16_at(head, 56)?));
        let interpreter = (0..entries).find_map(|index| {
            let header = head.get(table.checked_add(index * entry_len)?..)?;
            if u32_at(header, 0)? != PT_INTERP {
                return None;
            }
            let start = usize::try_from(u64_at(header, 8)?).ok()?;
            let length = usize::try_from(u64_at(header, 32)?).ok()?;
            let name = head.get(start..start.checked_add(length)?).unwrap_or(b"a loader");
            Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
        });
        Some(Self { architecture, interpreter })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 64..256)) {
            bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
            bytes[18..20].copy_from_slice(&MACHINE_AMD64.to_le_bytes());
            prop_assert!(Elf::read(&bytes).is_some());
        }
    }

    /// An ELF header with one program header.
    fn elf(machine: u16, program: u32) -> Vec<u8> {
        let mut head = vec![0; 64 + 56];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64..68].copy_from_slice(&program.to_le_bytes());
        head[72] = 120;
        head[96] = 7;
        head.extend_from_slice(b"/lib/x\0");
        head
    }

    #[test]
    fn architecture_and_loader_come_from_the_header() {
        assert_eq!(Elf::read(&elf(62, 1)), Some(Elf { architecture: "amd64", interpreter: None }));
        assert_eq!(Elf::read(&elf(183, 3)).unwrap().interpreter, Some("/lib/x".into()));
        assert_eq!(Elf::read(&elf(3, 1)), None);
        assert_eq!(Elf::read(b"#!/bin/sh"), None);
        assert_eq!(Elf::read(b"\x7fELF\x02\x01"), None);
    }
}
