//! Unpacking one layer into a directory in overlayfs's form.
//!
//! Names in a layer are hostile input: every parent is resolved inside the directory by the kernel (`openat2`), and the
//! last component is only ever used with calls that do not follow links.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, OpenHow, openat2},
    sys::stat::{Mode, SFlag, fchmodat, mkdirat, mknodat, utimensat},
    unistd::{LinkatFlags, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use sha2::{Digest as _, Sha256};

use crate::spec::resolves_in_root;

/// Most entries in one layer; the largest public images have a few hundred thousand.
const ENTRIES_MAX: u64 = 2_000_000;
/// Most bytes one layer may unpack to.
const LAYER_BYTES_MAX: u64 = 32 * 1024 * 1024 * 1024;
/// Marks a file as deleted.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Marks a directory as hiding what lies below it.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Attributes the archive carries, under this prefix.
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells by the first bytes, because media types are not always true.
    pub(super) fn detect(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// What came out of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// `sha256:…` of the uncompressed archive.
    pub(super) diff_id: String,
    /// Bytes of all files.
    pub(super) size: u64,
}

/// Reads, hashes and bounds what passes through.
struct Measured<R> {
    inner: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("layer unpacks to more than {LAYER_BYTES_MAX} bytes"))
        })?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

/// Unpacks a layer into the existing directory `target`.
pub(super) fn unpack(mut layer: File, target: &Path) -> io::Result<Unpacked> {
    let mut magic = [0; 4];
    let length = layer.read(&mut magic)?;
    io::Seek::rewind(&mut layer)?;
    let layer = io::BufReader::with_capacity(128 * 1024, layer);
    match Compression::detect(&magic[..length]) {
        Compression::Plain => unpack_stream(layer, target),
        Compression::Gzip => unpack_stream(flate2::bufread::MultiGzDecoder::new(layer), target),
        Compression::Zstd => unpack_stream(zstd::stream::read::Decoder::with_buffer(layer)?, target),
    }
}

/// Unpacks an uncompressed archive.
pub(super) fn unpack_stream(archive: impl Read, target: &Path) -> io::Result<Unpacked> {
    let mut source = Measured { inner: archive, hash: Sha256::new(), left: LAYER_BYTES_MAX };
    let mut layer = Layer { root: File::open(target)?.into(), parent: None, size: 0, directories: Vec::new() };
    let mut archive = tar::Archive::new(&mut source);
    for (number, entry) in archive.entries()?.enumerate() {
        if number as u64 == ENTRIES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "layer has too many entries"));
        }
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        layer
            .add(&mut entry, &path)
            .map_err(|error| io::Error::new(error.kind(), format!("unpack {:?}: {error}", path.display())))?;
    }
    layer.finish();
    // What follows the archive's end belongs to the digest too.
    io::copy(&mut source, &mut io::sink())?;
    Ok(Unpacked { diff_id: format!("sha256:{}", hex::encode(source.hash.finalize())), size: layer.size })
}

struct Layer {
    root: OwnedFd,
    /// The directory of the entry before, which is mostly that of the next.
    parent: Option<(PathBuf, OwnedFd)>,
    size: u64,
    /// Times of directories, set when nothing more is put into them.
    directories: Vec<(PathBuf, u64)>,
}

