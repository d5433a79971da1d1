//! Hands what was put aside below a mount over to the conflict store, which may be on another file
//! system.
//!
//! In: a file in `kept/` or `displaced/`. Out: the same file elsewhere. It must never remove what is
//! not whole and durable where it goes.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown, symlink};
use std::path::Path;

use super::call::{Call, Refused};
use super::metadata;

const COPY: Call = Call::new("copy.over", "copy it to the other file system");
const OPEN: Call = Call::new("open.over", "open what was put aside");
const RENAME: Call = Call::new("rename.over", "move what was put aside");
const UNLINK: Call = Call::new("unlink.over", "remove what was put aside");

/// Moves a file, a link or an empty directory with owner, mode, times and extended attributes, also to
/// another file system; an empty directory is dropped there.
///
/// # Errors
/// What the operating system refused; `from` is still there then.
pub fn move_out(from: &Path, to: &Path) -> Result<(), Refused> {
    match RENAME.run_io(|| fs::rename(from, to)) {
        Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => {}
        other => return other,
    }
    let about = OPEN.run_io(|| from.symlink_metadata())?;
    if about.is_dir() {
        return UNLINK.run_io(|| fs::remove_dir(from));
    }
    if about.is_symlink() {
        let target = OPEN.run_io(|| fs::read_link(from))?;
        COPY.run_io(|| symlink(target, to))?;
        return drop_kept(from);
    }
    copy(from, to, &about)?;
    drop_kept(from)
}

/// Copies a file to another file system.
fn copy(from: &Path, to: &Path, about: &fs::Metadata) -> Result<(), Refused> {
    let made = to.with_extension("new");
    let mut source = OPEN.run_io(|| File::open(from))?;
    let out = COPY.run_io(|| {
        // Nobody else may read it before it has its own mode.
        let mut out =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&made)?;
        io::copy(&mut source, &mut out)?;
        // Without the right to give files away, the owner is who runs the daemon.
        drop(chown(&made, Some(about.uid()), Some(about.gid())));
        Ok(out)
    })?;
    metadata::copy_xattrs(source.as_fd(), out.as_fd())?;
    COPY.run_io(|| {
        out.set_permissions(about.permissions())?;
        out.set_modified(about.modified()?)?;
        out.sync_all()?;
        fs::rename(&made, to)
    })
}

/// Removes what was put aside and is elsewhere already.
///
/// # Errors
/// What the operating system refused.
pub fn drop_kept(from: &Path) -> Result<(), Refused> {
    UNLINK.run_io(|| fs::remove_file(from))
}
