//! What goes to the peers of one mount: greetings, announcements, acknowledgements, state.
//!
//! The backlog is the index: a lane that is behind is filled from its rows, as fast as the peer
//! takes them. A lane that is not behind gets what a turn stored straight from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::actor::{Actor, Bulk};
use super::greet::Peer;
use super::workers::Job;
use crate::engine::session::Outgoing;
use crate::engine::{self, Class, Input};
use crate::index::{IndexError, Row};
use crate::model::{Lane, NodeId, RelPath, Sequence, limits};
use crate::net::{Ack, Announce, Announced, ControlMessage, LaneError, LaneSender, MountState};

/// Rows read from the index at a time for a lane that is behind.
const ROWS_MAX: usize = 256;

/// How often the state is told when nothing changes, in milliseconds.
const STATE_EVERY_MS: u64 = 2000;

/// How long the state is held back while much happens, in milliseconds.
const STATE_AFTER_MS: u64 = 50;

impl Actor {
    pub(super) fn acknowledged(&mut self, id: NodeId, ack: &Ack) -> Result<(), IndexError> {
        if ack.incarnation != self.index.incarnation() {
            return Ok(());
        }
        for &(lane, sequence) in &ack.lanes {
            if let Some(out) = self.peers.get_mut(&id).and_then(|peer| peer.out.as_mut()) {
                out.acknowledge(lane, sequence);
                self.index.set_acknowledged(id, lane, sequence)?;
            }
        }
        Ok(())
    }

    /// Records of a peer.
    pub(super) fn announced(&mut self, bulk: Bulk) -> Result<(), IndexError> {
        let Bulk { peer, lane, announce } = bulk;
        let greeted = self.peers.get(&peer).is_some_and(|p| p.greeted);
        if !greeted {
            return Ok(());
        }
        self.input(Input::Moved { peer, sequence: announce.moved })?;
        self.note_leaving(&announce.records);
        for announced in announce.records {
            let Announced { sequence, record, after, content } = announced;
            let policy = &self.place.policy;
            if sequence > Sequence(0) && policy.class(&record.path) == Class::Local {
                self.index.note_passed(peer, lane, sequence, policy.hash())?;
            }
            let ours = self.index.row(&record.path)?.map(|row| row.record);
            let content = match (content, record.entry.as_ref().and_then(|e| e.content())) {
                (Some(bytes), Some((id, _))) => self.shelf.put(record.path.clone(), id, bytes),
                _ => false,
            };
            let announced =
                engine::Announced { peer, lane, sequence, after, theirs: record, content, ours };
            self.input(Input::Announced(Box::new(announced)))?;
        }
        self.input(Input::Progress { peer, lane, sequence: announce.progress })
    }

    /// Notes what of the peers' changes is done, in the turn's transaction.
    pub(super) fn note_done(&mut self) -> Result<(), IndexError> {
        for (&id, peer) in &mut self.peers {
            let done = self.engine.done(id);
            for &(lane, sequence) in done.iter().filter(|at| !peer.done.contains(at)) {
                self.index.set_done(id, lane, sequence)?;
            }
            let arrived = self.engine.received(id);
            let is_done = |at| peer.done.contains(at) || done.contains(at);
            let new = arrived.iter().filter(|at| !peer.arrived.contains(at) && !is_done(at));
            for &(lane, sequence) in new {
                self.index.set_arrived(id, lane, sequence)?;
            }
            (peer.done, peer.arrived) = (done, arrived);
        }
        Ok(())
    }

    /// Tells the peers, once it is committed.
    pub(super) fn send_done(&mut self) {
        for peer in self.peers.values_mut().filter(|p| p.out.is_some() && p.done != p.told) {
            let ack = Ack {
                mount: self.place.name.clone(),
                incarnation: peer.incarnation,
                lanes: peer.done.clone(),
            };
            if peer.link.send_control(ControlMessage::Ack(ack)).is_ok() {
                peer.told = peer.done.clone();
            }
        }
    }

