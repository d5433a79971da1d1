//! Snapshots: mounts as they were, in a repository of objects.
//!
//! `docs/repository-format.md` has the bytes. A snapshot is a manifest with the root of each mount, a
//! tree of directories whose ids depend on nothing but what is in them; what two snapshots have in
//! common is there once. Packs are durable before the manifest that needs them is there: what is
//! listed can be restored. Nothing here knows of the daemon, the index or peers.

mod browse;
mod catalog;
mod collect;
mod cuts;
mod files;
mod heal;
mod in_place;
mod keep;
mod manifest;
mod mark;
mod object;
mod pack;
mod put;
mod repository;
mod restore;
mod take;
mod tree;
mod verified;
mod walk;
mod writer;

pub use browse::{Attr, BrowseError, Browser, LOOK_AGAIN_AFTER, Listed, ROOT, Source, Type, View};
pub use collect::{Collected, UNDELETE_FOR};
pub use cuts::Cut;
pub use heal::Quarantined;
pub use keep::KeepError;
pub use manifest::{Manifest, MountTree, SnapshotId};
pub use mark::Mark;
pub use object::{Kind, OBJECT_BYTES_MAX, ObjectId, WHOLE_BYTES_MAX};
pub use pack::ReadError;
pub use repository::{Lock, Objects, Repository, RepositoryError};
pub use restore::{Change, Choice, InPlace, RestoreError, Restored, restore};
pub use take::{Contents, TakeError, Taken, take, take_changes};
pub use tree::{
    FormatError, Item, Node, Pages, Stored, TreeRef, decode_index, decode_page, decode_pieces,
    encode_dir,
};
pub use verified::Verified;
pub use walk::{Fault, ReadData, entries, find, pages, verify_tree};
pub use writer::Writer;
