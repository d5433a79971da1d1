//! What a regular scan of a mount found that its watcher had not told of.
//!
//! In: what was going on when the scan began; while it goes on, what the watcher tells, and what
//! was listed and stored. Out: a number, for `status`. Only what is stored as an edit made here
//! counts, so neither what was being applied while it was listed nor a file that was only looked
//! at does. No I/O.

use std::collections::BTreeSet;
use std::mem::take;
use std::time::Duration;

use super::actor::{Actor, Event};
use crate::engine::{Hint, HintKind, Input};
use crate::index::IndexError;
use crate::model::{RelPath, limits};

/// How long the watcher may take to tell what happened before the end of a scan.
const TOLD_IN: Duration = Duration::from_secs(60);

impl Actor {
    /// Begins to look for what the watcher misses, just before a regular scan.
    pub(super) fn begin_audit(&mut self) {
        // Without a watcher nothing is told, and after an overflow everything was.
        let all_told = self.walking.iter().any(RelPath::is_root);
        self.audit = (self.watcher.is_some() && !all_told).then(|| {
            let in_hand = self.engine.doing(usize::MAX).into_iter().map(|(path, _)| path);
            Audit::new(in_hand, self.walking.iter().cloned())
        });
    }

    /// Something happened at these paths.
    pub(super) fn hinted(&mut self, hints: Vec<Hint>) -> Result<(), IndexError> {
        self.note_told(&hints);
        self.input(Input::Hinted(hints))
    }

    pub(super) fn note_told(&mut self, hints: &[Hint]) {
        if let Some(audit) = &mut self.audit {
            hints.iter().for_each(|hint| audit.told(&hint.path, hint.kind));
        }
    }

    /// The scan has listed everything.
    pub(super) fn end_audit(&mut self) {
        match self.watcher.clone() {
            Some(watcher) if self.audit.is_some() => {
                self.when_told(watcher, TOLD_IN, Event::Told);
            }
            _ => self.audit = None,
        }
    }

    /// The watcher has told everything, or cannot.
    pub(super) fn told_all(&mut self, result: Result<(), String>) -> Result<(), IndexError> {
        match result {
            Ok(()) => {
                while self.take_hints()? {}
                self.audit.iter_mut().for_each(Audit::told_all);
            }
            Err(reason) => {
                tracing::debug!(mount = self.place.name, reason, "cannot tell what was missed");
                self.audit = None;
            }
        }
        Ok(())
    }

    /// Counts what was missed, as far as that can be said now.
    pub(super) fn count_missed(&mut self) {
        let Some(audit) = &mut self.audit else { return };
        let missed = audit.count();
        if audit.is_over() {
            self.audit = None;
        }
        if missed > 0 {
            self.missed_events += missed;
            tracing::info!(
                mount = self.place.name,
                missed,
                "changed, and the watcher had not told"
            );
        }
    }
}

/// One regular scan, until all it found is looked at.
#[derive(Debug, Default)]
pub(super) struct Audit {
    told: BTreeSet<RelPath>,
    /// With everything below them.
    told_below: BTreeSet<RelPath>,
    /// Found different and not looked at yet.
    found: BTreeSet<RelPath>,
    /// Of these, what had changed.
    changed: BTreeSet<RelPath>,
    /// The watcher has told everything that happened before the end of the listing.
    told_all: bool,
}

impl Audit {
    /// Begins. What is `in_hand` is known of already, and what is below the directories that are
    /// being listed for other reasons.
    pub(super) fn new(
        in_hand: impl IntoIterator<Item = RelPath>,
        listing: impl IntoIterator<Item = RelPath>,
    ) -> Self {
        let (told, told_below) = (in_hand.into_iter().collect(), listing.into_iter().collect());
        Self { told, told_below, ..Self::default() }
    }

    /// The watcher told of this path.
    pub(super) fn told(&mut self, path: &RelPath, kind: HintKind) {
        if matches!(kind, HintKind::Gone | HintKind::Moved) {
            self.told_below(path);
        } else if !self.told_all {
            self.told.insert(path.clone());
        }
        if self.told.len() > limits::DIRTY_MAX {
            // Nothing can be said any more of what was not told.
            self.told.clear();
            self.told_below(&RelPath::root());
        }
    }

    /// The watcher told that anything at or below this path may have changed.
    pub(super) fn told_below(&mut self, path: &RelPath) {
        if !self.told_all {
            self.told_below.insert(path.clone());
        }
    }

    /// A listing differs from the index here.
    pub(super) fn found(&mut self, path: &RelPath) {
        if self.found.len() + self.changed.len() < limits::DIRTY_MAX && !self.is_told(path) {
            self.found.insert(path.clone());
        }
    }

    /// An edit made here was stored.
    pub(super) fn stored(&mut self, path: &RelPath) {
        if let Some(path) = self.found.take(path) {
            self.changed.insert(path);
        }
    }

    /// There is nothing to do at the path any more.
    pub(super) fn finished(&mut self, path: &RelPath) {
        self.found.remove(path);
    }

    /// Everything that happened before the end of the listing was told.
    pub(super) fn told_all(&mut self) {
        self.told_all = true;
    }

    /// Gives the number of missed changes since the last time, once that can be said.
    pub(super) fn count(&mut self) -> u64 {
        if !self.told_all {
            return 0;
        }
        let mut found = take(&mut self.found);
        found.retain(|path| !self.is_told(path));
        self.found = found;
        let changed = take(&mut self.changed);
        changed.iter().filter(|path| !self.is_told(path)).count() as u64
    }

