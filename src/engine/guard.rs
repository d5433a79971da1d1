//! Holds deletions back that are more than anybody means to make: a class has a budget, and what
//! goes beyond it waits for a person.
//!
//! In: a path that is gone from the disk of this node. Out: whether that becomes a deletion, waits,
//! or is undone. A deletion is held where it was made, before any peer hears of it, so one word on
//! one node lets it through. Once a class has spent its budget all its deletions wait, or the rest of
//! them would trickle out; a restart does not change that. Nothing but deletions is ever held, and
//! nothing held is remembered but where it is: it is looked at anew.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::Now;
use super::policy::{Class, DeleteBudget};
use super::slot::Slot;
use super::want::Want;
use super::{Engine, Output, Seen};
use crate::model::{Record, RelPath, limits};

/// The time over which a budget is spent: half of it is there again after half of this.
pub const BUDGET_WINDOW_MS: u64 = 10 * 60 * 1000;

/// After what time held deletions are looked at again for the first time. What was renamed, not
/// deleted, is known under its new name by then.
const AGAIN_MS: u64 = 2000;

/// The longest wait between two looks; after it only the regular scan looks.
const AGAIN_MS_MAX: u64 = 60_000;

/// What is held, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Whose budget was spent, with the budget.
    pub classes: Vec<(Class, DeleteBudget)>,
    /// Paths that are gone here and nowhere else.
    pub count: usize,
    /// Whether there are more than were counted.
    pub more: bool,
    /// The first of them, by path.
    pub paths: Vec<RelPath>,
    /// Since when, in nanoseconds since 1970.
    pub since_ns: u64,
}

/// What a person said about what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// These are deletions.
    Approved,
    /// These come back.
    Reverted,
}

/// What becomes of a path that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ruling {
    /// It is a deletion.
    Delete,
    /// It waits.
    Hold,
    /// It comes back.
    Restore,
}

/// What the deletions of a class have spent.
#[derive(Debug, Default)]
struct Spent {
    /// Deletions times [`BUDGET_WINDOW_MS`]: so what comes back in a millisecond is a whole number.
    level: u64,
    at_ms: u64,
}

/// The deletions of one mount that are held.
#[derive(Debug, Default)]
pub(super) struct Guard {
    spent: BTreeMap<Class, Spent>,
    tripped: BTreeSet<Class>,
    /// With whether it is a directory that cannot go because of what is in it.
    held: BTreeMap<RelPath, bool>,
    /// More are held than are remembered; a listing finds them.
    forgot: bool,
    /// What a person said, until all that is held was looked at; and whether there was more.
    word: Option<(Word, bool)>,
    deploying_until_ms: u64,
    since_ns: u64,
    again_ms: Option<u64>,
    wait_ms: u64,
}

impl Guard {
    /// A guard that had tripped for these classes when the daemon ended.
    pub(super) fn tripped(classes: &[Class]) -> Self {
        Self { tripped: classes.iter().copied().collect(), ..Self::default() }
    }

    /// When held deletions are looked at again.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.again_ms
    }

    pub(super) fn holds(&self, path: &RelPath) -> bool {
        self.held.contains_key(path)
    }

    /// The path is not gone any more, or is no longer held. Says whether it was a directory that waited
    /// for what was in it: not all of that may have been looked at.
    pub(super) fn forget(&mut self, path: &RelPath) -> bool {
        !self.held.is_empty() && self.held.remove(path).unwrap_or_default()
    }

    /// Whether something below the directory is held.
    fn holds_below(&self, dir: &RelPath) -> bool {
        let after = self.held.range(dir.clone()..).skip_while(|(path, _)| *path == dir);
        let mut near = after.take_while(|(path, _)| path.as_bytes().starts_with(dir.as_bytes()));
        near.any(|(path, _)| path.is_below(dir))
    }

    /// Whether there may be more than is remembered.
    fn is_more(&self) -> bool {
        self.forgot || self.held.values().any(|&open| open)
    }

    /// Whether there is room for one more in the budget; spends it if so.
    fn spend(&mut self, now: Now, class: Class, budget: DeleteBudget, files: u64) -> bool {
        let spent = self.spent.entry(class).or_default();
        let made = spent.level / BUDGET_WINDOW_MS;
        let allowed = budget.of(files.saturating_add(made));
        let passed = now.monotonic_ms.saturating_sub(spent.at_ms);
        spent.level = spent.level.saturating_sub(allowed.saturating_mul(passed));
        spent.at_ms = now.monotonic_ms;
        let level = spent.level + BUDGET_WINDOW_MS;
        let fits = level <= allowed.saturating_mul(BUDGET_WINDOW_MS);
        if fits {
            spent.level = level;
        }
        fits
    }
}

impl Engine {
    /// What is held here, if anything.
    #[must_use]
    pub fn held(&self, paths_max: usize) -> Option<Held> {
        let guard = &self.guard;
        if guard.held.is_empty() && !guard.forgot {
            return None;
        }
        let budget = |class: Class| self.setup.policy.settings(class).delete_budget;
        let classes = guard.tripped.iter();
        Some(Held {
            classes: classes.filter_map(|&class| Some((class, budget(class)?))).collect(),
            count: guard.held.len(),
            more: guard.is_more(),
            paths: guard.held.keys().take(paths_max).cloned().collect(),
            since_ns: guard.since_ns,
        })
    }

