//! Content from a peer into the stage: one peer after the other, resumed where it stopped.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::actor::{Actor, Event};
use crate::disk::{self, Staged};
use crate::model::{ContentId, Lane, NodeId, RelPath};
use crate::net::FetchRequest;

/// From whom content can be had.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    peers: Vec<NodeId>,
    lane: Lane,
}

impl Actor {
    /// Notes who has the content for a path.
    pub(super) fn plan_fetch(&mut self, path: &RelPath, peers: Vec<NodeId>, lane: Lane) {
        self.fetches.insert(path.clone(), Plan { peers, lane });
    }

    /// Asks the first peer that is up: one that announced it before any other.
    pub(super) fn fetch_from_peer(&mut self, path: RelPath, content: ContentId, size: u64) {
        let Some(plan) = self.fetches.get_mut(&path) else { return };
        if disk::exists_complete(&self.mount, content) {
            self.inbox.push(Event::Fetched { path, content, result: Ok(()) });
            return;
        }
        let announced = plan.peers.iter().position(|peer| self.peers.contains_key(peer));
        let id = match announced {
            Some(at) => Some(plan.peers.remove(at)),
            None if plan.peers.is_empty() => self.peers.keys().next().copied(),
            None => None,
        };
        let link = id.and_then(|id| self.peers.get(&id)).map(|peer| peer.link.clone());
        let lane = plan.lane;
        let Some(link) = link else {
            self.fetches.remove(&path);
            let result = Err("cannot fetch: nobody who has it is connected".to_owned());
            self.inbox.push(Event::Fetched { path, content, result });
            return;
        };
        let staged = match Staged::open(&self.mount, content, size) {
            Ok(staged) => staged,
            Err(error) => {
                let result = Err(super::chain(&error));
                self.inbox.push(Event::Fetched { path, content, result });
                return;
            }
        };
        let request = FetchRequest {
            mount: self.place.name.clone(),
            path: path.clone(),
            content,
            size,
            offset: staged.offset(),
            lane,
        };
        let staged = Arc::new(Mutex::new(Some(staged)));
        let sink = {
            let staged = staged.clone();
            move |bytes: &[u8]| {
                let mut staged = staged.lock().unwrap_or_else(PoisonError::into_inner);
                match staged.as_mut() {
                    Some(staged) => staged.write(bytes).map_err(io::Error::other),
                    None => Err(io::Error::other("the stage is closed")),
                }
            }
        };
        let inbox = self.inbox.clone();
        link.fetch(request, sink, move |result| {
            let staged = staged.lock().unwrap_or_else(PoisonError::into_inner).take();
            let result = match (result, staged) {
                (Ok(()), Some(staged)) => staged.finish().map_err(|error| super::chain(&error)),
                (Err(error), _) => Err(super::chain(&error)),
                (Ok(()), None) => Err("the stage is closed".to_owned()),
            };
            inbox.push(Event::Fetched { path, content, result });
        });
    }
}
