//! In which mount a path is, also one that is gone or is reached by symbolic links.
//!
//! In: a path as a person writes it, and the mounts. Out: the mount and the path below it. It reads
//! links only.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::Mount;

/// The mount that a path is in, and the path below it, which is not the mount itself.
pub(super) fn find(path: &Path, mounts: &[Mount]) -> Result<(String, PathBuf), Failure> {
    let (mount, below) = find_in(path, mounts)?;
    if below.as_os_str().is_empty() {
        let shown = absolute(path).display().to_string();
        let error = anyhow::anyhow!("{shown} is mount {mount}: name a path below it");
        return Err(Failure::with_hint(error, hint(mounts)));
    }
    Ok((mount, below))
}

/// The mount that a path is in, and the path below it, empty for the mount itself.
pub(super) fn find_in(path: &Path, mounts: &[Mount]) -> Result<(String, PathBuf), Failure> {
    let absolute = absolute(path);
    let real = real(&absolute);
    for path in [&absolute, &real] {
        for mount in mounts {
            let roots = [Some(mount.path.clone()), mount.path.canonicalize().ok()];
            let below = roots.iter().flatten().find_map(|root| path.strip_prefix(root).ok());
            if let Some(below) = below {
                return Ok((mount.name.clone(), below.to_owned()));
            }
        }
    }
    let error = anyhow::anyhow!("{} is not below a mount", absolute.display());
    Err(Failure::with_hint(error, hint(mounts)))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// With the links resolved of the directories that are still there; the last name stays.
fn real(path: &Path) -> PathBuf {
    for above in path.ancestors().skip(1) {
        if let (Ok(real), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

fn hint(mounts: &[Mount]) -> String {
    let known: Vec<_> = mounts.iter().map(|mount| mount.path.display().to_string()).collect();
    format!("mounts are {}", known.join(", "))
}
