//! The folder that the demo works in: a temporary one, or the user's, which is kept.
//!
//! A temporary folder is removed when its owner drops it, unless it was said to be kept.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::Failure;

/// Bytes of the folder's path: a socket below it has a name of 108 bytes at most.
const PATH_BYTES_MAX: usize = 85;

/// A folder for the demo alone.
pub(super) struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// Makes a temporary folder, or uses `keep`, which must not exist or be empty.
    ///
    /// # Errors
    /// If it cannot be made or is not usable; nothing was changed then.
    pub(super) fn open(keep: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = keep else { return Self::temporary() };
        let path = std::path::absolute(path).context("cannot find the current folder")?;
        check_length(&path)?;
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        let mut entries = fs::read_dir(&path)
            .with_context(|| format!("cannot list the folder {}", path.display()))?;
        if entries.next().is_some() {
            let error = anyhow!("cannot use the folder {}: it is not empty", path.display());
            return Err(Failure::usage(error));
        }
        Ok(Self { path, kept: true })
    }

    fn temporary() -> Result<Self, Failure> {
        let above = std::path::absolute(std::env::temp_dir())
            .context("cannot find the folder for temporary files")?;
        let random =
            getrandom::u32().map_err(io::Error::from).context("cannot get random bytes")?;
        let path = above.join(format!("trefoil-demo-{random:08x}"));
        check_length(&path)?;
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is for good.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Whether it stays.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is in the folder for temporary files, and is left to its owner.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

fn check_length(path: &Path) -> Result<(), Failure> {
    let bytes = path.as_os_str().len();
    if bytes <= PATH_BYTES_MAX {
        return Ok(());
    }
    Err(Failure {
        hint: Some("name a shorter one with --keep DIR or TMPDIR".to_owned()),
        ..Failure::usage(anyhow!(
            "cannot use the folder {}: its path has {bytes} bytes; a socket below it can be named \
             up to {PATH_BYTES_MAX}",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_unless_it_is_kept() {
        let folder = Folder::open(None).unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("a"), "").unwrap();
        drop(folder);
        assert!(!path.exists());
        let mut folder = Folder::open(None).unwrap();
        let path = folder.path().to_owned();
        folder.keep();
        drop(folder);
        fs::remove_dir(path).unwrap();
    }

    #[test]
    fn a_folder_to_keep_is_new_or_empty() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("new");
        drop(Folder::open(Some(&path)).unwrap());
        assert!(path.is_dir());
        fs::write(path.join("a"), "").unwrap();
        assert!(Folder::open(Some(&path)).is_err_and(|failure| failure.usage));
        let long = above.path().join("n".repeat(PATH_BYTES_MAX));
        assert!(Folder::open(Some(&long)).is_err_and(|failure| failure.usage));
    }
}
