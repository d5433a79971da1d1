//! A file that goes from one path and comes at another in the same group is renamed, not made anew.
//!
//! In: a request for the new path, and what the old one must hold. Out: the file is at the new path, or
//! where it was. Between the two it lies in `displaced/`, unseen, where it is looked at and where a
//! crash leaves it to the second look, as if it had only been removed. It must never show at the new path
//! what is not the version that was expected at the old one.

use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::apply::{ApplyRequest, Moved, Outcome};
use super::call::Call;
use super::displaced::Slot;
use super::look::Look;
use super::place::{Placer, fate, put_back};
use super::prepare::Item;
use super::settle;

const LEAVE: Call = Call::new("rename.leave", "move the file away from its old path");
const ARRIVE: Call = Call::new("rename.arrive", "rename to the new path");

impl Placer<'_> {
    /// Moves the file. Whatever keeps it where it is means that the content has to come from elsewhere.
    pub(crate) fn relocate(
        &mut self,
        request: &ApplyRequest,
        moved: &Moved,
    ) -> Result<Outcome, Outcome> {
        let elsewhere = |_| Outcome::ContentMissing;
        let old = ApplyRequest {
            path: moved.from.clone(),
            even_if_open: false,
            target: None,
            expected: None,
            source: super::Source::None,
            displaced: moved.displaced.clone(),
        };
        let (parent, name) = self.parent(&request.path)?;
        if Look::at(&parent.fd, name)?.is_some() {
            return Err(Outcome::Changed);
        }
        let (old_parent, old_name) = self.parent(&moved.from).map_err(elsewhere)?;
        self.check(&old_parent, old_name, &old, &moved.was).map_err(elsewhere)?;
        let mount = self.mount;
        let slot = Slot::new(mount, fate(&moved.displaced), None, &moved.was.1, &moved.from)?;
        self.touch(&old_parent)?;
        self.touch(&parent)?;
        let flags = RenameFlags::NOREPLACE;
        LEAVE
            .run(|| renameat_with(&old_parent.fd, old_name, &mount.displaced, &*slot.name, flags))
            .map_err(
                |e| if e.errno() == Errno::NOENT { Outcome::ContentMissing } else { e.into() },
            )?;
        let placed =
            settle::judge(mount, &slot, &old, &moved.was).map_err(elsewhere).and_then(|look| {
                ARRIVE
                    .run(|| renameat_with(&mount.displaced, &*slot.name, &parent.fd, name, flags))
                    .map_err(|e| match e.errno() {
                        Errno::EXIST => Outcome::Changed,
                        Errno::NOENT | Errno::NOTDIR => Outcome::ParentMissing,
                        _ => e.into(),
                    })
                    .map(|()| look)
            });
        match placed {
            Ok(look) => {
                let item = Item::new(String::new(), look);
                Ok(self.confirm(&parent.fd, name, &item))
            }
            Err(outcome) => {
                put_back(mount, &slot, &old_parent.fd, old_name);
                Err(outcome)
            }
        }
    }
}
