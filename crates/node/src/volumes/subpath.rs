//! `subPath` of a volume mount: resolved without ever leaving the volume, whatever symbolic links a container planted.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat},
};

use super::host;

fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let descriptor = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: openat2 just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Opens `path` inside the volume, making missing directories; the kernel refuses every way out.
fn resolve(volume: &Path, path: &Path) -> io::Result<OwnedFd> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("subPath {path:?} leaves the volume")));
    }
    let root: OwnedFd = fs::File::open(volume)?.into();
    // New directories are as open as the volume itself, or its users could not write to them.
    let mode = Mode::from_bits_truncate(fstat(root.as_raw_fd())?.st_mode);
    let mut walked = PathBuf::new();
    let mut parent = open_beneath(&root, Path::new("."), OFlag::O_PATH)?;
    for part in path.components() {
        walked.push(part);
        parent = match open_beneath(&root, &walked, OFlag::O_PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match mkdirat(Some(parent.as_raw_fd()), part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) => {
                        let made = open_beneath(&root, &walked, OFlag::O_DIRECTORY)?;
                        fchmod(made.as_raw_fd(), mode)?;
                    }
                    Err(nix::Error::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_beneath(&root, &walked, OFlag::O_PATH)?
            }
            opened => opened?,
        };
    }
    Ok(parent)
}

/// Bind-mounts `path` of `volume` at `target` (made as a file or a directory) and returns nothing else to look up: the
/// mount keeps what was resolved. A target that is mounted already is left alone.
pub(crate) fn bind(volume: &Path, path: &Path, target: &Path) -> io::Result<()> {
    if host::is_mounted(target)? {
        return Ok(());
    }
    let found = resolve(volume, path)?;
    let is_directory = fstat(found.as_raw_fd())?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    if is_directory {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(target)?;
    }
    host::bind(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), target)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn links_out_of_the_volume_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        fs::create_dir_all(volume.join("inside/deep")).unwrap();
        fs::create_dir(directory.path().join("secret")).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        symlink("../secret", volume.join("relative")).unwrap();
        symlink(directory.path().join("secret"), volume.join("absolute")).unwrap();
        symlink("inside/deep", volume.join("fine")).unwrap();
        for path in ["inside", "fine", "made/new"] {
            resolve(&volume, Path::new(path)).unwrap();
        }
        assert_eq!(fs::metadata(volume.join("made/new")).unwrap().permissions().mode() & 0o777, 0o777);
        for path in ["relative", "absolute", "relative/x", "../secret", "/etc"] {
            assert!(resolve(&volume, Path::new(path)).is_err(), "{path}");
        }
        assert!(!directory.path().join("secret/x").exists());
    }
}
