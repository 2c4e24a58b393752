//! The layer of an image: a tar archive, compressed, in which only names, contents, kinds and modes count.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::layout::Layout;
use super::{BuildError, Source};
use crate::digest::Digest;

/// Where TLS libraries look for certificate authorities first.
const CA_CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";
/// The users that an image from a binary knows by name.
const PASSWD: &[u8] = b"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &[u8] = b"root:x:0:\nnonroot:x:65532:\n";

/// A layer in the layout.
#[derive(Debug)]
pub(super) struct Layer {
    /// The digest of the compressed archive.
    pub(super) digest: Digest,
    /// Its length.
    pub(super) size: u64,
    /// The digest of the archive itself.
    pub(super) diff_id: Digest,
}

/// Writes the layer of a source into a layout.
pub(super) fn write(
    layout: &Layout,
    source: &Source,
    ca_certificates: Option<&Path>,
    epoch: u64,
) -> Result<Layer, BuildError> {
    let (temporary, file) = layout.temporary()?;
    let failed = |source| BuildError::Io { action: "write", path: temporary.clone(), source };
    let compressed = Hashing::new(BufWriter::new(file));
    // The header's operating system is "unknown", its time none: neither may differ between machines.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(compressed, Compression::new(6));
    let mut archive = Archive { tar: tar::Builder::new(Hashing::new(gzip)), epoch, path: temporary.clone() };
    match source {
        Source::Binary(path) => archive.binary(path, ca_certificates)?,
        Source::RootFs(root) => archive.root(root, ca_certificates)?,
    }
    let plain = archive.tar.into_inner().map_err(failed)?;
    let diff_id = Digest::finish(plain.hasher);
    let compressed = plain.inner.finish().map_err(failed)?;
    let (digest, size) = (Digest::finish(compressed.hasher), compressed.length);
    compressed.inner.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    layout.adopt(&temporary, digest)?;
    Ok(Layer { digest, size, diff_id })
}

/// The archive being written.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    epoch: u64,
    path: PathBuf,
}

/// A file of the image.
enum Content<'a> {
    Folder,
    Bytes(&'a [u8]),
    File(&'a Path),
    Link(&'a Path),
}

impl<W: Write> Archive<W> {
    /// An image with one executable: it, users with names, a place for temporary files, and certificates if wanted.
    fn binary(&mut self, path: &Path, ca_certificates: Option<&Path>) -> Result<(), BuildError> {
        let name = super::binary::image_path(path)?;
        self.entry("etc", 0o755, &Content::Folder)?;
        self.entry("etc/group", 0o644, &Content::Bytes(GROUP))?;
        self.entry("etc/passwd", 0o644, &Content::Bytes(PASSWD))?;
        if let Some(certificates) = ca_certificates {
            self.entry("etc/ssl", 0o755, &Content::Folder)?;
            self.entry("etc/ssl/certs", 0o755, &Content::Folder)?;
            self.entry(CA_CERTIFICATES, 0o644, &Content::File(certificates))?;
        }
        self.entry("tmp", 0o1777, &Content::Folder)?;
        self.entry(name.trim_start_matches('/'), 0o755, &Content::File(path))
    }

    /// The files of a folder in the order of their names.
    fn root(&mut self, root: &Path, ca_certificates: Option<&Path>) -> Result<(), BuildError> {
        let mut open = vec![PathBuf::new()];
        // Depth first with the names of each folder pushed in reverse: parents come before what is in them.
        while let Some(relative) = open.pop() {
            let path = root.join(&relative);
            let failed = |action| {
                let path = path.clone();
                move |source| BuildError::Io { action, path, source }
            };
            let metadata = fs::symlink_metadata(&path).map_err(failed("look at"))?;
            if metadata.is_dir() {
                let mut names = fs::read_dir(&path)
                    .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
                    .map_err(failed("list"))?;
                names.sort_unstable_by(|a, b| b.cmp(a));
                open.extend(names.into_iter().map(|name| relative.join(name)));
            }
            if relative.as_os_str().is_empty() {
                continue;
            }
            if ca_certificates.is_some() && relative == Path::new(CA_CERTIFICATES) {
                continue;
            }
            self.copy(&path, &relative, &metadata)?;
        }
        match ca_certificates {
            Some(certificates) => self.entry(CA_CERTIFICATES, 0o644, &Content::File(certificates)),
            None => Ok(()),
        }
    }

    fn copy(&mut self, path: &Path, relative: &Path, metadata: &Metadata) -> Result<(), BuildError> {
        let mode = metadata.permissions().mode() & 0o7777;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.entry(relative, mode, &Content::Folder)
        } else if kind.is_file() {
            self.entry(relative, mode, &Content::File(path))
        } else if kind.is_symlink() {
            let target = fs::read_link(path);
            let target = target.map_err(|source| BuildError::Io { action: "read", path: path.to_owned(), source })?;
            self.entry(relative, 0o777, &Content::Link(&target))
        } else {
            Err(BuildError::FileKind(path.to_owned()))
        }
    }

    fn entry(&mut self, name: impl AsRef<Path>, mode: u32, content: &Content<'_>) -> Result<(), BuildError> {
        let name = name.as_ref();
        let mut header = Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch);
        header.set_size(0);
        let failed = |source| BuildError::Io { action: "write", path: self.path.clone(), source };
        match content {
            Content::Folder => {
                header.set_entry_type(EntryType::Directory);
                // The closing slash is how every other tool writes a folder.
                let name = name.join("");
                self.tar.append_data(&mut header, name, io::empty()).map_err(failed)
            }
            Content::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                self.tar.append_data(&mut header, name, *bytes).map_err(failed)
            }
            Content::File(path) => {
                let unread = |source| BuildError::Io { action: "read", path: path.to_path_buf(), source };
                let file = File::open(path).map_err(unread)?;
                let size = file.metadata().map_err(unread)?.len();
                header.set_size(size);
                // A file that shrinks meanwhile would leave a broken archive.
                let mut exact = Exact { inner: BufReader::new(file).take(size), missing: size };
                self.tar.append_data(&mut header, name, &mut exact).map_err(unread)
            }
            Content::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.tar.append_link(&mut header, name, target).map_err(failed)
            }
        }
    }
}

/// Reads exactly as many bytes as announced, or fails.
struct Exact<R> {
    inner: R,
    missing: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.missing -= length as u64;
        if length == 0 && self.missing > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        Ok(length)
    }
}

/// Passes bytes on, and keeps their digest and number.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    length: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), length: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.length += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
