//! What the network tells the mounts, and what other nodes ask.

use std::io::Read;
use std::sync::Arc;

use super::actor::{Bulk, Event};
use super::{Shared, copies, delta, verify};
use crate::model::{Lane, NodeId};
use crate::net::{self, ControlMessage, FetchRequest, NetEvent};

/// Hands events to the control threads of the mounts.
pub(super) struct Handler(pub Arc<Shared>);

impl net::Handler for Handler {
    async fn event(&self, event: NetEvent) {
        match event {
            NetEvent::Up { peer, name, release, link } => {
                tracing::info!(peer = name, release, "linked");
                self.0.set_link(peer, Some(link.clone()));
                for actor in self.0.actors() {
                    actor.inbox.push(Event::Up { peer, link: link.clone() });
                }
            }
            NetEvent::Down { peer, reason } => {
                let names = self.0.names();
                tracing::info!(peer = names.get(&peer), reason, "link lost");
                self.0.set_link(peer, None);
                for actor in self.0.actors() {
                    // Positions that a later link starts from do not count these.
                    actor.inbox.drop_bulk(peer);
                    actor.inbox.push(Event::Down { peer });
                }
            }
            NetEvent::Control { peer, message } => {
                let mount = match &message {
                    ControlMessage::MountHello(hello) => &hello.mount,
                    ControlMessage::State(state) => &state.mount,
                    ControlMessage::Ack(ack) => &ack.mount,
                    _ => return,
                };
                if let ControlMessage::MountHello(hello) = &message {
                    self.0.note_hello(peer, hello);
                }
                match self.0.actor(mount) {
                    Some(actor) => actor.inbox.push_message(Event::Control { peer, message }).await,
                    None => tracing::debug!(mount, "a peer has a mount that is not here"),
                }
            }
            NetEvent::Announce { peer, mount, lane, announce } => {
                if let Some(actor) = self.0.actor(&mount) {
                    let express = lane == Lane::Urgent;
                    actor.inbox.push_bulk(peer, Bulk { peer, lane, announce }, express).await;
                }
            }
            NetEvent::MembersChanged => self.0.members_changed(),
        }
    }

    fn fetch(&self, _peer: NodeId, request: &FetchRequest) -> Option<Box<dyn Read + Send>> {
        let actor = self.0.actor(&request.mount)?;
        let file = delta::content_of(&actor.mount, request)?;
        if request.ranges.is_empty() {
            return Some(Box::new(file.from(request.offset).take(request.bytes())));
        }
        Some(Box::new(file.ranges(request.ranges.clone())))
    }

    fn rpc(&self, _peer: NodeId, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        match method {
            delta::RECIPE => delta::answer(&self.0, body),
            method if method.starts_with(copies::PREFIX) => copies::answer(&self.0, method, body),
            _ => verify::answer(&self.0, method, body),
        }
    }
}