    /// Announces what this turn has stored to the peers that are not behind.
    pub(super) fn send_fresh(&mut self) -> Result<(), IndexError> {
        let fresh = std::mem::take(&mut self.turn.fresh);
        if fresh.is_empty() {
            return Ok(());
        }
        let head = self.index.head();
        let mut dirs = Dirs::new();
        for lane in Lane::ALL.into_iter().filter(|&lane| lane != Lane::Forward) {
            let rows: Vec<_> = fresh.iter().filter(|(row, _)| row.lane == lane).collect();
            let Some((first, _)) = rows.first() else { continue };
            let barrier = |row: &Row| self.place.policy.class(&row.record.path) == Class::Barrier;
            let announced: Vec<_> = rows
                .iter()
                .map(|(row, content)| {
                    announced(row, row.ordered || barrier(row), head, content.clone())
                })
                .collect();
            let ids: Vec<_> = self.peers.keys().copied().collect();
            for id in ids {
                let Some(peer) = self.peers.get(&id) else { continue };
                let Some(out) = peer.ready().filter(|_| !peer.loading[lane as usize]) else {
                    continue;
                };
                // Everything before this turn's first row must have been sent.
                let until = before(first.sequence);
                if self.index.count_after(lane, out.sent(lane), until, id, 1)? > 0 {
                    continue;
                }
                let overtaken = self.overtaken(out, lane, &announced, &mut dirs)?;
                let Some(peer) = self.peers.get_mut(&id) else { continue };
                let Some(out) = peer.out.as_mut() else { continue };
                let to = &peer.lanes[lane as usize];
                if overtaken.is_empty() {
                    self.messages += send(out, to, lane, &announced).0;
                } else {
                    let records = insert(announced.clone(), overtaken);
                    self.messages += send(out, to, lane, &records).0;
                }
            }
        }
        Ok(())
    }