impl Layer {
    fn add<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let Some(path) = clean(path)? else { return Ok(()) };
        let (parent_path, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent.to_owned(), name.to_owned()),
            _ => return Ok(()),
        };
        let parent = self.open_parent(&parent_path)?;
        let outcome = self.add_in(&parent, &name, &path, entry);
        self.parent = Some((parent_path, parent));
        outcome
    }

    fn open_parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((cached, fd)) = self.parent.take()
            && cached == path
        {
            return Ok(fd);
        }
        let mut walked = PathBuf::from(".");
        for component in path.components() {
            walked.push(component);
            if self.open_directory(&walked).is_err() {
                let parent = self.open_directory(walked.parent().unwrap_or(Path::new(".")))?;
                make_directory(&parent, component.as_os_str())?;
            }
        }
        self.open_directory(&walked)
    }

    fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let how =
            OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolves_in_root());
        let fd = openat2(self.root.as_raw_fd(), path, how)?;
        // SAFETY: openat2 returned a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn add_in<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &mut tar::Entry<'_, R>,
    ) -> io::Result<()> {
        if name.as_bytes() == OPAQUE_MARKER {
            return set_attribute(parent.as_raw_fd(), "trusted.overlay.opaque", b"y");
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) {
            let hidden = OsStr::from_bytes(hidden);
            remove(parent, hidden)?;
            return Ok(mknodat(Some(parent.as_raw_fd()), hidden, SFlag::S_IFCHR, Mode::empty(), 0)?);
        }
        let kind = entry.header().entry_type();
        if !kind.is_dir() {
            remove(parent, name)?;
        }
        match kind {
            tar::EntryType::Directory => make_directory(parent, name)?,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.size += write_file(parent, name, entry)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| invalid("link without a target"))?;
                symlinkat(target.as_ref(), Some(parent.as_raw_fd()), name)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| invalid("link without a target"))?.into_owned();
                return self.hard_link(&target, parent, name);
            }
            tar::EntryType::Fifo => mknodat(Some(parent.as_raw_fd()), name, SFlag::S_IFIFO, Mode::empty(), 0)?,
            // Device nodes have no business in an image: a container gets those it may use from the runtime.
            _ => return Ok(()),
        }
        set_metadata(parent, name, entry)?;
        if kind.is_dir() {
            self.directories.push((path.to_owned(), entry.header().mtime().unwrap_or(0)));
        }
        Ok(())
    }

    fn hard_link(&self, target: &Path, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let target = clean(target)?.ok_or_else(|| invalid("link to the root"))?;
        let (Some(directory), Some(file)) = (target.parent(), target.file_name()) else {
            return Err(invalid("link without a target"));
        };
        let directory = self.open_directory(&Path::new(".").join(directory))?;
        linkat(Some(directory.as_raw_fd()), file, Some(parent.as_raw_fd()), name, LinkatFlags::empty())?;
        Ok(())
    }

    fn finish(&mut self) {
        for (path, seconds) in std::mem::take(&mut self.directories).into_iter().rev() {
            if let Ok(fd) = self.open_directory(&Path::new(".").join(path)) {
                // A time that cannot be set is no reason to refuse an image.
                let _ = nix::sys::stat::futimens(fd.as_raw_fd(), &time(seconds), &time(seconds));
            }
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn time(seconds: u64) -> nix::sys::time::TimeSpec {
    nix::sys::time::TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0)
}

/// The path relative to the root; `None` for the root itself, an error for one that leads out.
fn clean(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => cleaned.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("path leads out of the layer")),
        }
    }
    Ok((!cleaned.as_os_str().is_empty()).then_some(cleaned))
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(Some(parent.as_raw_fd()), name, Mode::from_bits_truncate(0o755)) {
        Err(nix::Error::EEXIST) => {}
        other => return Ok(other?),
    }
    let status = nix::sys::stat::fstatat(Some(parent.as_raw_fd()), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if status.st_mode & libc::S_IFMT != libc::S_IFDIR {
        remove(parent, name)?;
        mkdirat(Some(parent.as_raw_fd()), name, Mode::from_bits_truncate(0o755))?;
    }
    Ok(())
}

/// Removes what is in the way: a file, a link, or an empty directory.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(Some(parent.as_raw_fd()), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EISDIR) => Ok(unlinkat(Some(parent.as_raw_fd()), name, UnlinkatFlags::RemoveDir)?),
        Err(errno) => Err(errno.into()),
    }
}

fn write_file<R: Read>(parent: &OwnedFd, name: &OsStr, entry: &mut tar::Entry<'_, R>) -> io::Result<u64> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::openat(Some(parent.as_raw_fd()), name, flags, Mode::from_bits_truncate(0o600))?;
    // SAFETY: openat returned a new descriptor that nobody else owns.
    let mut file = unsafe { File::from_raw_fd(fd) };
    io::copy(entry, &mut file)
}

fn set_metadata<R: Read>(parent: &OwnedFd, name: &OsStr, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
    let directory = Some(parent.as_raw_fd());
    let header = entry.header();
    let id = |value: io::Result<u64>| value.and_then(|id| u32::try_from(id).map_err(io::Error::other));
    let (uid, gid, mode) = (id(header.uid())?, id(header.gid())?, header.mode()?);
    let (kind, modified) = (header.entry_type(), header.mtime().unwrap_or(0));
    fchownat(directory, name, Some(uid.into()), Some(gid.into()), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind == tar::EntryType::Symlink {
        return Ok(());
    }
    let attributes = attributes(entry)?;
    if !attributes.is_empty() {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(directory, name, flags, Mode::empty())?;
        // SAFETY: openat returned a new descriptor that nobody else owns.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        for (key, value) in attributes {
            set_attribute(file.as_raw_fd(), &key, &value)?;
        }
    }
    // After the owner, whose change clears the set-user-id bit. What was just made is no link.
    fchmodat(directory, name, Mode::from_bits_truncate(mode & 0o7777), nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    let when = time(modified);
    Ok(utimensat(directory, name, &when, &when, nix::sys::stat::UtimensatFlags::NoFollowSymlink)?)
}

/// Extended attributes an image may set: file capabilities and what users define.
fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR_PREFIX))
            && (name == "security.capability" || name.starts_with("user."))
        {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

fn set_attribute(fd: std::os::fd::RawFd, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name).map_err(|_| invalid("attribute name with a zero byte"))?;
    // SAFETY: the descriptor is open, and name and value are live for the call.
    let done = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Filesystems without user attributes are common, and losing them is what every runtime does then.
            error if error.raw_os_error() == Some(libc::ENOTSUP) && !name.as_bytes().starts_with(b"trusted.") => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests;