    /// Until when a deployment goes on, by the monotonic clock; nothing if none does.
    #[must_use]
    pub fn deploying_until_ms(&self, now: Now) -> Option<u64> {
        Some(self.guard.deploying_until_ms).filter(|&until| until > now.monotonic_ms)
    }

    /// Decides about a path that is gone, whose record is live and has nothing below it.
    pub(super) fn rule(&mut self, now: Now, seen: &Seen, ours: &Record) -> Ruling {
        let class = self.class(&seen.path);
        let guard = &mut self.guard;
        let tripped = guard.tripped.contains(&class);
        if ours.is_dir() {
            // There is nothing in it to lose.
            return Ruling::Delete;
        }
        match guard.word {
            Some((Word::Approved, _)) if tripped => return Ruling::Delete,
            Some((Word::Reverted, _)) if tripped => return Ruling::Restore,
            _ => {}
        }
        let Some(budget) = self.setup.policy.settings(class).delete_budget else {
            return Ruling::Delete;
        };
        let wanted = self.slots.get(&seen.path).and_then(|slot| slot.want.as_deref());
        // An edit beats a deletion that had not seen it: what comes makes up for what goes.
        let comes = wanted.is_some_and(|want| want.record.is_live() && !want.restores);
        let moved = seen.elsewhere && !budget.is_nothing();
        if now.monotonic_ms < guard.deploying_until_ms || comes || moved {
            return Ruling::Delete;
        }
        if tripped {
            return Ruling::Hold;
        }
        if guard.spend(now, class, budget, seen.files) {
            return Ruling::Delete;
        }
        guard.tripped.insert(class);
        self.note_tripped();
        Ruling::Hold
    }

    /// Whether a person said that a directory that is gone, with what is in it, shall come back.
    pub(super) fn comes_back(&self, dir: &RelPath) -> bool {
        let is_coming = |slot: &Slot| slot.want.as_deref().is_some_and(|want| want.restores);
        let said = |(word, all)| word == Word::Reverted && (all || self.guard.holds(dir));
        self.guard.word.is_some_and(said) || self.slots.get(dir).is_some_and(is_coming)
    }

    /// Whether nothing but what is held keeps a directory from going.
    pub(super) fn is_held_open(&self, dir: &RelPath) -> bool {
        self.guard.holds_below(dir) && self.slots_below(dir).next().is_none()
    }

    /// The path waits, at rest, until a person has decided or something happens there. `open` says
    /// that it is a directory that waits for what is in it.
    pub(super) fn hold(&mut self, now: Now, path: &RelPath, open: bool) {
        let guard = &mut self.guard;
        if guard.held.is_empty() && !guard.forgot {
            guard.since_ns = now.wall_ns;
        }
        let known = guard.holds(path);
        if known || guard.held.len() < limits::HELD_MAX {
            guard.held.insert(path.clone(), open);
        } else {
            guard.forgot = true;
        }
        if !known && guard.again_ms.is_none() {
            guard.wait_ms = AGAIN_MS;
            guard.again_ms = Some(now.monotonic_ms + AGAIN_MS);
        }
    }

    /// What was held here comes back: it is made anew, as it was, and held until then.
    pub(super) fn restore(&mut self, now: Now, ours: &Record, open: bool) {
        self.hold(now, &ours.path, open);
        let slot = self.slots.entry(ours.path.clone()).or_default();
        if slot.want.is_none() {
            let want = Want::new(ours.clone(), BTreeMap::new());
            slot.want = Some(Box::new(Want { restores: true, ..want }));
            self.wants += 1;
        }
    }

    pub(super) fn approve(&mut self, now: Now) {
        self.decide(now, Word::Approved);
    }

    pub(super) fn revert(&mut self, now: Now) {
        self.decide(now, Word::Reverted);
    }

    fn decide(&mut self, now: Now, word: Word) {
        self.guard.word = Some((word, self.guard.is_more()));
        self.look_at_held(now);
    }

    pub(super) fn deploy(&mut self, until_ms: u64) {
        self.guard.deploying_until_ms = until_ms;
    }

    /// Looks at what is held when it is time to, and ends what is over.
    pub(super) fn tick_guard(&mut self, now: Now) {
        if self.guard.again_ms.is_some_and(|at| at <= now.monotonic_ms) {
            let wait = self.guard.wait_ms * 2;
            self.guard.wait_ms = wait;
            self.guard.again_ms = Some(now.monotonic_ms + wait).filter(|_| wait < AGAIN_MS_MAX);
            self.look_at_held(now);
        }
        if self.stopped || !self.is_read() {
            return;
        }
        let guard = &mut self.guard;
        guard.word = None;
        if guard.held.is_empty() && !guard.forgot && !guard.tripped.is_empty() {
            guard.tripped.clear();
            guard.spent.clear();
            guard.again_ms = None;
            self.note_tripped();
        }
    }

    /// Looks at all that is held; what is gone without being remembered is found by a listing.
    fn look_at_held(&mut self, now: Now) {
        let paths: Vec<_> = self.guard.held.keys().cloned().collect();
        paths.iter().for_each(|path| self.look_again(now, path, 0));
        if std::mem::take(&mut self.guard.forgot) {
            self.list(&RelPath::root());
        }
    }

    fn note_tripped(&mut self) {
        let classes = self.guard.tripped.iter().copied().collect();
        self.outputs.push_back(Output::Guard(classes));
    }
}

#[cfg(test)]
mod tests;