    /// Has lanes that are behind filled from the index, and tells owed positions.
    pub(super) fn pump_all(&mut self) -> Result<(), IndexError> {
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            for lane in Lane::ALL {
                self.pump(id, lane)?;
            }
        }
        Ok(())
    }

    fn pump(&mut self, id: NodeId, lane: Lane) -> Result<(), IndexError> {
        let head = self.index.lane_head(lane);
        let due = lane != Lane::Forward || self.is_forward_due(id, head);
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let Some(out) = peer.out.as_mut().filter(|_| peer.state.is_some()) else { return Ok(()) };
        if peer.loading[lane as usize] || !due && out.sent(lane) < head {
            return Ok(());
        }
        if out.sent(lane) >= head {
            if let Some(progress) = out.owed_progress(lane) {
                let moved = out.waits_for();
                let announce = Announce { records: Vec::new(), progress, moved };
                if peer.lanes[lane as usize].try_send(announce).is_ok() {
                    out.advance(lane, progress);
                }
            }
            return Ok(());
        }
        if peer.lanes[lane as usize].capacity() == 0 {
            return Ok(());
        }
        let (rows, through) = self.index.rows_after(lane, out.sent(lane), ROWS_MAX, id)?;
        if rows.is_empty() {
            out.skip(lane, through);
            return Ok(());
        }
        let barrier = |row: &Row| self.place.policy.class(&row.record.path) == Class::Barrier;
        let promised = self.index.head();
        let records: Vec<_> = rows
            .iter()
            .map(|row| announced(row, row.ordered || barrier(row), promised, None))
            .collect();
        let Some(out) = self.peers.get(&id).and_then(Peer::ready) else { return Ok(()) };
        let from = out.sent(lane);
        let overtaken = self.overtaken(out, lane, &records, &mut Dirs::new())?;
        let records = insert(records, overtaken);
        let bare = lane == Lane::Forward && !self.misses_someone(id);
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        peer.loading[lane as usize] = true;
        if bare {
            // Most of it has come from its author by now; the rest is asked for.
            self.loaded(id, lane, records, (from, through));
            return Ok(());
        }
        drop(self.workers.jobs.send(Job::Load { peer: id, lane, records, from, through }));
        Ok(())
    }

    /// The directories that some of the records would overtake on their way, each with the position
    /// it has to be put at. A directory moves behind its children in the order of changes whenever
    /// its time moves with them.
    fn overtaken(
        &self,
        out: &Outgoing,
        lane: Lane,
        records: &[Announced],
        dirs: &mut Dirs,
    ) -> Result<Vec<(usize, Announced)>, IndexError> {
        let mut known = BTreeSet::from([RelPath::root()]);
        let mut overtaken = Vec::new();
        for (at, record) in records.iter().enumerate() {
            let mut missing = Vec::new();
            let mut dir = record.record.path.parent().filter(|_| record.record.is_live());
            while let Some(path) = dir.filter(|path| known.insert(path.clone())) {
                let row = match dirs.get(&path) {
                    Some(row) => row,
                    None => {
                        let row = self.index.row(&path)?.filter(|row| row.record.is_dir());
                        dirs.entry(path.clone()).or_insert(row)
                    }
                };
                let row = row.as_ref().filter(|row| out.overtakes(lane, row.lane, row.sequence));
                missing.extend(row.map(|row| (at, ahead(row))));
                dir = path.parent();
            }
            overtaken.extend(missing.into_iter().rev());
            known.insert(record.record.path.clone());
        }
        Ok(overtaken)
    }

    /// Whether records learned from others are to be passed on to this peer.
    fn is_forward_due(&mut self, id: NodeId, head: Sequence) -> bool {
        let now_ms = self.now().monotonic_ms;
        let totals = self.index.totals();
        let misses_someone = self.misses_someone(id);
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let Some(out) = peer.out.as_mut() else { return false };
        if out.sent(Lane::Forward) >= head {
            out.forwarded();
            return true;
        }
        let state = peer.state.as_ref();
        let differs =
            state.is_none_or(|state| state.versions_fingerprint != totals.versions.to_bytes());
        if !differs {
            out.skip(Lane::Forward, head);
            out.forwarded();
            return false;
        }
        out.forwards_now(now_ms, misses_someone)
    }

    /// Whether the peer has said that it is not linked with one we are linked with.
    fn misses_someone(&self, id: NodeId) -> bool {
        let state = self.peers.get(&id).and_then(|peer| peer.state.as_ref());
        let mut others = self.peers.keys().filter(|&&other| other != id);
        state.is_some_and(|state| others.any(|other| !state.links.contains(other)))
    }

    /// When sending has to be looked at again.
    pub(super) fn next_send_ms(&self) -> Option<u64> {
        let state = |peer: &Peer| {
            let wait = if self.state_differs(peer) { STATE_AFTER_MS } else { STATE_EVERY_MS };
            Some(peer.state_told_ms + wait)
        };
        let forward = |peer: &Peer| peer.out.as_ref().and_then(Outgoing::forwards_at_ms);
        self.peers.values().flat_map(|peer| [state(peer), forward(peer)]).flatten().min()
    }

    /// Content was read into announcements.
    pub(super) fn loaded(
        &mut self,
        id: NodeId,
        lane: Lane,
        mut records: Vec<Announced>,
        (from, through): (Sequence, Sequence),
    ) {
        // What moved since the rows were read is where it is by now.
        let head = self.index.head();
        records.iter_mut().filter_map(|one| one.after.as_mut()).for_each(|after| *after = head);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // A link that is new since then may have to go on from an earlier row.
        if !std::mem::take(&mut peer.loading[lane as usize]) {
            return;
        }
        let Some(out) = peer.out.as_mut().filter(|out| from <= out.sent(lane)) else { return };
        let (sent, all) = send(out, &peer.lanes[lane as usize], lane, &records);
        self.messages += sent;
        if all {
            out.skip(lane, through);
        }
    }

    /// Tells the peers how this mount is, if that changed or it is time.
    pub(super) fn tell_state(&mut self, now: bool) {
        let now_ms = self.now().monotonic_ms;
        let state = self.state();
        for peer in self.peers.values_mut().filter(|peer| peer.out.is_some()) {
            let differs = peer.state_told.as_ref() != Some(&state);
            let wait = if differs { STATE_AFTER_MS } else { STATE_EVERY_MS };
            if !now && now_ms < peer.state_told_ms + wait {
                continue;
            }
            let message = ControlMessage::State(Box::new(state.clone()));
            if peer.link.send_control(message).is_ok() {
                peer.state_told_ms = now_ms;
                peer.state_told = Some(state.clone());
            }
        }
    }

    fn state_differs(&self, peer: &Peer) -> bool {
        peer.state_told.as_ref() != Some(&self.state())
    }

    /// Why this mount takes no part for now; empty if it does. A pause is told as it begins and
    /// ends, for a fingerprint that stands still proves nothing.
    fn stopped_because(&self) -> String {
        match &self.halted {
            Some(halt) => halt.reason.clone(),
            None if self.paused => "paused".to_owned(),
            None => String::new(),
        }
    }

    fn state(&self) -> MountState {
        let totals = self.index.totals();
        let (dirty, wants) = self.engine.pending();
        MountState {
            mount: self.place.name.clone(),
            head: self.index.head(),
            fingerprint: totals.fingerprint.to_bytes(),
            versions_fingerprint: totals.versions.to_bytes(),
            files: totals.files,
            bytes: totals.bytes,
            pending: (dirty + wants) as u64,
            problems: self.engine.problem_count() as u64,
            links: self.peers.keys().copied().collect(),
            halted: self.stopped_because(),
            held: self.engine.held(0).map_or(0, |held| held.count.max(1) as u64),
        }
    }
}

