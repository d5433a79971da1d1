//! The set of paths the kernel named and nobody has looked at yet.
//!
//! In: what a backend read, in the kernel's order. Out: the same, one entry a path, at the position
//! at which the path was first named. It is bounded: too many paths become their directory, then
//! their subtree, then the root. It marks too much rather than too little and never drops a path.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Hint, HintKind, WatchEvent};
use crate::model::RelPath;

/// How much may be pending before paths are collapsed into their directories.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Entries: paths and overflowed subtrees together.
    pub(super) paths: usize,
    /// Bytes of these entries' paths.
    pub(super) bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pending {
    bounds: Bounds,
    by_path: HashMap<RelPath, Slot>,
    order: BTreeMap<u64, RelPath>,
    bytes: usize,
    /// The position the next entry gets; never used twice.
    next: u64,
    /// Positions that are not to be handed out, nor anything after them, until confirmed.
    held: BTreeSet<u64>,
    /// Entries that are overflows: while there are none, nothing can be covered by one.
    overflowed: usize,
    overflows: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    position: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Hint { kind: HintKind, is_dir: bool },
    Overflow,
}

impl Pending {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            by_path: HashMap::new(),
            order: BTreeMap::new(),
            bytes: 0,
            next: 0,
            held: BTreeSet::new(),
            overflowed: 0,
            overflows: 0,
        }
    }

    /// Notes that something happened at a path. A path that is pending already keeps its position.
    pub(super) fn note(&mut self, hint: Hint) {
        self.put(hint.path, What::Hint { kind: hint.kind, is_dir: hint.is_dir }, None);
    }

    /// Notes it at a new position which is held: it is not handed out, nor anything noted after
    /// it, before [`confirm`](Self::confirm).
    pub(super) fn note_held(&mut self, hint: Hint) {
        let position = self.hold();
        self.put(hint.path, What::Hint { kind: hint.kind, is_dir: hint.is_dir }, Some(position));
    }

    /// Notes that everything at or below a path may have changed.
    pub(super) fn overflow(&mut self, below: RelPath) {
        self.overflows += 1;
        self.put(below, What::Overflow, None);
    }

    /// Notes an overflow at a new, held position.
    pub(super) fn overflow_held(&mut self, below: RelPath) {
        self.overflows += 1;
        let position = self.hold();
        self.put(below, What::Overflow, Some(position));
    }

    /// The position the next entry will have: everything noted so far is before it.
    pub(super) fn position(&self) -> u64 {
        self.next
    }

    /// Whether something before `position` is held.
    pub(super) fn is_held_before(&self, position: u64) -> bool {
        self.gate() < position
    }

    /// Lets go of everything that is held before `position`.
    pub(super) fn confirm(&mut self, position: u64) {
        self.held = self.held.split_off(&position);
    }

    /// Whether [`take`](Self::take) would return something.
    pub(super) fn is_ready(&self) -> bool {
        self.order.first_key_value().is_some_and(|(&position, _)| position < self.gate())
    }

    /// Overflows so far: those noted, and each time the set was collapsed.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Removes and returns the first entries, `max` at most, in order.
    pub(super) fn take(&mut self, max: usize) -> Vec<WatchEvent> {
        let gate = self.gate();
        let mut events = Vec::new();
        let mut hints = Vec::new();
        for _ in 0..max {
            let Some(first) = self.order.first_entry().filter(|e| *e.key() < gate) else { break };
            let path = first.get().clone();
            match self.remove(&path) {
                Some(Slot { what: What::Hint { kind, is_dir }, .. }) => {
                    hints.push(Hint { path, kind, is_dir });
                }
                Some(Slot { what: What::Overflow, .. }) => {
                    if !hints.is_empty() {
                        events.push(WatchEvent::Hints(std::mem::take(&mut hints)));
                    }
                    events.push(WatchEvent::Overflow { below: path });
                }
                None => unreachable!("every position has its path"),
            }
        }
        if !hints.is_empty() {
            events.push(WatchEvent::Hints(hints));
        }
        events
    }

    fn gate(&self) -> u64 {
        self.held.first().copied().unwrap_or(u64::MAX)
    }

    fn hold(&mut self) -> u64 {
        let position = self.next;
        self.next += 1;
        self.held.insert(position);
        position
    }

    fn put(&mut self, path: RelPath, what: What, at: Option<u64>) {
        if let Some(cover) = self.cover(&path) {
            // The subtree is looked at when its turn comes, which is after this.
            if let Some(position) = at {
                self.reposition(&cover, position);
            }
            return;
        }
        if what == What::Overflow {
            self.absorb(&path, at);
        } else if let Some(slot) = self.by_path.get_mut(&path) {
            slot.what = merged(slot.what, what);
            if let Some(position) = at {
                self.reposition(&path, position);
            }
            return;
        } else {
            let position = at.unwrap_or(self.next);
            self.insert(path, Slot { position, what });
        }
        if self.is_over(self.bounds.paths, self.bounds.bytes) {
            self.collapse();
        }
    }

    /// The pending overflow that `path` is at or below.
    fn cover(&self, path: &RelPath) -> Option<RelPath> {
        if self.overflowed == 0 {
            return None;
        }
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if self.by_path.get(&path).is_some_and(|slot| slot.what == What::Overflow) {
                return Some(path);
            }
            at = path.parent();
        }
        None
    }

    /// Replaces everything at or below `top` by one overflow.
    fn absorb(&mut self, top: &RelPath, at: Option<u64>) {
        let inside: Vec<RelPath> =
            self.by_path.keys().filter(|p| *p == top || p.is_below(top)).cloned().collect();
        let gate = self.gate();
        let positions: Vec<u64> =
            inside.iter().filter_map(|path| self.remove(path)).map(|slot| slot.position).collect();
        // The first one's place, unless one of them must not be looked at yet.
        let held = positions.iter().copied().filter(|&p| p >= gate).max();
        let position = at.or(held).or_else(|| positions.iter().copied().min()).unwrap_or(self.next);
        self.insert(top.clone(), Slot { position, what: What::Overflow });
    }

    /// Halves the set: the fullest directories become one entry each, again and again, so that
    /// what stays too much becomes a subtree and at last the root.
    fn collapse(&mut self) {
        let (paths, bytes) = (self.bounds.paths / 2, self.bounds.bytes / 2);
        while self.is_over(paths, bytes) {
            let mut counts: HashMap<RelPath, usize> = HashMap::new();
            for path in self.by_path.keys() {
                *counts.entry(path.parent().unwrap_or_else(RelPath::root)).or_default() += 1;
            }
            let mut fullest: Vec<(RelPath, usize)> = counts.into_iter().collect();
            // The root comes last: it stands for everything.
            fullest.sort_by(|(a, n), (b, m)| (a.is_root(), m, a).cmp(&(b.is_root(), n, b)));
            let mut left = self.by_path.len().saturating_sub(paths).max(1);
            let mut tops = BTreeSet::new();
            for (dir, count) in fullest {
                tops.insert(dir);
                left = left.saturating_sub(count);
                if left == 0 {
                    break;
                }
            }
            self.absorb_all(&tops);
        }
        self.overflows += 1;
    }

    /// Absorbs many subtrees in one pass over the set.
    fn absorb_all(&mut self, tops: &BTreeSet<RelPath>) {
        let gate = self.gate();
        let mut places: BTreeMap<RelPath, (u64, Option<u64>)> = BTreeMap::new();
        let paths: Vec<RelPath> = self.by_path.keys().cloned().collect();
        for path in paths {
            let Some(top) = topmost(&path, tops) else { continue };
            let Some(slot) = self.remove(&path) else { continue };
            let held = Some(slot.position).filter(|&p| p >= gate);
            let place = places.entry(top).or_insert((slot.position, held));
            *place = (place.0.min(slot.position), place.1.max(held));
        }
        for (top, (first, held)) in places {
            self.insert(top, Slot { position: held.unwrap_or(first), what: What::Overflow });
        }
    }

    fn is_over(&self, paths: usize, bytes: usize) -> bool {
        // One entry cannot be collapsed any further.
        self.by_path.len() > 1 && (self.by_path.len() > paths || self.bytes > bytes)
    }

    fn reposition(&mut self, path: &RelPath, position: u64) {
        if let Some(slot) = self.remove(path) {
            self.insert(path.clone(), Slot { position, ..slot });
        }
    }

    fn insert(&mut self, path: RelPath, slot: Slot) {
        self.next = self.next.max(slot.position + 1);
        self.bytes += path.as_bytes().len();
        self.overflowed += usize::from(slot.what == What::Overflow);
        self.order.insert(slot.position, path.clone());
        self.by_path.insert(path, slot);
    }

    fn remove(&mut self, path: &RelPath) -> Option<Slot> {
        let slot = self.by_path.remove(path)?;
        self.order.remove(&slot.position);
        self.bytes -= path.as_bytes().len();
        self.overflowed -= usize::from(slot.what == What::Overflow);
        Some(slot)
    }
}

