//! What is going on at one path: a local change not read yet, a peer's record not applied yet.

use super::want::{Content, Waits, Want};
use crate::model::{Record, Signature};

/// One path with something to do. A path at rest has no slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Something happened here; to be read.
    pub dirty: Option<Dirty>,
    /// A peer's record that was decided for.
    pub want: Option<Box<Want>>,
    /// What was being applied when the daemon ended: if it is on the disk, it is no edit made here.
    pub journaled: Option<Box<Record>>,
    /// Reading and applying exclude each other: a read that overlaps an apply could take the old
    /// content for a new local edit.
    pub busy: Busy,
}

/// What is out for a path.
#[derive(Debug, Default)]
pub(super) enum Busy {
    #[default]
    No,
    /// A look at the disk, for this.
    Reading(Dirty),
    /// A look-up of our record.
    Considering,
    /// This record is being made visible.
    Applying(Box<Record>),
}

/// A path to read.
#[derive(Debug, Clone)]
pub(super) struct Dirty {
    /// Rank in the order of arrival.
    pub order: u64,
    /// When it was first noted.
    pub first_ms: u64,
    /// When something last happened there.
    pub last_ms: u64,
    /// Not to be read before.
    pub due_ms: u64,
    /// List the directory's children afterwards, whatever is known of it.
    pub list: bool,
    /// Only a child changed: nothing but the directory's time can be new.
    pub touch: bool,
    /// Noted before the first scan of a joining node was complete.
    pub joining: bool,
    /// Found empty once; taken for real when it is still so.
    pub emptied: bool,
    /// A barrier as it was seen while other changes were still unread: it is taken when it is still
    /// so after those.
    pub glimpse: Option<Signature>,
    /// A directory that is gone: what was in it was told to be looked at.
    pub swept: bool,
    /// It was told of something else than that somebody writes to it.
    pub closed: bool,
    /// Since when each look has found that a writer has it open.
    pub open_since_ms: Option<u64>,
    /// Reads that ended in nothing.
    pub attempts: u32,
}

impl Slot {
    /// Whether something is to be made here that waits for others: the directory it is to be in
    /// stays at once, since one of those may wait for it.
    pub(super) fn keeps_directory(&self) -> bool {
        let waits = |want: &Want| {
            let blocked = matches!(want.waits, Waits::Order | Waits::Parent);
            want.record.is_live() && (blocked || want.attempts > 2)
        };
        let idle = self.dirty.is_none() && matches!(self.busy, Busy::No);
        idle && self.want.as_deref().is_some_and(waits)
    }

    /// Whether a removal is to be done here that is not under way yet.
    pub(super) fn is_leaving(&self) -> bool {
        let under_way = matches!(&self.busy, Busy::Applying(record) if !record.is_live());
        !under_way && self.want.as_deref().is_some_and(|want| !want.record.is_live())
    }

    /// Whether the directory that shall go holds only what is not mirrored.
    pub(super) fn holds_unmirrored(&self) -> bool {
        self.want.as_ref().is_some_and(|want| want.holds_unmirrored)
    }

    /// What is being done at the path, or waited for, in words.
    pub(super) fn describe(&self) -> String {
        let text = match (&self.busy, &self.dirty, &self.want) {
            (Busy::Reading(_), ..) => "reading",
            (Busy::Applying(_), ..) => "applying",
            (_, Some(_), _) => "changed here, waits until it is quiet",
            (.., Some(want)) => match want.waits {
                Waits::Writer => "waits until the file is closed",
                Waits::Order => "waits for what was written before it",
                Waits::Parent => "waits for its directory",
                Waits::Children | Waits::Listing | Waits::Listed => {
                    "waits until the directory is empty"
                }
                Waits::Nothing if want.content == Content::Fetching => "fetching",
                Waits::Nothing => "waits for its turn",
            },
            _ => "idle",
        };
        text.to_owned()
    }
}
