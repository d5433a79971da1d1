//! How two nodes that are linked find out where each is with a mount, before anything is announced.
//!
//! Each says on the control stream what it has of the other's index; who has heard that tells its
//! state, and only then is it sent anything. Lanes are streams of their own: what is sent earlier
//! could arrive before the greeting it counts from.

use std::time::SystemTime;

use super::actor::Actor;
use crate::engine::Input;
use crate::engine::session::Outgoing;
use crate::index::IndexError;
use crate::model::{Incarnation, Lane, NodeId, Sequence};
use crate::net::{ControlMessage, LaneSender, LinkHandle, MountHello, MountState};

/// One peer, as this mount sees it.
pub(super) struct Peer {
    pub link: LinkHandle,
    /// It has greeted; nothing that it announces counts before.
    pub greeted: bool,
    /// It has said where it is.
    pub out: Option<Outgoing>,
    pub lanes: Vec<LaneSender>,
    /// A lane's rows are being filled with content.
    pub loading: [bool; Lane::ALL.len()],
    pub incarnation: Incarnation,
    pub done: Vec<(Lane, Sequence)>,
    pub arrived: Vec<(Lane, Sequence)>,
    pub told: Vec<(Lane, Sequence)>,
    /// The last state it told; nothing before it has heard us.
    pub state: Option<MountState>,
    /// When it told that.
    pub heard: Option<SystemTime>,
    /// Why nothing is exchanged with it.
    pub refused: Option<String>,
    pub state_told_ms: u64,
    pub state_told: Option<MountState>,
}

impl Peer {
    /// What it is to be sent from, if anything is.
    pub(super) fn ready(&self) -> Option<&Outgoing> {
        self.out.as_ref().filter(|_| self.state.is_some())
    }
}

impl Actor {
    /// A peer is linked: greet it.
    pub(super) fn up(&mut self, peer: NodeId, link: LinkHandle) -> Result<(), IndexError> {
        let hello = self.hello(peer)?;
        let lanes: Vec<_> =
            Lane::ALL.iter().map(|&lane| link.lane(&self.place.name, lane)).collect();
        for lane in &lanes {
            let inbox = self.inbox.clone();
            lane.on_capacity(move || inbox.wake());
        }
        self.say(&link, ControlMessage::MountHello(hello));
        let peer_state = Peer {
            link,
            greeted: false,
            out: None,
            lanes,
            loading: [false; Lane::ALL.len()],
            incarnation: Incarnation::default(),
            done: Vec::new(),
            arrived: Vec::new(),
            told: Vec::new(),
            state: None,
            refused: None,
            state_told_ms: 0,
            state_told: None,
            heard: None,
        };
        if self.peers.insert(peer, peer_state).is_some() {
            self.index.end_telling(peer)?;
        }
        Ok(())
    }

    fn hello(&self, peer: NodeId) -> Result<MountHello, IndexError> {
        let cursors = self.index.cursors(peer)?;
        let received = self.engine.received(peer);
        let arrived = latest(&cursors.arrived, &received);
        let from = if received.is_empty() { cursors.done } else { received };
        Ok(MountHello {
            mount: self.place.name.clone(),
            policy: self.place.policy.hash(),
            incarnation: self.index.incarnation(),
            known: cursors.incarnation,
            cursors: from,
            arrived,
            paused: self.paused,
            head: self.index.head(),
            // Not up to where the former life was: what it moved in what was lost is where it had been,
            // and who came by only after that has never seen it there.
            former: self.index.former()?.map(|(life, _)| (life, cursors.acknowledged)),
            dropped: self.index.dropped()?,
        })
    }

    pub(super) fn down(&mut self, peer: NodeId) -> Result<(), IndexError> {
        self.peers.remove(&peer);
        self.index.end_telling(peer)?;
        self.input(Input::PeerDown(peer))
    }

    /// What it alone had announced is waited for no more.
    pub(super) fn removed(&mut self, peer: NodeId) -> Result<(), IndexError> {
        self.peers.remove(&peer);
        self.input(Input::PeerRemoved(peer))
    }

    /// Links anew those whose announcements were let go, so that they come again.
    pub(super) fn ask_again(&mut self) {
        let now = self.now();
        for (&id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.greeted) {
            if self.engine.asks_again(now, id) {
                tracing::info!(mount = self.place.name, peer = %id, "asks again for what was let go");
                peer.greeted = false;
                peer.link.renew();
            }
        }
    }

