//! The users' files: looking at them, reading them and, as the only writer into a mount, changing
//! them.
//!
//! In: paths below a mount and what should be there. Out: what was found, and one [`Outcome`] for
//! each change. Everything blocks: threads call it. All access starts at the handle of the mount's
//! root and goes through `openat2` without symbolic links or other file systems, so nothing planted
//! in a mount leads out of it. It must never destroy bytes that its caller did not name as the
//! version it expects there.

mod apply;
mod call;
pub(crate) mod copy;
mod displaced;
mod fault;
mod hand_over;
mod look;
mod marker;
pub(crate) mod metadata;
mod mount;
mod note;
mod parents;
pub mod pieces;
mod place;
mod prepare;
mod read;
mod recipe;
mod relocate;
mod scan;
mod settle;
mod stage;
mod sync;
mod sys;
mod times;
mod trash;
mod trash_size;
mod trashed;
pub(crate) mod walk;
pub mod watch;

#[cfg(test)]
mod tests;

pub use apply::{ApplyRequest, Displaced, Moved, Outcome, Source, apply_group, apply_noted};
pub use call::{Call, Refused};
pub use displaced::{LateWrite, look_again};
pub use hand_over::{drop_kept, move_out};
pub use marker::MarkerId;
pub use metadata::OWNER_UNKNOWN;
pub use mount::{Counters, Mount, MountError, MountOptions};
pub use read::{ReadRequest, read};
pub use recipe::{Origin, Recipe};
pub use scan::{Listed, list};
pub use stage::{
    Content, StageError, Staged, exists_complete, expire_stage, open_content, open_staged,
    stage_from_local,
};
pub use sync::everything as sync_everything;
pub use trash::{KeptId, TrashNote, expire_trash, kept};
pub use trash_size::{TrashSize, limit_trash};
pub use trashed::{
    Peek, TrashPlace, Trashed, peek, peek_trashed, take_kept, take_trashed, trashed,
};

/// Name of trefoil's own directory in the root of a mount. Never mirrored.
pub const OWN_DIR: &[u8] = b".trefoil";

/// Why something below a mount could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It, or a parent, is not there or of another kind.
    #[error("nothing of that kind is there")]
    Missing,
    /// Another file system is mounted on the way: a boundary.
    #[error("a mount point is on the way")]
    MountPoint,
    /// The operating system refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// In trefoil's own directory.
    #[error("the path is in trefoil's own directory")]
    Reserved,
}
