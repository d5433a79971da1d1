//! Heals the node's repository: what is damaged is put aside, and stored again from the own files or from
//! what other nodes have.
//!
//! Every object is checked by its id before it is stored, wherever it comes from. What nobody has stays
//! missing, and is named; its bytes are in quarantine.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use tokio::runtime::Handle;

use super::copies::Source;
use super::{ActorHandle, Shared, chain, snapshots};
use crate::control::types::{HealReply, HealRequest, Refusal, RefusalKind, SnapshotObject};
use crate::snapshot::{Kind, ObjectId, RepositoryError, Writer};

/// Objects that are healed in one call.
const OBJECTS_MAX: usize = 10_000;

fn parse(object: &SnapshotObject) -> Option<(Kind, ObjectId)> {
    let id = HEXLOWER.decode(object.id.as_bytes()).ok()?.try_into().ok()?;
    Some((Kind::of(object.kind)?, ObjectId(id)))
}

/// Heals these objects. May block.
///
/// # Errors
/// Nothing that is whole was lost, and it can be tried again.
pub(super) fn heal(
    shared: &Shared,
    mounts: &[(String, Arc<ActorHandle>)],
    request: &HealRequest,
    runtime: &Handle,
) -> Result<HealReply, Refusal> {
    if request.objects.len() > OBJECTS_MAX {
        let text = format!("at most {OBJECTS_MAX} objects are healed at a time");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    let objects: Option<Vec<_>> = request.objects.iter().map(parse).collect();
    let objects = objects.ok_or_else(|| Refusal::new(RefusalKind::Invalid, "no object's id"))?;
    try_heal(shared, mounts, &objects, runtime).map_err(|error| {
        let kind = match &error {
            RepositoryError::Busy(_) => RefusalKind::State,
            _ => RefusalKind::Failed,
        };
        Refusal::new(kind, format!("cannot heal the repository: {}", chain(&error)))
    })
}

fn try_heal(
    shared: &Shared,
    mounts: &[(String, Arc<ActorHandle>)],
    objects: &[(Kind, ObjectId)],
    runtime: &Handle,
) -> Result<HealReply, RepositoryError> {
    let _turn = shared.backup.turn();
    let repository = shared.backup.repository(&shared.state)?;
    let writer = Writer::begin(&repository)?;
    let aside = repository.quarantine(writer.lock(), objects)?;
    let lacking = |some: &[(Kind, ObjectId)]| -> Result<Vec<_>, RepositoryError> {
        let mut left = Vec::new();
        for &(kind, id) in some {
            if !writer.has(kind, id)? {
                left.push((kind, id));
            }
        }
        Ok(left)
    };
    let damaged = lacking(objects)?;
    if !damaged.is_empty()
        && let Err(error) = snapshots::store_whole(&writer, mounts)
    {
        // The others may have all of it.
        tracing::warn!(error = chain(&error), "cannot heal from the files of this node");
    }
    let left = lacking(&damaged)?;
    let here = damaged.len() - left.len();
    let mut reply = HealReply {
        packs: aside.packs,
        manifests: aside.manifests,
        quarantine: repository.quarantine_path().display().to_string(),
        from_files: here as u64,
        ..HealReply::default()
    };
    let holders = shared.other_members();
    let source = Source { shared, holders: &holders, runtime };
    for (kind, id) in left {
        match source.objects(&[(kind, id)]) {
            Ok(found) => {
                found.iter().try_for_each(|object| writer.put(kind, object).map(drop))?;
                reply.from_nodes += 1;
            }
            Err(reason) => {
                tracing::warn!(%kind, %id, reason, "nobody has a damaged object");
                reply.lost += 1;
                reply.reason = Some(reason);
            }
        }
    }
    writer.flush()?;
    drop(writer);
    shared.backup.wake(false);
    Ok(reply)
}
