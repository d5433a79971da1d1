//! Whether everything is as promised once all has settled.

use std::collections::{BTreeMap, BTreeSet};

use trefoil::engine::Class;
use trefoil::model::{ContentId, Entry, Kind, RelPath};

use crate::ledger::Write;
use crate::profile::Writers;
use crate::world::World;

impl World {
    /// After everything has settled.
    pub fn judge(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let verdicts = [
            Self::settled,
            Self::converged,
            Self::nothing_lost,
            Self::nothing_came_back,
            Self::nothing_old_won,
        ];
        for verdict in verdicts {
            if let Err(reason) = verdict(self) {
                self.fail(reason);
                return;
            }
        }
    }

    fn settled(&self) -> Result<(), String> {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.removed) {
            let Some(engine) = &node.engine else { return Err(format!("n{at} is down")) };
            if engine.pending() != (0, 0) || engine.problems().1 > 0 {
                return Err(format!("stuck: {}", self.describe()));
            }
            if !node.index.journal.is_empty() {
                return Err(format!("n{at} has a journal: {:?}", node.index.journal));
            }
            let ours = self.tree(at);
            let live = node.index.rows.values().filter(|row| row.record.is_live());
            let known: BTreeMap<_, _> = live
                .map(|row| (row.record.path.clone(), plain(row.record.entry.clone())))
                .collect();
            compare(&format!("n{at} disk"), &ours, &format!("n{at} index"), &known)?;
        }
        Ok(())
    }

    fn tree(&self, at: usize) -> BTreeMap<RelPath, Option<Entry>> {
        let disk = &self.nodes[at].disk;
        let mirrored = disk.paths().filter(|path| !self.is_local(path));
        mirrored.map(|path| (path.clone(), plain(disk.entry(path)))).collect()
    }

    fn converged(&self) -> Result<(), String> {
        let mut members = (0..self.nodes.len()).filter(|&at| !self.nodes[at].removed);
        let Some(one) = members.next() else { return Ok(()) };
        let first = self.tree(one);
        for at in members {
            compare(&format!("n{one}"), &first, &format!("n{at}"), &self.tree(at))?;
            if self.nodes[at].index.entries != self.nodes[one].index.entries {
                return Err(format!("fingerprints of n{one} and n{at} differ"));
            }
        }
        Ok(())
    }

    fn nothing_lost(&self) -> Result<(), String> {
        let mut kept = BTreeSet::new();
        for node in &self.nodes {
            let live = node.disk.paths().filter_map(|path| node.disk.at(path)?.content());
            kept.extend(live.map(|content| content.id));
            kept.extend(node.conflicts.iter().map(|&(_, content)| content));
            // A node whose index was put back counts as before until it is told: what it wrote
            // meanwhile may seem older than it is. And who replaces a file that a power cut has
            // torn here replaces, for the others, the whole one that they have.
            let torn = self.profile.more.torn_percent > 0 && self.profile.power_cuts > 0;
            let trash = node.trash.iter().filter(|_| self.ledger.put_back || torn);
            kept.extend(trash.map(|&(_, content)| content));
        }
        for (content, write) in &self.ledger.finished {
            let derived = self.policy.class(&write.path) == Class::Derived
                || self.ledger.derived.contains(content);
            let superseded = self.ledger.superseded.contains_key(content);
            if !kept.contains(content) && !superseded && !derived {
                let Write { node, path } = write;
                return Err(format!("lost: {content:?}, written by n{node} to {path}"));
            }
        }
        Ok(())
    }

    /// Who has lost his index, or joins, has old versions on his disk. They win over nothing that
    /// somebody wrote, where nobody else writes and clocks are right: what an author who has lost his
    /// index writes before he has heard of anybody is weighed by its time.
    fn nothing_old_won(&self) -> Result<(), String> {
        let calm = self.profile.writers == Writers::Owners
            && self.profile.power_cuts == 0
            && self.profile.index_losses <= 1
            && self.profile.clock_jumps == 0
            && !self.profile.skewed
            && self.profile.more.backups == 0
            && self.profile.more.replacements == 0
            && self.nodes.iter().all(|node| !node.removed);
        if !calm {
            return Ok(());
        }
        for path in self.nodes[0].disk.paths() {
            let Some(there) = self.content_at(0, path) else { continue };
            if let Some(newer) = self.should_be_in_place_of(there, path) {
                return Err(format!("old content won over {newer:?}: {path} {there:?}"));
            }
        }
        Ok(())
    }

    fn nothing_came_back(&self) -> Result<(), String> {
        if self.ledger.lost_index || self.profile.late_joiner || self.profile.power_cuts > 0 {
            return Ok(());
        }
        let Some(one) = self.nodes.iter().position(|node| !node.removed) else { return Ok(()) };
        for path in self.nodes[one].disk.paths() {
            let Some(content) = self.content_at(one, path) else { continue };
            // What a node that was removed did last may have got nowhere.
            let by = self.ledger.destroyed.get(&(content, path.clone()));
            let removed = by.is_some_and(|by| by.iter().any(|&at| !self.nodes[at].removed))
                && !self.ledger.was_deleted_in_a_circle(path)
                && !self.nodes[one]
                    .index
                    .record(path)
                    .is_some_and(|record| self.ledger.won_in_a_circle(path, &record.version));
            if removed && !self.ledger.edited.contains(&content) && content != ContentId::empty() {
                return Err(format!("came back: {path} {content:?}"));
            }
        }
        Ok(())
    }
}

/// Groups are known to the index only.
fn plain(entry: Option<Entry>) -> Option<Entry> {
    entry.map(|mut entry| {
        if let Kind::File { group, .. } = &mut entry.kind {
            *group = None;
        }
        entry
    })
}

fn compare(
    name_a: &str,
    a: &BTreeMap<RelPath, Option<Entry>>,
    name_b: &str,
    b: &BTreeMap<RelPath, Option<Entry>>,
) -> Result<(), String> {
    let paths: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    for path in paths {
        if a.get(path) != b.get(path) {
            let (one, other) = (a.get(path), b.get(path));
            return Err(format!("{path} differs:\n  {name_a}: {one:?}\n  {name_b}: {other:?}"));
        }
    }
    Ok(())
}
