//! Files of a repository: written once under a name of their own, synced, then shown.
//!
//! It knows no packs and no manifests.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::repository::RepositoryError;

pub(super) const FORMAT: &str = "format";
pub(super) const TMP: &str = "tmp";
pub(super) const FIRST_LINE: &str = "trefoil repository 1";

pub(super) fn failed(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> RepositoryError {
    let path = path.to_owned();
    move |source| RepositoryError::Io { doing, path, source }
}

pub(super) fn check_format(path: &Path) -> Result<(), RepositoryError> {
    let format = path.join(FORMAT);
    let text = match fs::read_to_string(&format) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RepositoryError::None(path.to_owned()));
        }
        Err(error) => return Err(failed("read", &format)(error)),
    };
    let mut lines = text.lines();
    match lines.next() {
        Some(FIRST_LINE) => {}
        Some(line) if line.starts_with("trefoil repository ") => {
            return Err(RepositoryError::Newer(path.to_owned(), line.to_owned()));
        }
        _ => return Err(RepositoryError::None(path.to_owned())),
    }
    let needs = lines.find_map(|line| line.strip_prefix("needs")).unwrap_or(" nothing is said");
    match needs {
        "" => Ok(()),
        features => Err(RepositoryError::Newer(path.to_owned(), features.trim().to_owned())),
    }
}

pub(super) fn temporary(repository: &Path) -> Result<(PathBuf, File), RepositoryError> {
    let tmp = repository.join(TMP);
    let random = getrandom::u64()
        .map_err(|error| failed("get random numbers for", &tmp)(io::Error::other(error)))?;
    let path = tmp.join(format!("{random:016x}"));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(failed("make", &path))?;
    Ok((path, file))
}

/// Makes a file durable, then shows it under its name.
pub(super) fn write_once(
    repository: &Path,
    bytes: &[u8],
    to: &Path,
) -> Result<(), RepositoryError> {
    let (path, mut file) = temporary(repository)?;
    file.write_all(bytes).map_err(failed("write", &path))?;
    file.sync_all().map_err(failed("sync", &path))?;
    fs::rename(&path, to).map_err(failed("rename to", to))?;
    sync_folder(to.parent().expect("in a folder"))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), RepositoryError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(failed("sync", path))
}