    fn say(&self, link: &LinkHandle, message: ControlMessage) {
        if let Err(error) = link.send_control(message) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(mount = self.place.name, peer = %link.peer(), error, "not said");
        }
    }

    pub(super) fn control(
        &mut self,
        peer: NodeId,
        message: ControlMessage,
    ) -> Result<(), IndexError> {
        match message {
            ControlMessage::MountHello(hello) => self.greeted(peer, &hello),
            ControlMessage::Ack(ack) => self.acknowledged(peer, &ack),
            ControlMessage::State(state) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.state = Some(*state);
                    peer.heard = Some(SystemTime::now());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn greeted(&mut self, id: NodeId, hello: &MountHello) -> Result<(), IndexError> {
        let ours = (self.place.policy.hash(), self.index.incarnation());
        self.check_age(id, hello)?;
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if hello.policy != ours.0 {
            let reason = "its rules (preset, ignore, rule) differ from ours";
            tracing::error!(mount = self.place.name, peer = %id, reason, "nothing is exchanged");
            peer.refused = Some(reason.to_owned());
            return Ok(());
        }
        peer.refused = None;
        peer.incarnation = hello.incarnation;
        self.hear(id, hello)?;
        self.input(Input::Moved { peer: id, sequence: hello.head })?;
        let former = self.index.former()?.map(|(life, _)| life);
        if hello.known == ours.1 || Some(hello.known) != former {
            self.begin_sending(id, hello, ours.1)?;
        }
        self.tell_state(true);
        Ok(())
    }

    /// A peer that has more of this index than it can have been told by it, or has it of a life that is
    /// none of its own, has it of a later state: somebody has put an old one in its place, with the
    /// files perhaps. What is made now would get sequences that peers have seen, and what was made
    /// then would never come back.
    fn check_age(&mut self, id: NodeId, hello: &MountHello) -> Result<(), IndexError> {
        if hello.known == Incarnation::default() {
            return Ok(());
        }
        // What has come there and is not done is asked for again: it may have come with another start.
        let has = latest(&hello.cursors, &hello.arrived);
        if self.index.can_be_of(id, hello.known, &has)? {
            return Ok(());
        }
        Err(IndexError::Old { than: format!("what {} has of it", self.name_of(id)) })
    }

    /// A node's name, or its id if it has none.
    pub(super) fn name_of(&self, peer: NodeId) -> String {
        self.shared.names().get(&peer).cloned().unwrap_or_else(|| peer.to_string())
    }

    /// A peer drops a tombstone only when this node has it: where it is not here, somebody has put
    /// back what was before it came. What it deleted would never be deleted here.
    fn check_dropped(&self, id: NodeId, hello: &MountHello) -> Result<(), IndexError> {
        if !self.index.lacks(id, &hello.dropped)? {
            return Ok(());
        }
        let than = format!("deletions that {} has forgotten", self.name_of(id));
        Err(IndexError::Old { than })
    }

    /// Takes the peer's index for what it is: the one that is known, one that goes on from that, or
    /// another one.
    fn hear(&mut self, id: NodeId, hello: &MountHello) -> Result<(), IndexError> {
        let known = self.index.cursors(id)?;
        let anew = known.incarnation != hello.incarnation;
        // Up to where the peer knows to have told us counts only if it was this index that it told.
        let ours = [Some(self.index.incarnation()), self.index.former()?.map(|(life, _)| life)];
        let told_this = ours.contains(&Some(hello.known));
        let former = hello.former.as_ref();
        let former = former.filter(|former| anew && told_this && former.0 == known.incarnation);
        if !anew || former.is_some() {
            self.check_dropped(id, hello)?;
        }
        match former {
            Some((_, until)) => self.index.continue_peer(id, hello.incarnation, until)?,
            None if anew => self.index.forget_peer(id, hello.incarnation, &hello.dropped)?,
            None => {}
        }
        let cursors = self.index.cursors(id)?.done;
        self.input(Input::PeerUp { peer: id, cursors, anew })?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.greeted = true;
        }
        if former.is_some() {
            // It waits to be told where it shall go on from.
            let hello = self.hello(id)?;
            if let Some(peer) = self.peers.get(&id) {
                self.say(&peer.link, ControlMessage::MountHello(hello));
            }
        }
        Ok(())
    }

    fn begin_sending(
        &mut self,
        id: NodeId,
        hello: &MountHello,
        ours: Incarnation,
    ) -> Result<(), IndexError> {
        self.index.begin_telling(id)?;
        let cursors: &[_] = if hello.known == ours { &hello.cursors } else { &[] };
        // A cursor beyond our head is of changes that a crash took from our index.
        let head = self.index.head();
        let cursors: Vec<_> = cursors.iter().filter(|(_, at)| *at <= head).copied().collect();
        let mut out = Outgoing::starting_at(&cursors, head);
        let known = self.index.cursors(id)?;
        // Who goes on from before what he had acknowledged has lost it.
        let there = |lane: Lane| cursors.iter().find(|at| at.0 == lane).map(|at| at.1);
        for (lane, at) in known.acknowledged {
            out.acknowledge(lane, at.min(there(lane).unwrap_or_default()));
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.out = Some(out);
        }
        Ok(())
    }
}

/// The higher position of each lane.
fn latest(a: &[(Lane, Sequence)], b: &[(Lane, Sequence)]) -> Vec<(Lane, Sequence)> {
    let at = |lane: Lane| a.iter().chain(b).filter(|at| at.0 == lane).map(|at| at.1).max();
    Lane::ALL.into_iter().filter_map(|lane| Some((lane, at(lane)?))).collect()
}