    /// Whether nothing can be added to the count any more.
    pub(super) fn is_over(&self) -> bool {
        self.told_all && self.found.is_empty() && self.changed.is_empty()
    }

    fn is_told(&self, path: &RelPath) -> bool {
        if self.told.contains(path) {
            return true;
        }
        let mut at = Some(path.clone());
        while let Some(dir) = at {
            if self.told_below.contains(&dir) {
                return true;
            }
            at = dir.parent();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::config::Watch;
    use crate::daemon::actor::start_watch;
    use crate::daemon::halt::Halt;
    use crate::daemon::testing::Fixture;

    /// Has an audit see `steps`, as "tell a, find b, store b, end", and looks at its count. A path
    /// ending in `/` is told with all that is below it.
    #[track_caller]
    fn check(steps: &str, missed: u64) {
        let path = |text: &str| RelPath::parse(text.trim_end_matches('/').as_bytes()).unwrap();
        let mut audit = Audit::new([path("in-hand")], [path("listed")]);
        let mut count = 0;
        for step in steps.split(", ") {
            match step.split_once(' ').unwrap_or((step, "")) {
                ("tell", all) if all.ends_with('/') => audit.told(&path(all), HintKind::Moved),
                ("tell", one) => audit.told(&path(one), HintKind::Closed),
                ("overflow", _) => audit.told_below(&RelPath::root()),
                ("find", one) => audit.found(&path(one)),
                ("store", one) => audit.stored(&path(one)),
                ("finish", one) => audit.finished(&path(one)),
                ("end", _) => audit.told_all(),
                _ => panic!("{step}"),
            }
            count += audit.count();
        }
        assert_eq!(missed, count, "{steps}");
    }

    #[test]
    fn what_was_found_and_stored_untold_is_missed() {
        check("find a, store a, finish a, end", 1);
        check("find a, store a, finish a", 0);
        check("find a, end, store a, finish a", 1);
        check("find a, find b/c, store a, end, store b/c", 2);
        check("find a, end, store a, tell a, find a, store a", 2);
    }

    #[test]
    fn what_was_told_before_or_soon_after_it_was_found_is_not_missed() {
        check("tell a, find a, store a, end", 0);
        check("find a, tell a, store a, end", 0);
        check("find a, store a, tell a, end", 0);
        check("find in-hand, store in-hand, end", 0);
        check("find listed/a, store listed/a, end", 0);
        check("find d/e/a, store d/e/a, tell d/, end", 0);
        check("find d, store d, tell d/, end", 0);
        check("find d/a, store d/a, tell d, end", 1);
        check("find a, store a, overflow, end", 0);
    }

    #[test]
    fn what_did_not_change_is_not_missed() {
        check("find a, finish a, end, store a", 0);
        check("store a, end, store b", 0);
    }

    #[test]
    fn an_audit_is_over_when_all_it_found_was_looked_at() {
        let a = RelPath::parse(b"a").unwrap();
        let mut audit = Audit::default();
        audit.found(&a);
        assert!(!audit.is_over());
        audit.told_all();
        assert!(!audit.is_over());
        audit.finished(&a);
        assert!(audit.is_over());
    }

    #[test]
    fn only_what_a_regular_scan_finds_untold_is_counted() {
        let mut fixture = Fixture::start();
        let mount = fixture.mount();
        let has = |actor: &Actor, name: &str| {
            let path = RelPath::parse(name.as_bytes()).unwrap();
            actor.index.row(&path).unwrap().is_some() && actor.audit.is_none()
        };
        fs::write(mount.join("told"), "x").unwrap();
        fixture.actor.next_scan_ms = 0;
        fixture.turn_until(|actor| actor.next_scan_ms > 0 && has(actor, "told"));
        assert_eq!(0, fixture.actor.missed_events);

        // A watcher of another directory misses everything here.
        let elsewhere = tempfile::tempdir().unwrap();
        let place = crate::daemon::actor::Place {
            path: elsewhere.path().to_owned(),
            ..fixture.actor.place.clone()
        };
        let blind = start_watch(&place, Watch::Inotify, &fixture.actor.inbox).unwrap();
        let seeing = fixture.actor.watcher.replace(Arc::new(blind));
        fs::create_dir(mount.join("dir")).unwrap();
        fs::write(mount.join("dir/missed"), "x").unwrap();
        fixture.actor.input(Input::Scan(RelPath::root())).unwrap();
        fixture.actor.end_turn().unwrap();
        fixture.turn_until(|actor| has(actor, "dir/missed") && actor.engine.is_read());
        assert_eq!(0, fixture.actor.missed_events, "no regular scan");

        fs::write(mount.join("dir/missed-again"), "x").unwrap();
        fixture.actor.next_scan_ms = 0;
        fixture.turn_until(|actor| actor.next_scan_ms > 0 && has(actor, "dir/missed-again"));
        assert_eq!(1, fixture.actor.missed_events);
        drop(seeing);
    }

    #[test]
    fn a_scan_in_which_the_mount_was_away_does_not_count() {
        let mut fixture = Fixture::start();
        let actor = &mut fixture.actor;
        let root = RelPath::root();
        actor.scanned = false;
        actor.halted = Some(Halt::opening());
        actor.listing(&root, None).unwrap();
        actor.halted = None;
        actor.walked(&root).unwrap();
        assert!(!actor.scanned, "what it found before would be taken for edits");
        actor.walked(&root).unwrap();
        assert!(actor.scanned);
    }
}
