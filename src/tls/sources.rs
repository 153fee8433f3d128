//! Owns what tells that a file has changed since it was read. It must not know what is in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How the files of a configuration looked when they were read. To compare costs one `stat(2)` a
/// file; links are followed, so that the swaps of certbot (`live/` points to `archive/`) and of
/// Kubernetes (`..data` points to the newest folder) are seen.
///
/// After a failed load, `Sources::of(sources.paths())` is what to watch next: files that are
/// replaced one after the other (the certificate, a moment later its key) fail once and are then
/// read again when the rest has come, without the same complaint every time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<(PathBuf, Option<Stamp>)>);

/// The change time is there for copies that keep size and modification time, and cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Sources {
    /// How these files look now.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut sources = Self::default();
        for path in paths {
            sources.add(path);
        }
        sources
    }

    /// The files, each once.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }

    /// Whether any file was replaced, written to, removed or made since.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.iter().any(|(path, stamp)| Stamp::of(path) != *stamp)
    }

    /// Takes note of a file. To be called before it is read: what is written during the reading
    /// counts as a change.
    pub(super) fn add(&mut self, path: &Path) {
        if !self.0.iter().any(|(known, _)| known == path) {
            self.0.push((path.to_owned(), Stamp::of(path)));
        }
    }
}

impl Stamp {
    /// `None`: there is no such file, or nobody lets us look.
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_way_to_replace_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        let seen = || Sources::of([path.as_path(), path.as_path()]);
        let missing = seen();
        assert_eq!(missing.paths().count(), 1);
        assert!(!missing.changed());
        fs::write(&path, "one").unwrap();
        assert!(missing.changed());
        let written = seen();
        assert!(!written.changed());
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(written.changed());
        let renamed = seen();
        fs::write(&path, "longer").unwrap();
        assert!(renamed.changed());
        let there = seen();
        fs::remove_file(&path).unwrap();
        assert!(there.changed());
    }

    #[test]
    fn a_link_that_is_turned_is_seen() {
        // As Kubernetes has it: cert.pem -> ..data/cert.pem, ..data -> a folder of this version.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("cert.pem"), "same size").unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/cert.pem", at("cert.pem")).unwrap();
        let sources = Sources::of([at("cert.pem").as_path()]);
        assert!(!sources.changed());
        symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(sources.changed());
    }
}