/// The highest of `tops` that `path` is at or below.
fn topmost(path: &RelPath, tops: &BTreeSet<RelPath>) -> Option<RelPath> {
    let mut found = None;
    let mut at = Some(path.clone());
    while let Some(path) = at {
        at = path.parent();
        if tops.contains(&path) {
            found = Some(path);
        }
    }
    found
}

/// What is known of a path that was named twice.
fn merged(old: What, new: What) -> What {
    let (What::Hint { kind: a, is_dir: was_dir }, What::Hint { kind: b, is_dir }) = (old, new)
    else {
        return What::Overflow;
    };
    let kind = match (a, b) {
        // A directory that went and came back may have lost any of its content.
        (HintKind::Gone, b) if b != HintKind::Gone && (was_dir || is_dir) => HintKind::Moved,
        (HintKind::Gone, b) => b,
        (HintKind::Moved, HintKind::Gone) => HintKind::Moved,
        (_, HintKind::Gone) => HintKind::Gone,
        (a, b) => a.max(b),
    };
    // A removed directory may be told twice, the second time as no one knows what.
    let is_dir = is_dir || was_dir && kind == HintKind::Gone;
    What::Hint { kind, is_dir }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Bounds = Bounds { paths: 8, bytes: 1 << 20 };

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn hint(text: &str, kind: HintKind) -> Hint {
        Hint { path: path(text), kind, is_dir: false }
    }

    fn dir(text: &str, kind: HintKind) -> Hint {
        Hint { is_dir: true, ..hint(text, kind) }
    }

    /// One line an event, as in `closed a` or `all b`.
    fn taken(pending: &mut Pending, max: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for event in pending.take(max) {
            match event {
                WatchEvent::Hints(hints) => {
                    lines.extend(hints.iter().map(|h| format!("{:?} {}", h.kind, h.path)));
                }
                WatchEvent::Overflow { below } => lines.push(format!("all {below}")),
                WatchEvent::Lost { reason } => lines.push(format!("lost {reason}")),
            }
        }
        lines
    }

    #[test]
    fn a_path_keeps_its_first_position_and_its_strongest_kind() {
        let mut pending = Pending::new(FEW);
        pending.note(hint("a", HintKind::Created));
        pending.note(hint("b", HintKind::Attributes));
        pending.note(hint("a", HintKind::Closed));
        pending.note(hint("a", HintKind::Written));
        assert_eq!(["Closed a", "Attributes b"], taken(&mut pending, 9)[..]);
        assert!(!pending.is_ready());
    }

    #[test]
    fn a_directory_that_went_and_came_back_is_listed() {
        let mut pending = Pending::new(FEW);
        pending.note(dir("a", HintKind::Gone));
        pending.note(dir("a", HintKind::Created));
        pending.note(hint("b", HintKind::Gone));
        pending.note(hint("b", HintKind::Created));
        pending.note(dir("e", HintKind::Gone));
        pending.note(hint("e", HintKind::Gone));
        pending.note(hint("e", HintKind::Closed));
        pending.note(dir("c", HintKind::Moved));
        pending.note(dir("c", HintKind::Gone));
        pending.note(hint("d", HintKind::Closed));
        pending.note(hint("d", HintKind::Gone));
        assert_eq!(
            ["Moved a", "Created b", "Moved e", "Moved c", "Gone d"],
            taken(&mut pending, 9)[..]
        );
    }

    #[test]
    fn taking_stops_at_the_maximum_and_goes_on_there() {
        let mut pending = Pending::new(FEW);
        pending.note(hint("a", HintKind::Closed));
        pending.overflow(path("d"));
        pending.note(hint("b", HintKind::Closed));
        assert_eq!(["Closed a", "all d"], taken(&mut pending, 2)[..]);
        assert_eq!(["Closed b"], taken(&mut pending, 2)[..]);
    }

    #[test]
    fn an_overflow_takes_in_what_is_below_it_before_and_after() {
        let mut pending = Pending::new(FEW);
        pending.note(hint("d/x", HintKind::Closed));
        pending.note(hint("e", HintKind::Closed));
        pending.overflow(path("d"));
        pending.note(hint("d/y", HintKind::Closed));
        pending.overflow(path("d/z"));
        pending.note(hint("da", HintKind::Closed));
        assert_eq!(["all d", "Closed e", "Closed da"], taken(&mut pending, 9)[..]);
        pending.note(hint("d/y", HintKind::Closed));
        assert_eq!(["Closed d/y"], taken(&mut pending, 9)[..]);
    }

    #[test]
    fn too_many_paths_become_their_directory_then_the_subtree_then_the_root() {
        let mut pending = Pending::new(FEW);
        pending.note(hint("b", HintKind::Closed));
        (0..8).for_each(|n| pending.note(hint(&format!("a/d/{n}"), HintKind::Closed)));
        assert_eq!(["Closed b", "all a/d"], taken(&mut pending, 9)[..]);

        pending.note(hint("b", HintKind::Closed));
        (0..8).for_each(|n| pending.note(hint(&format!("a/{n}/f"), HintKind::Closed)));
        assert_eq!(["Closed b", "all a"], taken(&mut pending, 9)[..]);

        (0..9).for_each(|n| pending.note(hint(&format!("{n}"), HintKind::Closed)));
        assert_eq!(["all ."], taken(&mut pending, 9)[..]);
        assert_eq!(3, pending.overflows());
    }

    #[test]
    fn whatever_comes_nothing_is_dropped_and_the_bounds_hold() {
        let mut pending = Pending::new(Bounds { paths: 16, bytes: 200 });
        let mut seed = 7_u64;
        let mut noted = Vec::new();
        for _ in 0..5000 {
            let mut digit = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) % 7
            };
            let text = format!("{}/{}/{}", digit(), digit(), digit());
            noted.push(path(&text));
            pending.note(hint(&text, HintKind::Closed));
            assert!(pending.by_path.len() <= 16 && pending.bytes <= 200);
            assert_eq!(pending.by_path.len(), pending.order.len());
            let covered =
                |p: &RelPath| pending.by_path.contains_key(p) || pending.cover(p).is_some();
            assert!(noted.iter().rev().take(300).all(covered));
        }
    }

    #[test]
    fn what_is_held_and_what_follows_it_waits_for_the_confirmation() {
        let mut pending = Pending::new(FEW);
        pending.note(hint("a", HintKind::Closed));
        pending.note(dir("d", HintKind::Attributes));
        pending.note_held(dir("d", HintKind::Moved));
        pending.note(hint("b", HintKind::Closed));
        let noted = pending.position();
        assert_eq!(["Closed a"], taken(&mut pending, 9)[..]);
        assert!(!pending.is_ready() && pending.is_held_before(noted));
        pending.confirm(noted);
        assert!(pending.is_ready() && !pending.is_held_before(noted));
        assert_eq!(["Moved d", "Closed b"], taken(&mut pending, 9)[..]);
    }

    #[test]
    fn collapsing_does_not_let_go_of_what_is_held() {
        let mut pending = Pending::new(FEW);
        (0..6).for_each(|n| pending.note(hint(&format!("d/{n}"), HintKind::Closed)));
        pending.note_held(dir("d/new", HintKind::Moved));
        (6..9).for_each(|n| pending.note(hint(&format!("d/{n}"), HintKind::Closed)));
        assert!(!pending.is_ready());
        pending.confirm(pending.position());
        assert_eq!(["all d"], taken(&mut pending, 9)[..]);
    }
}
