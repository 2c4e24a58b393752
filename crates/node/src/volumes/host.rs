//! hostPath checks, and mounts the node makes.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Checks, and where the type says so makes, a host path; the error is upstream's text.
pub(crate) fn check(path: &Path, wanted: &str) -> Result<(), String> {
    let made = match wanted {
        "" => return Ok(()),
        "DirectoryOrCreate" if !path.exists() => {
            fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        }
        "FileOrCreate" if !path.exists() => {
            fs::File::create(path).and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
        }
        _ => Ok(()),
    };
    made.map_err(|error| format!("hostPath type check failed: cannot create {}: {error}", path.display()))?;
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    let (fits, name) = match wanted {
        "DirectoryOrCreate" | "Directory" => (kind.is_ok_and(|kind| kind.is_dir()), "directory"),
        "FileOrCreate" | "File" => (kind.is_ok_and(|kind| kind.is_file()), "file"),
        "Socket" => (kind.is_ok_and(|kind| kind.is_socket()), "socket file"),
        "CharDevice" => (kind.is_ok_and(|kind| kind.is_char_device()), "character device"),
        "BlockDevice" => (kind.is_ok_and(|kind| kind.is_block_device()), "block device"),
        other => return Err(format!("hostPath type {other:?} is not supported")),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {} is not a {name}", path.display())) }
}

/// Mounts a memory-backed directory.
pub(crate) fn mount_tmpfs(path: &Path, size_bytes: Option<i64>) -> io::Result<()> {
    let options = size_bytes.map(|size| format!("size={size}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, options.as_deref())?)
}

/// Bind-mounts what `source` is onto the existing `target`.
pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Whether something is mounted exactly at `path`.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounted_below(&table, path).iter().any(|mounted| mounted == path))
}

/// Whether something is mounted at or below `root`.
pub(crate) fn has_mounts_below(root: &Path) -> io::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(!mounted_below(&table, root).is_empty())
}

/// Unmounts everything at or below `root`, innermost first.
pub(crate) fn unmount_below(root: &Path) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    for target in mounted_below(&table, root) {
        match umount2(&target, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn mounted_below(table: &str, root: &Path) -> Vec<PathBuf> {
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = targets.filter(|target| target.starts_with(root)).collect();
    below.reverse();
    below
}

/// The kernel writes blanks, tabs, line feeds and backslashes of paths in octal.
fn unescape(field: &str) -> PathBuf {
    let text = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_types_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        check(&path("made/dir"), "DirectoryOrCreate").unwrap();
        check(&path("file"), "FileOrCreate").unwrap();
        check(&path("anything"), "").unwrap();
        check(&path("made"), "Directory").unwrap();
        let error = check(&path("file"), "Directory").unwrap_err();
        assert_eq!(error, format!("hostPath type check failed: {} is not a directory", path("file").display()));
        assert!(check(&path("none"), "Socket").is_err() && check(&path("file"), "Nonsense").is_err());
    }

    #[test]
    fn mounts_are_found_innermost_first() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /pods/a/v rw - tmpfs t rw\n3 2 0:3 / /pods/a/v/in\\040ner rw - tmpfs t rw\n4 1 0:4 / /pods/ab rw - tmpfs t rw\n";
        let found = mounted_below(table, Path::new("/pods/a"));
        assert_eq!(found, [PathBuf::from("/pods/a/v/in ner"), PathBuf::from("/pods/a/v")]);
    }
}
