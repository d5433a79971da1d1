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
            return self
                .input(Input::Hinted(vec![Hint { path: dir.clone(), kind: HintKind::Differs }]));
        };
        let mut known = self.index.children(dir)?.into_iter().peekable();
        let (mut hints, mut new) = (Vec::new(), Vec::new());
        let mut hint = |name: &[u8], is_news: bool| {
            // A path too long to be mirrored is told by whoever reads its directory.
            let Ok(path) = dir.join(name) else { return };
            if self.place.policy.class(&path) == Class::Local {
                return;
            }
            if let (true, Some(audit)) = (is_news, &mut self.audit) {
                audit.found(&path);
            }
            hints.push(Hint { path, kind: HintKind::Differs });
        };
        for child in found {
            while let Some(gone) = known.next_if(|known| known.name < child.name) {
                hint(&gone.name, true);
            }
            match known.next_if(|known| known.name == child.name) {
                Some(known) if is_unchanged(known.signature, &child) => {}
                Some(known) => hint(&child.name, !is_touched(known.signature, &child)),
                None => {
                    hint(&child.name, true);
                    new.push(child);
                }
            }
        }
        known.for_each(|gone| hint(&gone.name, true));
        let hints = self.with_origins(hints, dir, &new)?;
        self.input(Input::Hinted(hints))
    }

    /// A subtree was listed.
    pub(super) fn walked(&mut self, top: &RelPath) -> Result<(), IndexError> {
        self.walking.pop_front();
        // What was listed while the mount was away says nothing: it is listed again when it is back.
        let cut = std::mem::take(&mut self.walk_cut) || self.is_halted();
        if !cut && top.is_root() {
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
