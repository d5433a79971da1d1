//! `wait`: until everything written here before the question is durable on the asked-for nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::actor::{Actor, Event};
use super::guards::told;
use crate::control::types::{WaitMount, WaitNode};
use crate::disk::watch::Watcher;
use crate::index::IndexError;
use crate::model::{Lane, NodeId, Sequence};

/// Changes counted per peer and lane, for the answer after a time-out.
const MISSING_MAX: usize = 100_000;

/// Missing paths named per node.
const PATHS_TOLD: usize = 5;

/// How many nodes must have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    /// Every active member.
    All,
    /// So many, this one included.
    AtLeast(usize),
}

/// Gives the answer. Called once.
pub(super) type Reply<T> = tokio::sync::oneshot::Sender<T>;

/// Someone who waits.
pub(super) struct Waiter {
    id: u64,
    nodes: Nodes,
    until: Instant,
    stage: Stage,
    reply: Option<Reply<WaitMount>>,
}

enum Stage {
    /// Until the watcher has told everything that happened before the question.
    Watching,
    /// Until that is stored.
    Reading,
    /// Until this is durable at the others.
    Sending(Sequence),
}

impl Actor {
    /// Starts to wait.
    pub(super) fn wait_for(&mut self, nodes: Nodes, timeout: Duration, reply: Reply<WaitMount>) {
        let id = self.next_waiter;
        self.next_waiter += 1;
        let until = Instant::now() + timeout;
        let mut waiter = Waiter { id, nodes, until, stage: Stage::Watching, reply: Some(reply) };
        match self.watcher.clone() {
            None => waiter.stage = Stage::Reading,
            Some(watcher) => {
                self.when_told(watcher, timeout, move |result| Event::Synced {
                    waiter: id,
                    result,
                });
            }
        }
        self.waiters.push(waiter);
    }

    /// Has an event say when the watcher has told everything that happened before, or that it could
    /// not in time.
    pub(super) fn when_told(
        &self,
        watcher: Arc<Watcher>,
        timeout: Duration,
        event: impl Fn(Result<(), String>) -> Event + Clone + Send + 'static,
    ) {
        let (inbox, say) = (self.inbox.clone(), event.clone());
        // The watcher answers in milliseconds, or it does not answer.
        let asking = std::thread::Builder::new().name("wait".into()).spawn(move || {
            let result = watcher.sync(timeout).map_err(|error| super::chain(&error));
            inbox.push(say(result));
        });
        if let Err(error) = asking {
            self.inbox.push(event(Err(format!("cannot start a thread: {error}"))));
        }
    }

    /// The watcher has told everything, or cannot.
    pub(super) fn synced(&mut self, id: u64, result: Result<(), String>) {
        let waiter = self.waiters.iter_mut().find(|waiter| waiter.id == id);
        let Some(waiter) = waiter else { return };
        match result {
            Ok(()) => waiter.stage = Stage::Reading,
            Err(reason) => waiter.answer(WaitMount {
                name: self.place.name.clone(),
                done: false,
                reason: Some(reason),
                nodes: Vec::new(),
            }),
        }
    }

    /// Answers those whose turn it is.
    pub(super) fn check_waiters(&mut self) -> Result<(), IndexError> {
        if self.waiters.is_empty() {
            return Ok(());
        }
        let members = self.shared.other_members();
        let mut waiters = std::mem::take(&mut self.waiters);
        for waiter in &mut waiters {
            let read = self.engine.is_read() && self.engine.held(0).is_none();
            if matches!(waiter.stage, Stage::Reading) && read && self.scanned {
                waiter.stage = Stage::Sending(self.index.head());
            }
            let late = Instant::now() >= waiter.until;
            match waiter.stage {
                Stage::Sending(target) => {
                    let nodes = self.wait_nodes(&members, target, late)?;
                    let have = 1 + nodes.iter().filter(|node| node.done).count();
                    let done = match waiter.nodes {
                        Nodes::All => have == 1 + members.len(),
                        Nodes::AtLeast(count) => have >= count,
                    };
                    if done || late {
                        waiter.answer(self.waited(done, None, nodes));
                    }
                }
                _ if late => {
                    let reason = self.unread();
                    waiter.answer(self.waited(false, Some(reason), Vec::new()));
                }
                _ => {}
            }
        }
        waiters.retain(|waiter| waiter.reply.is_some());
        self.waiters = waiters;
        Ok(())
    }

    fn waited(&self, done: bool, reason: Option<String>, nodes: Vec<WaitNode>) -> WaitMount {
        WaitMount { name: self.place.name.clone(), done, reason, nodes }
    }

    /// Why this node has not taken in everything itself.
    fn unread(&self) -> String {
        match &self.halted {
            Some(halt) => format!("the mount is halted: {}", halt.reason),
            None if self.paused => "the mount is paused".to_owned(),
            None if let Some(held) = self.held_shortly() => told(&self.place.name, &held).0,
            None => format!("{} changed paths are not read yet", self.engine.pending().0),
        }
    }

    fn wait_nodes(
        &self,
        members: &[NodeId],
        target: Sequence,
        late: bool,
    ) -> Result<Vec<WaitNode>, IndexError> {
        let names = self.shared.names();
        let mut nodes = Vec::new();
        for &id in members {
            let missing = self.lag(id, target, if late { MISSING_MAX } else { 1 })?;
            let paths = if late { self.missing_paths(id)? } else { Vec::new() };
            nodes.push(WaitNode {
                name: names.get(&id).cloned().unwrap_or_else(|| id.to_string()),
                done: missing == 0,
                up: self.peers.contains_key(&id),
                missing: Some(missing as u64),
                paths,
            });
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    fn missing_paths(&self, node: NodeId) -> Result<Vec<String>, IndexError> {
        let mut paths = Vec::new();
        for lane in Lane::ALL.into_iter().filter(|&lane| lane != Lane::Forward) {
            let durable = self.durable(node, lane)?;
            let (rows, _) = self.index.rows_after(lane, durable, PATHS_TOLD, node)?;
            paths.extend(rows.iter().map(|row| row.record.path.to_string()));
        }
        paths.truncate(PATHS_TOLD);
        Ok(paths)
    }

    /// Up to where a lane is durable at a node, linked or not.
    pub(super) fn durable(&self, node: NodeId, lane: Lane) -> Result<Sequence, IndexError> {
        if let Some(out) = self.peers.get(&node).and_then(|peer| peer.out.as_ref()) {
            return Ok(out.durable(lane));
        }
        let known = self.index.cursors(node)?.acknowledged;
        let of_lane = known.into_iter().find(|(other, _)| *other == lane);
        Ok(of_lane.map_or(Sequence(0), |(_, at)| at))
    }

    /// Changes made here up to `target` that are not durable at a node, counted up to `most`.
    pub(super) fn lag(
        &self,
        node: NodeId,
        target: Sequence,
        most: usize,
    ) -> Result<usize, IndexError> {
        let mut changes = 0;
        for lane in Lane::ALL.into_iter().filter(|&lane| lane != Lane::Forward) {
            let durable = self.durable(node, lane)?;
            changes += self.index.count_after(lane, durable, target, node, most)?;
        }
        Ok(changes)
    }
}

impl Waiter {
    fn answer(&mut self, answer: WaitMount) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may be gone.
            drop(reply.send(answer));
        }
    }
}
