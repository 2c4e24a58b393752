//! Writes a set of files so that a reader sees all of the old set or all of the new one.
//!
//! The layout is the kubelet's, which programs rely on when they watch their configuration: `..data` points to a
//! timestamped directory with the files, `name` points to `..data/name`; an update swaps `..data` by a rename.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use jiff::Timestamp;

use super::payload::Files;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Writes `files` into the volume at `directory`; does nothing when they are there already.
pub(crate) fn write(directory: &Path, files: &Files, group: Option<u32>, now: Timestamp) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let old = fs::read_link(directory.join(DATA)).ok();
    if let Some(old) = &old
        && is_current(&directory.join(old), files)?
    {
        return Ok(());
    }
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    let name = format!("{stamp}.{}", now.subsec_nanosecond());
    let data = directory.join(&name);
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = data.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        let mut mode = file.mode;
        if file.owner.is_some() || group.is_some() {
            chown(&target, file.owner, group)?;
        }
        if group.is_some() {
            // The group that owns the volume reads what the owner reads.
            mode |= (mode & 0o700) >> 3 & 0o050;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    let next = directory.join(DATA_NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(&name, &next)?,
    }
    fs::rename(&next, directory.join(DATA))?;
    link_top_level(directory, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(())
}

/// Whether the directory holds exactly these contents.
fn is_current(data: &Path, files: &Files) -> io::Result<bool> {
    for (path, file) in files {
        match fs::read(data.join(path)) {
            Ok(content) if content == file.content => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(count_files(data)? == files.len())
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Makes `name -> ..data/name` for every first path element and removes links to what is gone.
fn link_top_level(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::payload::File, *};

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs
            .iter()
            .map(|(path, content)| {
                ((*path).to_owned(), File { content: content.as_bytes().to_vec(), mode: 0o640, owner: None })
            })
            .collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_update_swaps_the_whole_set() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        write(root, &files(&[("a", "1"), ("dir/b", "2")]), None, at(1)).unwrap();
        assert_eq!((read("a").as_str(), read("dir/b").as_str()), ("1", "2"));
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = fs::read_link(root.join(DATA)).unwrap();

        write(root, &files(&[("a", "1"), ("dir/b", "2")]), None, at(2)).unwrap();
        assert_eq!(fs::read_link(root.join(DATA)).unwrap(), first, "the same content is not written again");

        write(root, &files(&[("a", "new"), ("c", "3")]), None, at(3)).unwrap();
        assert_eq!((read("a").as_str(), read("c").as_str()), ("new", "3"));
        assert!(!root.join("dir").exists() && !root.join(first).exists());
        assert_eq!(fs::read_dir(root).unwrap().count(), 4, "two links, ..data and its directory");
    }
}
