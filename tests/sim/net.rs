//! A modelled network: links that break, lanes that are ordered streams, the sender's side.

use trefoil::engine::Input;
use trefoil::engine::session::Outgoing;
use trefoil::model::{Lane, RelPath, Sequence};

use crate::disk::Inode;
use crate::index::Row;
use crate::mirror::{Announcement, Feed};
use crate::world::{Event, MS, SECOND, World};

/// Between two nodes.
#[derive(Debug, Default, Clone)]
pub struct Link {
    /// Cut by a fault.
    pub cut: bool,
    pub up: bool,
    /// Changes when it breaks: what was under way is lost.
    pub epoch: u64,
    /// Messages under way, per direction (low to high first) and lane.
    flying: [[bool; Lane::ALL.len()]; 2],
}

/// What travels on one lane.
#[derive(Debug)]
pub enum Message {
    Records(Lane, Vec<Announcement>),
    Progress(Lane, Sequence),
}

/// A message, and up to where ordered records wait that were sent before it.
#[derive(Debug)]
pub struct Parcel {
    message: Message,
    moved: Sequence,
}

impl World {
    pub fn link(&self, a: usize, b: usize) -> &Link {
        &self.links[&(a.min(b), a.max(b))]
    }

    pub fn link_mut(&mut self, a: usize, b: usize) -> &mut Link {
        self.links.get_mut(&(a.min(b), a.max(b))).expect("every pair has a link")
    }

    pub fn is_up(&self, a: usize, b: usize) -> bool {
        a == b || self.link(a, b).up
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        let alive = |at: usize| self.nodes[at].engine.is_some();
        let link = self.link(a, b);
        if link.cut || link.up || !alive(a) || !alive(b) {
            return;
        }
        self.link_mut(a, b).up = true;
        self.note(|_| format!("n{a} - n{b} up"));
        if self.start_session(a, b) && self.start_session(b, a) {
            self.pump(a, b);
            self.pump(b, a);
        }
    }

    /// `to` says where it is, and `from` goes on there, unless it finds that its index is an old one.
    fn start_session(&mut self, from: usize, to: usize) -> bool {
        let (id, incarnation) = (self.nodes[from].id, self.nodes[from].index.incarnation);
        let receiver = &self.nodes[to];
        let received = receiver.engine.as_ref().map(|e| e.received(id)).unwrap_or_default();
        let same = receiver.heard.get(&from) == Some(&incarnation) && !received.is_empty();
        // What came of another life of the index, and is not done, is asked for again.
        let known = if same {
            Some((incarnation, received))
        } else {
            receiver.index.cursors.get(&id).cloned()
        };
        let heard = known.as_ref().map(|&(heard, _)| heard);
        let latest = |(life, at): &_| (*life, receiver.index.latest(id, *life, at));
        let latest = known.as_ref().map(latest);
        if self.check_age(from, to, latest.as_ref()) {
            return false;
        }
        let receiver = self.nodes[to].id;
        // Up to where it knows to have told the other counts only if that was this index.
        let theirs = &self.nodes[to].index;
        let lives = [Some(theirs.incarnation), theirs.former.map(|(life, _)| life)];
        let told = self.nodes[from].index.cursors.get(&receiver).map(|&(life, _)| life);
        let told_this = told.is_some() && lives.contains(&told);
        let known = known.filter(|&(heard, _)| told_this || heard == incarnation);
        let known = known
            .and_then(|(heard, cursors)| self.nodes[from].index.goes_on(receiver, heard, cursors));
        let anew = heard != Some(incarnation);
        if anew && self.nodes[from].notes {
            // With the index of another time it may not know what it had told.
            self.nodes[to].index.forget_from(id);
        }
        let dropped = self.nodes[from].index.dropped.clone();
        if anew && known.is_none() {
            self.nodes[to].index.forget_acknowledged(id);
            self.nodes[to].index.forget_had(id, &dropped);
        } else if self.check_dropped(to, from, &dropped) {
            return false;
        }
        let cursors = known.unwrap_or_default();
        // Who goes on from the start there has lost what it had told us.
        let forward = cursors.iter().find(|&&(lane, _)| lane == Lane::Forward);
        if forward.is_none_or(|&(_, sequence)| sequence == Sequence(0)) {
            self.nodes[from].index.forget_from(receiver);
        }
        self.nodes[from].index.begin_telling(receiver);
        let out = Outgoing::starting_at(&cursors, self.nodes[from].index.head);
        self.nodes[from].out.insert(to, Box::new(out));
        self.nodes[to].heard.insert(from, incarnation);
        let up = Input::PeerUp { peer: id, cursors, anew };
        let head = self.nodes[from].index.head;
        let moved = Input::Moved { peer: id, sequence: head };
        self.feed(to, vec![Feed::Plain(up), Feed::Plain(moved)]);
        true
    }

