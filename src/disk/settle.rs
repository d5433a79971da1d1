//! What was displaced: whether it is what was expected, and what becomes of it.
//!
//! In: a [`Slot`] that holds what was at the path a moment ago. Out: it is settled as the policy
//! says, or back at its path. It must never remove a version that was not expected.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::apply::{ApplyRequest, Displaced, Outcome};
use super::call::Call;
use super::displaced::{Slot, has_writer};
use super::look::{Look, Type};
use super::mount::Mount;
use super::prepare::Item;
use super::{copy, read, stage, trash};
use crate::model::{Entry, Signature};

const RMDIR: Call = Call::new("rmdir.displaced", "remove the displaced directory");
const UNDO: Call = Call::new("rename.undo", "put the target back");

/// Looks at what was displaced: is it the version that was expected?
pub(crate) fn judge(
    mount: &Mount,
    slot: &Slot<'_>,
    request: &ApplyRequest,
    (entry, signature): &(Entry, Signature),
) -> Result<Look, Outcome> {
    let dir = &mount.displaced;
    let look = Look::at(dir, &slot.name)?.ok_or(Outcome::Changed)?;
    if entry.is_dir() || look.is_dir() {
        return if look.mode == signature.mode { Ok(look) } else { Err(Outcome::Changed) };
    }
    if !look.is_version(signature) {
        return Err(Outcome::Changed);
    }
    if look.file_type() != Type::File {
        return Ok(look);
    }
    if !request.even_if_open && has_writer(dir, &slot.name) {
        return Err(Outcome::Busy);
    }
    // Its times say nothing: only its bytes do.
    if signature.racy && !still_holds(mount, dir, &slot.name, entry)? {
        return Err(Outcome::Changed);
    }
    Ok(look)
}

fn still_holds(mount: &Mount, dir: &OwnedFd, name: &[u8], entry: &Entry) -> Result<bool, Outcome> {
    let (Some((content, size)), Some(file)) = (entry.content(), read::open_file(mount, dir, name)?)
    else {
        return Ok(false);
    };
    Ok(copy::holds(mount, &file, content, size)?)
}

/// Does with the displaced what the policy says, as far as it is not left to the second look.
/// Only a directory that is not empty is an error; a file that cannot be moved on stays where
/// the second look finds it.
pub(crate) fn settle(
    mount: &Mount,
    slot: &Slot<'_>,
    look: &Look,
    policy: &Displaced,
) -> Result<(), Outcome> {
    if look.is_dir() {
        return RMDIR.run(|| unlinkat(&mount.displaced, &*slot.name, AtFlags::REMOVEDIR)).map_err(
            |e| match e.errno() {
                Errno::NOTEMPTY | Errno::EXIST => Outcome::NotEmpty,
                _ => e.into(),
            },
        );
    }
    let is_file = look.file_type() == Type::File;
    let moved = match policy {
        Displaced::Keep(id) => trash::keep(mount, &mount.displaced, &slot.name, id),
        // Late writes to it go to a file that still has a name.
        Displaced::Drop if !is_file || look.links > 1 => {
            stage::remove_any(&mount.displaced, &slot.name)
        }
        Displaced::Drop | Displaced::Trash(_) => Ok(()),
    };
    if let Err(e) = moved {
        tracing::warn!(error = &e as &dyn std::error::Error, "left for a second look");
    }
    Ok(())
}

/// Puts back what was displaced by mistake. Should the target have been replaced once more
/// meanwhile, that newest version stays at the path, and the one before it is left to the
/// second look: no bytes are lost.
pub(crate) fn give_back(
    mount: &Mount,
    slot: &Slot<'_>,
    parent: &OwnedFd,
    name: &[u8],
    item: &Item,
) {
    let exchange = || {
        let flags = RenameFlags::EXCHANGE;
        UNDO.run(|| renameat_with(&mount.displaced, &*slot.name, parent, name, flags))
    };
    let undone = exchange().and_then(|()| {
        let look = Look::at(&mount.displaced, &slot.name)?;
        Ok(look.is_some_and(|look| item.is(&look)))
    });
    let left = match undone {
        Ok(true) => {
            item.discard(mount, &mount.displaced, &slot.name);
            return;
        }
        Ok(false) => exchange(),
        Err(e) => Err(e),
    };
    if let Err(e) = left {
        tracing::warn!(error = &e as &dyn std::error::Error, "left for a second look");
    }
}
