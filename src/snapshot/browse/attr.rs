//! What `stat` says of an entry, and of the directories above it that no snapshot stores. Pure.

use crate::model::Mtime;
use crate::snapshot::{Item, Node};

/// The mode of directories of which nobody has stored one.
const DIR_MODE: u32 = 0o755;

/// What a number is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

impl Type {
    /// What an entry is.
    pub(super) fn of(node: &Node) -> Self {
        match node.item {
            Item::Dir(_) => Self::Dir,
            Item::File { .. } => Self::File,
            Item::Symlink { .. } => Self::Symlink,
        }
    }
}

/// What `stat` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The inode number.
    pub number: u64,
    /// What it is.
    pub kind: Type,
    /// Bytes of a file, or of a link's target.
    pub size: u64,
    /// The twelve bits of `chmod`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Mtime,
    /// Names of it. Of a file with several it is not known how many: two.
    pub links: u32,
    /// It is the same for as long as the number is known, and has the name that was looked up.
    pub is_lasting: bool,
}

impl Attr {
    /// Of an entry. Owners that are not known are `owner`.
    pub(super) fn of(number: u64, node: &Node, owner: (u32, u32)) -> Self {
        let links = match &node.item {
            Item::Dir(_) | Item::File { group: Some(_), .. } => 2,
            _ => 1,
        };
        let size = match &node.item {
            Item::Symlink { target } => target.len() as u64,
            _ => node.size(),
        };
        let or = |id, other| if id == u32::MAX { other } else { id };
        let (uid, gid) = (or(node.meta.uid, owner.0), or(node.meta.gid, owner.1));
        let (kind, mode, mtime) = (Type::of(node), node.meta.mode, node.meta.mtime);
        Self { number, kind, size, mode, uid, gid, mtime, links, is_lasting: true }
    }

    /// Of a directory that no snapshot stores: one above the mounts, or a mount's own.
    pub(super) fn of_dir(number: u64, changed_ns: u64, (uid, gid): (u32, u32)) -> Self {
        let secs = (changed_ns / 1_000_000_000).cast_signed();
        let nanos = u32::try_from(changed_ns % 1_000_000_000).expect("below 2^32");
        let mtime = Mtime { secs, nanos };
        let (kind, mode) = (Type::Dir, DIR_MODE);
        Self { number, kind, size: 0, mode, uid, gid, mtime, links: 2, is_lasting: true }
    }
}
