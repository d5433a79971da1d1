//! Marks a directory as a mount that was added to the configuration, because a person asked for it.
//!
//! Without its marker a mount is never opened: an empty directory where a file system should be
//! would be taken for a great deletion. So a mount that was open here before is never marked anew.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::path::Path;

use super::Shared;
use super::open::{index_file, marker_file};
use crate::config;
use crate::control::types::{Refusal, RefusalKind};
use crate::disk::{MarkerId, Mount, MountError};

/// Makes the marker, and says whether it was not there; the mount opens by itself then.
pub(super) fn mark(shared: &Shared, mount: &config::Mount) -> Result<bool, Refusal> {
    let id = MarkerId(shared.members().mount_id(&mount.name).0);
    let index = index_file(&shared.state, &mount.name);
    let known = index.exists();
    match Mount::read_marker(&mount.path) {
        Ok(Some((found, _))) if found == id => {
            accept(shared, &mount.name);
            return Ok(false);
        }
        Ok(Some((found, name))) => return Err(taken(mount, found, &name)),
        Ok(None) if known => return Err(lost(mount, "marker", &index)),
        Err(_) if known && !mount.path.exists() => return Err(lost(mount, "directory", &index)),
        Err(error) => return Err(failed(mount, &error)),
        Ok(None) => {}
    }
    Mount::create_marker(&mount.path, id, &mount.name).map_err(|error| failed(mount, &error))?;
    shared.note_halt(&mount.name, None);
    Ok(true)
}

/// Takes a directory that is not opened because its marker is a copy for the mount that it was.
fn accept(shared: &Shared, name: &str) {
    if shared.actor(name).is_none() && fs::remove_file(marker_file(&shared.state, name)).is_ok() {
        tracing::info!(mount = name, "a person says that this copy is the mount");
    }
}

fn refusal(kind: RefusalKind, mount: &config::Mount, reason: &str) -> Refusal {
    let (name, path) = (&mount.name, mount.path.display());
    Refusal::new(kind, format!("cannot mark {path} as mount \"{name}\": {reason}"))
}

/// The mount was there, and what it held may come back.
fn lost(mount: &config::Mount, what: &str, index: &Path) -> Refusal {
    let reason = format!("it was mirrored here before, and its {what} is gone");
    refusal(RefusalKind::State, mount, &reason).with_hint(format!(
        "mount its file system, or restore the directory with its .trefoil. If what it held is lost \
         for good, or it has a new place: stop the daemon, rm -f {0} {0}-*, start it, and repeat; \
         the other nodes send all they have",
        index.display()
    ))
}

/// The directory is that of another mount, or of another cluster.
fn taken(mount: &config::Mount, found: MarkerId, name: &str) -> Refusal {
    let path = mount.path.display();
    let reason = format!("it has the marker of another mount, \"{name}\" ({found})");
    refusal(RefusalKind::State, mount, &reason).with_hint(format!(
        "is it the right directory? If nothing mirrors it any more, rm -r {path}/.trefoil, and repeat"
    ))
}

fn failed(mount: &config::Mount, error: &MountError) -> Refusal {
    let path = mount.path.display();
    let hint = match error {
        _ if !mount.path.exists() => format!("make it: mkdir -p {path}"),
        MountError::BadMarker => {
            format!("if nothing mirrors it, rm -r {path}/.trefoil, and repeat")
        }
        MountError::NotOurs { .. } => {
            format!("give {path}/.trefoil to the user that the daemon runs as, and repeat")
        }
        _ => format!("look after {path}, and repeat"),
    };
    refusal(RefusalKind::Failed, mount, &super::chain(error)).with_hint(hint)
}