    pub fn disconnect(&mut self, a: usize, b: usize) {
        let link = self.link_mut(a, b);
        if !link.up {
            return;
        }
        link.up = false;
        link.epoch += 1;
        link.flying = Default::default();
        self.note(|_| format!("n{a} - n{b} down"));
        for (one, other) in [(a, b), (b, a)] {
            self.nodes[one].out.remove(&other);
            let peer = self.nodes[other].id;
            self.nodes[one].index.end_telling(peer);
            self.feed(one, vec![Feed::Plain(Input::PeerDown(peer))]);
        }
    }

    /// Sends what there is to send, one message a lane at a time.
    pub fn pump(&mut self, from: usize, to: usize) {
        if !self.link(from, to).up {
            return;
        }
        let Some(mut out) = self.nodes[from].out.remove(&to) else { return };
        let (id, incarnation) = (self.nodes[from].id, self.nodes[from].index.incarnation);
        let known = self.nodes[to].index.cursors.get(&id).filter(|known| known.0 == incarnation);
        known.iter().flat_map(|known| &known.1).for_each(|&(lane, at)| out.acknowledge(lane, at));
        let durable = |lane| (lane, self.nodes[to].index.acknowledged(id, incarnation, lane));
        let (peer, durable) = (self.nodes[to].id, Lane::ALL.map(durable).to_vec());
        self.nodes[from].index.set_acknowledged(peer, &durable);
        // An ordered record owes every lane its progress: those before it in a second round.
        for _ in 0..2 {
            for lane in Lane::ALL {
                self.pump_lane(from, to, lane, &mut out);
            }
        }
        self.nodes[from].out.insert(to, out);
    }

    fn pump_lane(&mut self, from: usize, to: usize, lane: Lane, out: &mut Outgoing) {
        if self.link(from, to).flying[usize::from(from > to)][lane as usize] {
            return;
        }
        let peer = self.nodes[to].id;
        let (index, after) = (&self.nodes[from].index, out.sent(lane));
        let head = index.lane_head(lane);
        let of_others = |row: &&Row| row.from != Some(peer);
        let reaches = |row: &Row| {
            let origin = row.from.and_then(|id| self.node_of(id));
            origin.is_some_and(|origin| self.is_up(origin, to))
        };
        if lane == Lane::Forward && head > after {
            let wanted = || index.rows_after(lane, after).filter(of_others);
            let (any, at_once) = (wanted().next().is_some(), wanted().any(|row| !reaches(row)));
            if any && !self.forwards(from, to, at_once, out) {
                return;
            }
        }
        let most = self.rng.index(4) + 1;
        let wanted = self.nodes[from].index.rows_after(lane, after).filter(of_others).take(most);
        let batch: Vec<_> = wanted.map(|row| (row.sequence, row.record.path.clone())).collect();
        if let Some(&(last, _)) = batch.last() {
            let mut records = Vec::new();
            for (sequence, path) in batch {
                self.announce_ahead(from, lane, &path, out, &mut records);
                records.push(self.announcement(from, sequence, &path, out));
            }
            out.advance(lane, last);
            self.send(from, to, Message::Records(lane, records), out.waits_for());
            return;
        }
        if head > after {
            out.skip(lane, head);
        }
        if lane == Lane::Forward {
            out.forwarded();
        }
        if let Some(sequence) = out.owed_progress(lane) {
            out.advance(lane, sequence);
            self.send(from, to, Message::Progress(lane, sequence), out.waits_for());
        }
    }

