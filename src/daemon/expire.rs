//! Clears away what was kept aside for long enough, or is more than it may be.
//!
//! In: the conflict store and the trash of each mount, their limits, and the time. Out: less of both, and
//! how much is left. The store is a mount of its own, so what goes here goes on every node; the trash is
//! that of this node. Which of it goes is decided by [`excess()`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::conflicts::{self, KEPT_FOR};
use super::{ActorHandle, Shared};
use crate::config::{Node, SizeLimit};
use crate::control::types::KeptSize;
use crate::disk;
use crate::engine::{CONFLICT_STAYS, Kept, TRASH_STAYS, excess};

/// What the configuration allows, and what the trashes took up when they were last cleared.
#[derive(Default)]
pub(super) struct Limits {
    conflicts: Option<SizeLimit>,
    trash: Option<SizeLimit>,
    trashes: Mutex<BTreeMap<String, KeptSize>>,
}

impl Limits {
    pub(super) fn new(node: &Node) -> Self {
        let (conflicts, trash) = (node.conflicts_max, node.trash_max);
        Self { conflicts, trash, trashes: Mutex::default() }
    }

    /// What the trash of a mount took up when it was last cleared; nothing if that is not known, or
    /// there is no limit.
    pub(super) fn trash_size(&self, mount: &str) -> Option<KeptSize> {
        self.trashes.lock().unwrap_or_else(PoisonError::into_inner).get(mount).copied()
    }

    fn note_trash(&self, mount: &str, size: KeptSize) {
        let mut trashes = self.trashes.lock().unwrap_or_else(PoisonError::into_inner);
        trashes.insert(mount.to_owned(), size);
    }
}

/// What the conflict store takes up, and may.
pub(super) fn conflicts_size(shared: &Shared) -> io::Result<KeptSize> {
    let bytes = total(&conflicts::stored(shared)?);
    Ok(KeptSize { bytes, bytes_max: conflicts_max(shared)? })
}

fn conflicts_max(shared: &Shared) -> io::Result<Option<u64>> {
    let store = shared.actor(conflicts::MOUNT);
    bytes_max(shared.limits.conflicts, store.as_deref())
}

fn total(stored: &[conflicts::Stored]) -> u64 {
    stored.iter().fold(0, |sum, one| sum.saturating_add(one.bytes))
}

/// A limit as bytes; nothing while the mount is not open.
fn bytes_max(limit: Option<SizeLimit>, actor: Option<&ActorHandle>) -> io::Result<Option<u64>> {
    let (Some(limit), Some(actor)) = (limit, actor) else { return Ok(None) };
    let (_, file_system_bytes) = actor.mount.free_space()?;
    Ok(Some(limit.bytes_on(file_system_bytes)))
}

/// Drops losers that were kept long enough here, and the oldest of those that are too much, on every
/// node; also what a crash left half of.
pub(super) fn clear_conflicts(shared: &Shared, now: SystemTime) -> io::Result<()> {
    let stored = conflicts::stored(shared)?;
    let (old, young): (Vec<_>, _) = stored.into_iter().partition(|one| one.since + KEPT_FOR < now);
    for one in old {
        conflicts::remove(shared, &one.id)?;
        tracing::info!(id = one.id.as_str(), "dropped a conflict that was kept long enough");
    }
    match conflicts_max(shared)? {
        Some(bytes_max) => limit_conflicts(shared, young, bytes_max, now),
        None => Ok(()),
    }
}

