//! Ordered records of peers: each waits until its turn has come with one of those who announced it.

use super::clock::Now;
use super::incoming::{Incoming, Strictness};
use super::policy::Class;
use super::want::{Waits, Want};
use super::{Engine, NodeId, RelPath};

impl Engine {
    /// Whether the want's turn has not come with any of those who announced it.
    pub(super) fn is_held(&mut self, path: &RelPath) -> bool {
        let class = self.class(path);
        let want = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut());
        // A directory waits for nothing: what is in it waits for it.
        let waits = |want: &&mut Want| !want.sources.is_empty() && !want.record.is_dir();
        let Some(want) = want.filter(waits) else { return false };
        // What goes makes nothing visible.
        let how = match class {
            Class::Barrier if want.record.is_live() => Strictness::Done,
            _ => Strictness::Arrived,
        };
        let stamp = want.record.version.stamp;
        let mut tellers = want
            .sources
            .iter()
            .filter(|(_, source)| source.record.version.stamp == stamp)
            .peekable();
        let released = tellers.peek().is_none()
            || tellers.any(|(&(peer, _), source)| {
                let of_peer = want.sources.iter().filter(|((other, _), _)| *other == peer);
                let own: Vec<_> = of_peer.map(|(_, source)| source.sequence).collect();
                self.peers.get(&peer).is_some_and(|i| i.is_released(source, how, &own))
            });
        if released {
            return false;
        }
        want.waits = Waits::Order;
        for (&(peer, _), source) in &want.sources {
            if let Some(incoming) = self.peers.get_mut(&peer) {
                incoming.hold(source, path.clone());
            }
        }
        self.park(path);
        true
    }

    fn unhold(&mut self, path: &RelPath) {
        let want = self.slots.get(path).and_then(|slot| slot.want.as_deref());
        for (&(peer, _), source) in want.iter().flat_map(|want| &want.sources) {
            if let Some(incoming) = self.peers.get_mut(&peer) {
                incoming.unhold(source);
            }
        }
    }

    /// Goes on with ordered wants of the peer whose turn has come.
    pub(super) fn release_held(&mut self, now: Now, peer: NodeId) {
        let arrived = self.peers.get(&peer).map(Incoming::arrived).unwrap_or_default();
        for path in arrived {
            if !self.is_held(&path) {
                self.unhold(&path);
                self.step(now, &path);
            }
        }
    }
}