    /// Whether records learned from others are to be sent now.
    fn forwards(&mut self, from: usize, to: usize, at_once: bool, out: &mut Outgoing) -> bool {
        let now_ms = self.now / MS;
        if !out.forwards_now(now_ms, at_once) {
            if let Some(at) = out.forwards_at_ms() {
                let epoch = self.link(from, to).epoch;
                self.schedule_at(at * MS, Event::Pump { from, to, epoch });
            }
            return false;
        }
        if self.nodes[from].index.versions == self.nodes[to].index.versions {
            out.skip(Lane::Forward, self.nodes[from].index.head);
            out.forwarded();
            return false;
        }
        true
    }

    /// Puts the directories that a record would overtake before it.
    fn announce_ahead(
        &self,
        from: usize,
        lane: Lane,
        path: &RelPath,
        out: &Outgoing,
        records: &mut Vec<Announcement>,
    ) {
        let node = &self.nodes[from];
        let live = node.index.rows[path].record.is_live();
        let mut missing = Vec::new();
        let mut dir = path.parent().filter(|_| live);
        while let Some(path) = dir {
            let row = node.index.rows.get(&path).filter(|row| row.record.is_dir());
            if let Some(row) = row.filter(|row| out.overtakes(lane, row.lane, row.sequence)) {
                let (record, sequence) = (row.record.clone(), Sequence(0));
                let (peer, after) = (node.id, None);
                missing.push(Announcement { peer, lane, sequence, after, record, content: false });
            }
            dir = path.parent();
        }
        records.extend(missing.into_iter().rev());
    }

    fn announcement(
        &mut self,
        from: usize,
        sequence: Sequence,
        path: &RelPath,
        out: &mut Outgoing,
    ) -> Announcement {
        let inline = self.rng.chance(self.profile.inline_percent);
        let node = &self.nodes[from];
        let row = &node.index.rows[path];
        let record = row.record.clone();
        let wanted = record.entry.as_ref().and_then(|entry| entry.content());
        let there = node.disk.at(path).and_then(Inode::content);
        let content = inline && wanted.is_some_and(|(id, _)| there.is_some_and(|c| c.id == id));
        let after = row.ordered.then_some(node.index.head);
        if let Some(head) = after {
            out.promise(head);
        }
        Announcement { peer: node.id, lane: row.lane, sequence, after, record, content }
    }

    fn send(&mut self, from: usize, to: usize, message: Message, moved: Sequence) {
        let (Message::Records(lane, _) | Message::Progress(lane, _)) = message;
        let slow = self.rng.chance(self.profile.slow_percent);
        let wait = if slow { self.rng.below(5 * SECOND) } else { self.rng.range(1, 15) * MS };
        let link = self.link_mut(from, to);
        link.flying[usize::from(from > to)][lane as usize] = true;
        let epoch = link.epoch;
        let parcel = Parcel { message, moved };
        self.schedule(wait, Event::Deliver { from, to, epoch, parcel });
    }

    pub fn deliver(&mut self, from: usize, to: usize, epoch: u64, parcel: Parcel) {
        let Parcel { message, moved } = parcel;
        let link = self.link_mut(from, to);
        if link.epoch != epoch || !link.up {
            return;
        }
        let (Message::Records(lane, _) | Message::Progress(lane, _)) = message;
        let peer = self.nodes[from].id;
        if self.nodes[to].engine.as_ref().is_some_and(|engine| !engine.reads(peer, lane)) {
            let parcel = Parcel { message, moved };
            self.schedule(20 * MS, Event::Deliver { from, to, epoch, parcel });
            return;
        }
        let link = self.link_mut(from, to);
        link.flying[usize::from(from > to)][lane as usize] = false;
        let mut feeds = vec![Feed::Plain(Input::Moved { peer, sequence: moved })];
        match message {
            Message::Records(_, records) => feeds.extend(self.take_in(to, records)),
            Message::Progress(lane, sequence) => {
                feeds.push(Feed::Progress { peer, lane, sequence });
            }
        }
        self.feed(to, feeds);
        self.pump(from, to);
    }

    /// Content that came along is put at hand.
    fn take_in(&mut self, to: usize, records: Vec<Announcement>) -> Vec<Feed> {
        let node = &mut self.nodes[to];
        for announcement in records.iter().filter(|announcement| announcement.content) {
            let record = &announcement.record;
            let content = record.entry.as_ref().and_then(|entry| entry.content());
            node.shelf.extend(content.map(|(id, _)| (record.path.clone(), id)));
        }
        records.into_iter().map(|a| Feed::Announced(Box::new(a))).collect()
    }
}