fn limit_conflicts(
    shared: &Shared,
    stored: Vec<conflicts::Stored>,
    bytes_max: u64,
    now: SystemTime,
) -> io::Result<()> {
    let too_much = total(&stored).saturating_sub(bytes_max);
    let kept = |one: conflicts::Stored| Kept {
        what: one.id,
        since: since_1970(one.since),
        bytes: one.bytes,
    };
    let kept = stored.into_iter().map(kept).collect();
    let before = since_1970(now).saturating_sub(CONFLICT_STAYS);
    for gone in excess(kept, too_much, before) {
        conflicts::remove(shared, &gone.what)?;
        tracing::warn!(
            id = gone.what.as_str(),
            bytes = gone.bytes,
            bytes_max,
            "dropped a conflict before its time; the conflict store is too large"
        );
    }
    Ok(())
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Removes what was in the trash of a mount long enough, and the oldest of what is too much.
pub(super) fn clear_trash(
    shared: &Shared,
    name: &str,
    actor: &ActorHandle,
    now: SystemTime,
) -> io::Result<()> {
    let now = since_1970(now);
    match disk::expire_trash(&actor.mount, now.as_secs())? {
        0 => {}
        files => tracing::info!(mount = name, files, "trash cleared"),
    }
    let Some(bytes_max) = bytes_max(shared.limits.trash, Some(actor))? else { return Ok(()) };
    let before = now.saturating_sub(TRASH_STAYS);
    let left = disk::limit_trash(&actor.mount, bytes_max, before).map_err(|e| e.source)?;
    if left.removed > 0 {
        tracing::warn!(
            mount = name,
            files = left.removed,
            bytes_left = left.bytes,
            bytes_max,
            "removed from the trash before its time; the trash was too large"
        );
    }
    let size = KeptSize { bytes: left.bytes, bytes_max: Some(bytes_max) };
    shared.limits.note_trash(name, size);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::daemon::conflicts::{Why, announce, folder, hint_store, list, names_of, status};
    use crate::daemon::testing::Fixture;
    use crate::model::{NodeId, Record, RelPath, Stamp, Version};

    /// Keeps a loser, as an apply and what follows it do. Gives its id.
    fn keep(shared: &Shared, path: &str, text: &str) -> String {
        let version = Version::edit(Stamp { counter: 1, node: NodeId(7) }, None);
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let record = Record { path, entry: None, version };
        let id = announce(shared, "data", &record, Why::Concurrent);
        fs::write(folder(&shared.state).join(id.as_str()), text).unwrap();
        hint_store(shared, names_of(id.as_str()).into());
        id.as_str().to_owned()
    }

    /// Keeps another one, later than `other` as the list tells it.
    fn keep_after(shared: &Shared, other: &str, path: &str, text: &str) -> String {
        let listed = |id: &str| status(shared, id).unwrap().kept;
        let mut id = keep(shared, path, text);
        // Until the file system's clock has gone on so far.
        while listed(&id) == listed(other) {
            id = keep(shared, path, text);
        }
        id
    }

    fn ids(shared: &Shared) -> Vec<String> {
        list(shared).unwrap().into_iter().map(|conflict| conflict.id).collect()
    }

    /// When the conflict was kept.
    fn since(shared: &Shared, id: &str) -> SystemTime {
        let stored = conflicts::stored(shared).unwrap();
        stored.into_iter().find(|one| one.id.as_str() == id).unwrap().since
    }

    /// Takes turns until exactly these are live in the index, which other nodes are told of.
    fn turn_until_mirrored(fixture: &mut Fixture, ids: &[&str]) {
        let mut names: Vec<_> = ids.iter().flat_map(|id| names_of(id)).collect();
        names.sort();
        fixture.turn_until(|actor| {
            let mut live = actor.index.live_below(&RelPath::root(), 99).unwrap();
            live.sort();
            live == names && actor.engine.is_read()
        });
    }

    /// Others are told that it is gone.
    fn is_told_gone(fixture: &Fixture, id: &str) -> bool {
        let gone = RelPath::parse(id.as_bytes()).unwrap();
        fixture.actor.index.row(&gone).unwrap().is_some()
    }

    #[test]
    fn an_expired_conflict_goes_on_every_node_and_a_younger_one_stays() {
        let mut fixture = Fixture::conflict_store();
        let shared = fixture.actor.shared.clone();
        let old = keep(&shared, "old", "x");
        let young = keep_after(&shared, &old, "young", "y");
        turn_until_mirrored(&mut fixture, &[&old, &young]);
        assert_eq!([young.clone(), old.clone()], *ids(&shared));

        let expires = since(&shared, &old) + KEPT_FOR;
        clear_conflicts(&shared, expires).unwrap();
        assert_eq!(2, ids(&shared).len());
        clear_conflicts(&shared, expires + Duration::from_nanos(1)).unwrap();
        assert_eq!(std::slice::from_ref(&young), ids(&shared));
        turn_until_mirrored(&mut fixture, &[&young]);
        assert!(is_told_gone(&fixture, &old));
    }

    #[test]
    fn half_a_conflict_expires_as_well() {
        let fixture = Fixture::conflict_store();
        let shared = fixture.actor.shared.clone();
        let (nameless, empty) = (keep(&shared, "a", "x"), keep(&shared, "b", "y"));
        fs::remove_file(folder(&shared.state).join(format!("{nameless}.json"))).unwrap();
        fs::remove_file(folder(&shared.state).join(&empty)).unwrap();
        let files = || fs::read_dir(folder(&shared.state)).unwrap().count();
        let before = files();
        clear_conflicts(&shared, SystemTime::now()).unwrap();
        assert_eq!(before, files());
        clear_conflicts(&shared, SystemTime::now() + KEPT_FOR).unwrap();
        assert_eq!(before - 2, files());
    }

    #[test]
    fn the_oldest_conflicts_go_on_every_node_when_the_store_is_too_large() {
        let mut fixture = Fixture::conflict_store();
        let shared = fixture.actor.shared.clone();
        let text = "x".repeat(100_000);
        let oldest = keep(&shared, "oldest", &text);
        let next = keep_after(&shared, &oldest, "next", &text);
        let young = keep_after(&shared, &next, "young", &text);
        turn_until_mirrored(&mut fixture, &[&oldest, &next, &young]);
        let limit = |bytes_max, now| {
            let stored = conflicts::stored(&shared).unwrap();
            limit_conflicts(&shared, stored, bytes_max, now).unwrap();
            ids(&shared)
        };
        let size = conflicts_size(&shared).unwrap();
        assert!(size.bytes > 300_000 && size.bytes_max.is_none(), "{size:?}");
        // For a week none goes, however much they are.
        let week = since(&shared, &oldest) + CONFLICT_STAYS;
        assert_eq!(3, limit(0, week).len());
        assert_eq!(3, limit(size.bytes, week + KEPT_FOR).len());
        assert_eq!([young.clone(), next.clone()], *limit(size.bytes - 1, week + KEPT_FOR));
        turn_until_mirrored(&mut fixture, &[&next, &young]);
        assert!(is_told_gone(&fixture, &oldest));
        // The limit stops at what is younger.
        let week = since(&shared, &young) + CONFLICT_STAYS;
        assert_eq!([young], *limit(0, week));
    }
}
