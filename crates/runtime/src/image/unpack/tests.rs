//! Layers with everything that may and may not be in them.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
};

use super::*;

fn header(path: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    // Not `set_path`, which refuses what the tests are about.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(nix::unistd::getuid().as_raw().into());
    header.set_gid(nix::unistd::getgid().as_raw().into());
    header.set_mtime(1_000_000);
    header
}

struct Builder(tar::Builder<Vec<u8>>);

impl Builder {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(mut self, path: &str, content: &str) -> Self {
        let mut header = header(path, tar::EntryType::Regular, content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    fn other(mut self, path: &str, kind: tar::EntryType, link: &str) -> Self {
        let mut header = header(path, kind, 0);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, io::empty()).unwrap();
        self
    }

    fn unpack(self) -> (tempfile::TempDir, io::Result<Unpacked>) {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("fs");
        fs::create_dir(&target).unwrap();
        let outcome = unpack_stream(&self.0.into_inner().unwrap()[..], &target);
        (directory, outcome)
    }
}

fn root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    println!("skipped: needs root");
    false
}

#[test]
fn files_links_and_modes_are_restored() {
    let (directory, unpacked) = Builder::new()
        .other("d", tar::EntryType::Directory, "")
        .file("d/f", "hello")
        .other("d/l", tar::EntryType::Symlink, "/etc/passwd")
        .other("h", tar::EntryType::Link, "d/f")
        .file("deep/without/parents", "x")
        .unpack();
    let fs_root = directory.path().join("fs");
    assert_eq!(unpacked.unwrap().size, 6);
    let metadata = fs::metadata(fs_root.join("h")).unwrap();
    assert_eq!((metadata.nlink(), metadata.permissions().mode() & 0o7777), (2, 0o4755));
    assert_eq!(fs::metadata(fs_root.join("d")).unwrap().mtime(), 1_000_000);
    assert_eq!(fs::read_link(fs_root.join("d/l")).unwrap(), Path::new("/etc/passwd"));
    assert!(fs_root.join("deep/without/parents").exists());
}

#[test]
fn path_that_leads_out_is_refused() {
    for path in ["../evil", "a/../../evil"] {
        let (_directory, unpacked) = Builder::new().file(path, "x").unpack();
        assert_eq!(unpacked.unwrap_err().kind(), io::ErrorKind::InvalidData, "{path}");
    }
}

#[test]
fn link_to_outside_is_followed_only_inside() {
    let outside = tempfile::tempdir().unwrap();
    let (directory, unpacked) = Builder::new()
        .other("out", tar::EntryType::Symlink, outside.path().to_str().unwrap())
        .file("out/evil", "x")
        .unpack();
    unpacked.unwrap();
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    assert!(directory.path().join("fs/out/evil").exists());
}

#[test]
fn hard_link_to_outside_is_refused() {
    let (_directory, unpacked) = Builder::new().other("h", tar::EntryType::Link, "../../etc/passwd").unpack();
    assert!(unpacked.is_err());
    let (_directory, unpacked) = Builder::new()
        .other("e", tar::EntryType::Symlink, "/etc")
        .other("h", tar::EntryType::Link, "e/passwd")
        .unpack();
    assert!(unpacked.is_err());
}

#[test]
fn file_replaces_a_link_instead_of_following_it() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let (directory, unpacked) =
        Builder::new().other("f", tar::EntryType::Symlink, outside.path().to_str().unwrap()).file("f", "new").unpack();
    unpacked.unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("fs/f")).unwrap(), "new");
    assert_eq!(fs::read_to_string(outside.path()).unwrap(), "");
}

#[test]
fn deletions_become_overlay_whiteouts() {
    if !root() {
        return;
    }
    let (directory, unpacked) = Builder::new()
        .file("d/.wh.gone", "")
        .file("o/.wh..wh..opq", "")
        .other("dev", tar::EntryType::Block, "")
        .unpack();
    unpacked.unwrap();
    let fs_root = directory.path().join("fs");
    let gone = fs::symlink_metadata(fs_root.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0_u8; 4];
    let path = CString::new(fs_root.join("o").as_os_str().as_bytes()).unwrap();
    // SAFETY: path and buffer are live for the call.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    assert_eq!((length, value[0]), (1, b'y'));
    assert!(!fs_root.join("dev").exists());
}

#[test]
fn compression_is_told_by_content() {
    let plain = Builder::new().file("f", "x").0.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let mut ids = Vec::new();
    for bytes in [plain, gzip, zstd] {
        let directory = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut &file, &bytes).unwrap();
        io::Seek::rewind(&mut &file).unwrap();
        ids.push(unpack(file, directory.path()).unwrap().diff_id);
    }
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn damaged_layer_never_writes_outside(changes in proptest::collection::vec((0_usize..6 * 512, proptest::num::u8::ANY), 1..8)) {
        let mut bytes = Builder::new()
            .other("d", tar::EntryType::Directory, "")
            .other("d/l", tar::EntryType::Symlink, "../../..")
            .file("d/l/escaped", "x")
            .other("h", tar::EntryType::Link, "d/l")
            .0
            .into_inner()
            .unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        // A header whose sum is wrong is refused at once; the deeper code is what is looked for.
        for at in (0..bytes.len().min(6 * 512)).step_by(512) {
            let header: &mut [u8; 512] = (&mut bytes[at..at + 512]).try_into().unwrap();
            let mut fixed = tar::Header::new_old();
            fixed.as_mut_bytes().copy_from_slice(header);
            if header[0] != 0 && header[257..262] == *b"ustar" {
                fixed.set_cksum();
                header.copy_from_slice(fixed.as_bytes());
            }
        }
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("fs")).unwrap();
        // Failing is fine, leaving the directory is not.
        let _ = unpack_stream(&bytes[..], &directory.path().join("fs"));
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        proptest::prop_assert_eq!(names, ["fs"]);
        proptest::prop_assert!(!Path::new("/escaped").exists());
    }
}
