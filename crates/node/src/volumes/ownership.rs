//! Gives a volume to a pod's `fsGroup`.
//!
//! What is in the volume is the doing of pods, of which another one may work in it at the same time: every step goes from an
//! open directory to an entry of it, and symbolic links are passed over, so that no name can lead outside.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat},
    unistd::{Gid, fchownat},
};

/// What a group may do with files, as upstream.
const FILE_BITS: u32 = 0o660;
/// What a group may do with directories, whose new entries are its own.
const DIRECTORY_BITS: u32 = 0o2770;
/// Directories in one another: each level costs two descriptors. What is deeper keeps its owner.
const LEVELS_MAX: usize = 100;

/// Whether everything is looked at, or only when the volume itself is not the group's yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangePolicy {
    Always,
    OnRootMismatch,
}

/// Gives `root` and what is in it to `group`.
pub(super) fn give(root: &Path, group: u32, policy: ChangePolicy) -> io::Result<()> {
    let opened: OwnedFd = fs::File::open(root)?.into();
    let stat = fstat(opened.as_raw_fd())?;
    if policy == ChangePolicy::OnRootMismatch && is_given(&stat, group) {
        return Ok(());
    }
    give_entries(&opened, group, LEVELS_MAX)?;
    // The volume itself last: that it is given says that the rest is.
    give_one(&opened, &stat, group)
}

fn give_entries(directory: &OwnedFd, group: u32, levels: usize) -> io::Result<()> {
    if levels == 0 {
        tracing::warn!(levels = LEVELS_MAX, "directories deeper than this keep their group");
        return Ok(());
    }
    for entry in fs::read_dir(by_descriptor(directory))? {
        let name = entry?.file_name();
        let Some(found) = open_entry(directory, &name, OFlag::O_PATH)? else { continue };
        let stat = fstat(found.as_raw_fd())?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFLNK => {}
            SFlag::S_IFDIR => {
                // Opened anew by itself, not by its name: that may be another directory's by now.
                let listed = fs::File::open(by_descriptor(&found))?;
                give_entries(&listed.into(), group, levels - 1)?;
                give_one(&found, &stat, group)?;
            }
            _ => give_one(&found, &stat, group)?,
        }
    }
    Ok(())
}

fn open_entry(directory: &OwnedFd, name: &OsStr, flags: OFlag) -> io::Result<Option<OwnedFd>> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(Some(directory.as_raw_fd()), name, flags, Mode::empty()) {
        // SAFETY: openat just returned this descriptor and nothing else owns it.
        Ok(descriptor) => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })),
        // Somebody removed it meanwhile.
        Err(nix::Error::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn bits(stat: &FileStat) -> u32 {
    let is_directory = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    if is_directory { DIRECTORY_BITS } else { FILE_BITS }
}

fn is_given(stat: &FileStat, group: u32) -> bool {
    stat.st_gid == group && stat.st_mode & bits(stat) == bits(stat)
}

fn give_one(file: &OwnedFd, stat: &FileStat, group: u32) -> io::Result<()> {
    if is_given(stat, group) {
        return Ok(());
    }
    if stat.st_gid != group {
        let group = Some(Gid::from_raw(group));
        fchownat(Some(file.as_raw_fd()), "", None, group, AtFlags::AT_EMPTY_PATH)?;
    }
    let mode = stat.st_mode & 0o7777 | bits(stat);
    fs::set_permissions(by_descriptor(file), fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn everything_in_the_volume_is_the_groups_and_nothing_outside() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(&outside, "").unwrap();
        for (file, bits) in [(volume.join("a/b/file"), 0o600), (outside.clone(), 0o600)] {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(bits)).unwrap();
        }
        fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&outside, volume.join("a/link")).unwrap();
        symlink(directory.path(), volume.join("up")).unwrap();
        // The own group, so that no privilege is needed.
        let group = fs::metadata(&volume).unwrap().gid();
        give(&volume, group, ChangePolicy::Always).unwrap();
        assert_eq!((mode(&volume.join("a")), mode(&volume.join("a/b/file"))), (0o2770, 0o660));
        assert_eq!(mode(&outside), 0o600);
        assert_eq!(mode(&volume) & 0o2770, 0o2770);
    }

    #[test]
    fn a_volume_that_is_given_already_is_looked_at_only_when_asked_to() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path();
        let group = fs::metadata(volume).unwrap().gid();
        give(volume, group, ChangePolicy::Always).unwrap();
        let late = volume.join("late");
        fs::write(&late, "").unwrap();
        fs::set_permissions(&late, fs::Permissions::from_mode(0o600)).unwrap();
        give(volume, group, ChangePolicy::OnRootMismatch).unwrap();
        assert_eq!(mode(&late), 0o600);
        give(volume, group, ChangePolicy::Always).unwrap();
        assert_eq!(mode(&late), 0o660);
    }
}
