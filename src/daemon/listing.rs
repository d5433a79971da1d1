//! What was listed, compared with the index: what differs is to be looked at.

use super::actor::Actor;
use super::workers::Listing;
use crate::disk;
use crate::engine::{Class, Hint, HintKind, Input};
use crate::index::IndexError;
use crate::model::{RelPath, Signature};

impl Actor {
    /// Compares a listing with the index.
    pub(super) fn listing(&mut self, dir: &RelPath, found: Listing) -> Result<(), IndexError> {
        self.turn.listings += 1;
        if self.is_halted() {
            self.walk_cut = true;
            return Ok(());
        }
        let Some(found) = found else {
            let gone = Hint { path: dir.clone(), kind: HintKind::Gone };
            return self.input(Input::Hinted(vec![gone]));
        };
        let mut known = self.index.children(dir)?.into_iter().peekable();
        let (mut hints, mut new) = (Vec::new(), Vec::new());
        let mut hint = |name: &[u8], kind: HintKind, is_news: bool| {
            // A path too long to be mirrored is told by whoever reads its directory.
            let Ok(path) = dir.join(name) else { return };
            if self.place.policy.class(&path) == Class::Local {
                return;
            }
            if let (true, Some(audit)) = (is_news, &mut self.audit) {
                audit.found(&path);
            }
            hints.push(Hint { path, kind });
        };
        // A directory that is gone may be made anew before it is looked at: then what was in it is
        // asked for, which no event may have told (those in a removed directory lead nowhere).
        let (gone, differs) = (HintKind::Gone, HintKind::Differs);
        for child in found {
            while let Some(known) = known.next_if(|known| known.name < child.name) {
                hint(&known.name, gone, true);
            }
            match known.next_if(|known| known.name == child.name) {
                Some(known) if is_unchanged(known.signature, &child) => {}
                Some(known) => hint(&child.name, differs, !is_touched(known.signature, &child)),
                None => {
                    hint(&child.name, differs, true);
                    new.push(child);
                }
            }
        }
        known.for_each(|known| hint(&known.name, gone, true));
        let hints = self.with_origins(hints, dir, &new)?;
        self.input(Input::Hinted(hints))
    }

    /// A subtree was listed.
    pub(super) fn walked(&mut self, top: &RelPath) -> Result<(), IndexError> {
        self.walking.pop_front();
        // What was listed while the mount was away says nothing: it is listed again when it is back.
        let cut = std::mem::take(&mut self.walk_cut) || self.is_halted();
        if !cut && top.is_root() {
            // Nothing lists the directory that they would be found missing in.
            let orphans = self.index.orphans()?.into_iter();
            let hints: Vec<_> = orphans.map(|path| Hint { path, kind: HintKind::Gone }).collect();
            if !hints.is_empty() {
                self.input(Input::Hinted(hints))?;
            }
            self.scanned = true;
            self.end_audit();
        }
        self.input(Input::Listed(top.clone()))
    }
}

/// Whether a listed child needs no look. A directory's own times move with its children.
fn is_unchanged(known: Option<Signature>, child: &disk::Listed) -> bool {
    let Some(before) = known else { return false };
    if child.is_dir {
        return is_touched(known, child) && before.mtime == child.signature.mtime;
    }
    !before.racy && before.unchanged(&child.signature)
}

/// Whether a listed directory can differ in nothing but its times.
fn is_touched(known: Option<Signature>, child: &disk::Listed) -> bool {
    let same = |known: Signature| {
        known.inode == child.signature.inode && known.mode == child.signature.mode
    };
    child.is_dir && known.is_some_and(same)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::daemon::testing::Fixture;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    /// A directory is made anew between a listing that misses it and the look at it, and nothing else
    /// tells of what was in the first.
    fn check(listed: &str, found: Listing) {
        let mut fixture = Fixture::start();
        let dir = fixture.mount().join("dir/sub");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "x").unwrap();
        let file = path("dir/sub/file");
        let is_live = |actor: &Actor| {
            let row = actor.index.row(&file).unwrap();
            row.is_some_and(|row| row.record.is_live()) && actor.engine.is_read()
        };
        fixture.turn_until(is_live);

        let watcher = fixture.actor.watcher.take();
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        drop(watcher);
        fixture
            .actor
            .inbox
            .push(crate::daemon::actor::Event::Listing { dir: path(listed), children: found });
        fixture.turn_until(|actor| !is_live(actor) && actor.engine.is_read());
    }

    #[test]
    fn what_was_in_a_directory_that_a_listing_missed_is_asked_for() {
        check("dir", Some(Vec::new()));
        check("dir/sub", None);
    }
}
