//! Owns how a change to a file is noticed. It must not know what is in the file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The state of a configuration's files when they were read. A comparison costs one `stat(2)` for each file.
/// Links are followed, which shows the swaps of certbot (`live/` points to `archive/`) and of Kubernetes
/// (`..data` points to the newest folder).
///
/// After a failed load, watch `Sources::of(sources.paths())`. If a certificate is replaced a moment before
/// its key, the load fails once, and succeeds when the key has come. The same message is not repeated in
/// between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<(PathBuf, Option<Stamp>)>);

/// The state of a file. The change time shows copies that keep size and modification time; no program can set
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Sources {
    /// The state of these files now.
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

    /// Whether a file has been replaced, written, removed or created since.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.iter().any(|(path, stamp)| Stamp::of(path) != *stamp)
    }

    /// Notes a file. Call it before you read the file, so that a write during the read counts as a change.
    pub(super) fn add(&mut self, path: &Path) {
        if !self.0.iter().any(|(known, _)| known == path) {
            self.0.push((path.to_owned(), Stamp::of(path)));
        }
    }
}

impl Stamp {
    /// `None` means that the file does not exist or cannot be examined.
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
