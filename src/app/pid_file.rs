//! Owns the pid file, for scripts that send signals.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;

/// The pid file that this process wrote. Dropping it removes the file if it still holds this process's pid.
/// Another process may have replaced it.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes the pid to a temporary file and renames it. This replaces a symbolic link instead of following
    /// it, and nobody reads half a number.
    ///
    /// # Errors
    /// Returns the error if the file cannot be written. An existing file stays.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let new = path.with_file_name(format!(".{name}.{}", process::id()));
        // Left by an earlier process with this pid.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = File::create_new(&new)
            .and_then(|mut file| writeln!(file, "{}", process::id()))
            .and_then(|()| fs::rename(&new, path));
        if let Err(error) = written {
            // The file may not exist.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let Self(path) = self;
        let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        let is_ours =
            is_file && fs::read_to_string(&path).is_ok_and(|text| text == format!("{}\n", process::id()));
        if is_ours {
            // Somebody may be removing it right now.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("pid"), folder.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        drop(file);
        assert!(!path.exists() && victim.exists());
    }

    #[test]
    fn what_another_process_has_taken_over_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, format!("{}\n", process::id() + 1)).unwrap();
        drop(file);
        assert!(path.exists());
        // Nor is a link followed to a file that has this number.
        let other = folder.path().join("other");
        fs::write(&other, format!("{}\n", process::id())).unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        drop(PidFile(path.clone()));
        assert!(path.is_symlink() && other.exists());
    }

    #[test]
    fn where_nothing_can_be_written_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        assert!(PidFile::write(&folder.path().join("none/pid")).is_err());
        fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(PidFile::write(&folder.path().join("taken")).is_err());
        assert!(PidFile::write(Path::new("/")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