fn before(sequence: Sequence) -> Sequence {
    Sequence(sequence.0.saturating_sub(1))
}

/// Directories that were looked up.
type Dirs = BTreeMap<RelPath, Option<Row>>;

/// A directory that is announced before its turn.
fn ahead(row: &Row) -> Announced {
    Announced { sequence: Sequence(0), ..announced(row, false, Sequence(0), None) }
}

/// Puts each of `more` before the record at its position.
fn insert(records: Vec<Announced>, more: Vec<(usize, Announced)>) -> Vec<Announced> {
    let mut more = more.into_iter().peekable();
    let mut all = Vec::with_capacity(records.len() + more.len());
    for (at, record) in records.into_iter().enumerate() {
        while let Some((_, dir)) = more.next_if(|(before, _)| *before == at) {
            all.push(dir);
        }
        all.push(record);
    }
    all
}

fn announced(row: &Row, ordered: bool, head: Sequence, content: Option<Arc<[u8]>>) -> Announced {
    let after = ordered.then_some(head);
    Announced { sequence: row.sequence, record: row.record.clone(), after, content }
}

/// Sends records of a lane in messages of bounded size, as far as there is room. Gives how many
/// messages, and whether all went.
fn send(out: &mut Outgoing, lane: &LaneSender, number: Lane, records: &[Announced]) -> (u64, bool) {
    let (mut rest, mut sent) = (records, 0);
    while !rest.is_empty() {
        let (count, _) = rest.iter().take(limits::ANNOUNCE_RECORDS_MAX).fold(
            (0, 0),
            |(count, bytes), announced| {
                let bytes = bytes + 512 + announced.content.as_ref().map_or(0, |c| c.len());
                if bytes > limits::ANNOUNCE_BYTES_MAX && count > 0 {
                    (count, usize::MAX / 2)
                } else {
                    (count + 1, bytes)
                }
            },
        );
        let (message, later) = rest.split_at(count);
        let Some(progress) = message.iter().map(|one| one.sequence).max() else { break };
        let announce = Announce { records: message.to_vec(), progress, moved: out.waits_for() };
        match lane.try_send(announce) {
            Ok(()) => sent += 1,
            Err(LaneError::Full(_) | LaneError::Closed) => return (sent, false),
        }
        for announced in message {
            if let Some(after) = announced.after {
                out.promise(after);
            }
        }
        out.advance(number, progress);
        rest = later;
    }
    (sent, true)
}
