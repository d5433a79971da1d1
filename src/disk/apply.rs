//! Applies changes as compare and swap: what is on disk is only replaced if it is what the engine
//! took it for.
//!
//! In: a group of [`ApplyRequest`]s. Out: one [`Outcome`] each, after everything that is `Done` is
//! durable. The steps: stage everything (`prepare`), one sync, make it visible in order (`place`),
//! restore directory times, sync the directories. It must never show half a file, and never let one
//! path's failure stop another.

use std::collections::HashMap;
use std::sync::Arc;

use super::call::Refused;
use super::mount::Mount;
use super::place::Placer;
use super::prepare::{Plan, prepare};
use super::sync;
use super::trash::{KeptId, TrashNote};
use crate::model::{ContentId, Entry, RelPath, Signature};

/// Where the content of a target comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// These bytes.
    Inline(Arc<[u8]>),
    /// It becomes a further name of this file, which has the target's content and metadata.
    LinkTo(RelPath),
    /// It is renamed from a path that a later request of the same group removes, where it has the
    /// target's content and metadata.
    Moved(Box<Moved>),
    /// Nowhere: a directory, a link, an empty file, or only metadata changes.
    None,
    /// The whole of it is in the stage. The last request of a group that needs it takes it out.
    Staged,
}

/// Where a file comes from that is renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its path until now.
    pub from: RelPath,
    /// What must be there.
    pub was: (Entry, Signature),
    /// What becomes of it if it can neither come nor stay.
    pub displaced: Displaced,
}

/// What becomes of the file that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Displaced {
    /// Removed after a second look.
    Drop,
    /// Kept under this id until the caller takes it.
    Keep(KeptId),
    /// Moved to the trash after a second look. A removed directory is remembered there.
    Trash(TrashNote),
}

/// One change of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyRequest {
    /// Where.
    pub path: RelPath,
    /// What is to be there; nothing for a delete.
    pub target: Option<Entry>,
    /// What must be there for the change to be made; nothing if nothing must be there.
    pub expected: Option<(Entry, Signature)>,
    /// Where the content comes from.
    pub source: Source,
    /// What becomes of the file that was there. Directories, and links under
    /// [`Displaced::Drop`], are removed at once.
    pub displaced: Displaced,
    /// Displace the file although a writer has it open. What the writer still writes is found by
    /// [`super::look_again`].
    pub even_if_open: bool,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A writer has the file open; nothing was changed.
    Busy,
    /// What is on disk is not what was expected; it stays.
    Changed,
    /// The source does not hold the target's content.
    ContentMissing,
    /// It could not be done.
    Failed {
        /// As in "cannot rename over the target: permission denied".
        reason: String,
        /// The disk or a quota is full.
        no_space: bool,
    },
    /// It is done, and durable.
    Done {
        /// Of what is there now, on every path that is a name of it; nothing after a delete.
        signature: Option<Signature>,
    },
    /// The directory to be removed or replaced has children.
    NotEmpty,
    /// There is no directory to put it into.
    ParentMissing,
}

impl Outcome {
    pub(crate) fn failed(reason: &str) -> Self {
        Self::Failed { reason: reason.to_owned(), no_space: false }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        Self::Failed { reason: refused.reason(), no_space: refused.is_no_space() }
    }
}

/// Applies one durability group, in order. Outcome `i` belongs to request `i`; `visible` is told `i`
/// as soon as that change is visible, before it is durable.
#[must_use]
pub fn apply_group(
    mount: &Mount,
    requests: &[ApplyRequest],
    visible: impl FnMut(usize),
) -> Vec<Outcome> {
    apply_noted(mount, requests, || Ok(()), visible)
}

/// The same, where `noted` is asked once everything is staged: nothing becomes visible before it has
/// returned, and nothing at all if it tells a reason why not. Whatever it waits for goes on beside the
/// staging.
#[must_use]
pub fn apply_noted(
    mount: &Mount,
    requests: &[ApplyRequest],
    noted: impl FnOnce() -> Result<(), String>,
    mut visible: impl FnMut(usize),
) -> Vec<Outcome> {
    let mut uses = staged_uses(requests);
    let mut syncs = sync::StageSync::default();
    let mut plans = Vec::with_capacity(requests.len());
    for request in requests {
        let plan = prepare(mount, request, &mut uses, &mut syncs);
        plans.push(plan.unwrap_or_else(Plan::Settled));
    }
    if let Err(e) = syncs.run(mount) {
        for plan in &mut plans {
            refuse_staged(mount, plan, &e);
        }
    }
    if let Err(reason) = noted() {
        plans.iter_mut().for_each(|plan| call_off(mount, plan, &reason));
    }
    let mut placer = Placer::new(mount);
    let place = |(i, (request, plan))| {
        let outcome = placer.place(request, plan);
        if outcome.is_done() {
            visible(i);
        }
        outcome
    };
    let mut outcomes: Vec<Outcome> = requests.iter().zip(plans).enumerate().map(place).collect();
    placer.finish(requests, &mut outcomes);
    outcomes
}

/// How many requests take each content from the stage.
fn staged_uses(requests: &[ApplyRequest]) -> HashMap<ContentId, usize> {
    let mut uses = HashMap::new();
    for request in requests.iter().filter(|request| request.source == Source::Staged) {
        if let Some((content, _)) = request.target.as_ref().and_then(Entry::content) {
            *uses.entry(content).or_default() += 1;
        }
    }
    uses
}

/// Nothing of this may become visible. What was staged is as good as before.
fn call_off(mount: &Mount, plan: &mut Plan, reason: &str) {
    match plan {
        Plan::Settled(_) => return,
        Plan::Put(item) => item.discard(mount, &mount.stage, item.name.as_bytes()),
        Plan::Absent | Plan::Delete | Plan::InPlace | Plan::Link(_) | Plan::Move(_) => {}
    }
    *plan = Plan::Settled(Outcome::failed(reason));
}

fn refuse_staged(mount: &Mount, plan: &mut Plan, refused: &Refused) {
    if let Plan::Put(item) = plan {
        item.distrust();
        item.discard(mount, &mount.stage, item.name.as_bytes());
        *plan = Plan::Settled(Outcome::Failed {
            reason: refused.reason(),
            no_space: refused.is_no_space(),
        });
    }
}
