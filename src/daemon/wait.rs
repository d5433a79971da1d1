//! `wait`: until everything written here before the question is durable on the asked-for nodes.

use std::time::{Duration, Instant};

use super::actor::{Actor, Event};
use crate::index::IndexError;
use crate::model::{Lane, NodeId, Sequence};

/// Rows counted per peer and lane, for the answer after a time-out.
const MISSING_MAX: usize = 100_000;

/// How many nodes must have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    /// Every active member.
    All,
    /// So many, this one included.
    AtLeast(usize),
}

/// What is missing on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub node: NodeId,
    pub up: bool,
    pub changes: usize,
}

/// The answer.
#[derive(Debug)]
pub(super) enum Waited {
    /// All there; the nodes that have it, this one included.
    Done(Vec<NodeId>),
    /// Not in time.
    TimedOut { missing: Vec<Missing>, unread: usize },
    /// It cannot be told.
    Failed(String),
}

/// Gives the answer. Called once.
pub(super) type Reply<T> = tokio::sync::oneshot::Sender<T>;

/// Someone who waits.
pub(super) struct Waiter {
    id: u64,
    nodes: Nodes,
    until: Instant,
    stage: Stage,
    reply: Option<Reply<Waited>>,
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
    pub(super) fn wait_for(&mut self, nodes: Nodes, timeout: Duration, reply: Reply<Waited>) {
        let id = self.next_waiter;
        self.next_waiter += 1;
        let until = Instant::now() + timeout;
        let mut waiter =
            Waiter { id, nodes, until, stage: Stage::Watching, reply: Some(reply) };
        match self.watcher.clone() {
            None => waiter.stage = Stage::Reading,
            Some(watcher) => {
                let inbox = self.inbox.clone();
                // The watcher answers in milliseconds, or it does not answer.
                let asking = std::thread::Builder::new().name("wait".into()).spawn(move || {
                    let result = watcher.sync(timeout).map_err(|error| super::chain(&error));
                    inbox.push(Event::Synced { waiter: id, result });
                });
                if let Err(error) = asking {
                    let text = format!("cannot start a thread: {error}");
                    self.synced(id, Err(text));
                }
            }
        }
        self.waiters.push(waiter);
    }

    /// The watcher has told everything, or cannot.
    pub(super) fn synced(&mut self, id: u64, result: Result<(), String>) {
        let waiter = self.waiters.iter_mut().find(|waiter| waiter.id == id);
        let Some(waiter) = waiter else { return };
        match result {
            Ok(()) => waiter.stage = Stage::Reading,
            Err(reason) => waiter.answer(Waited::Failed(reason)),
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
            if matches!(waiter.stage, Stage::Reading) && self.engine.is_read() && self.scanned {
                waiter.stage = Stage::Sending(self.index.head());
            }
            let late = Instant::now() >= waiter.until;
            let Stage::Sending(target) = waiter.stage else {
                if late {
                    let unread = self.engine.pending().0;
                    waiter.answer(Waited::TimedOut { missing: Vec::new(), unread });
                }
                continue;
            };
            let missing = self.missing(&members, target, if late { MISSING_MAX } else { 1 })?;
            let have: Vec<_> = members
                .iter()
                .filter(|id| missing.iter().all(|m| m.node != **id))
                .copied()
                .chain([self.place.node])
                .collect();
            let enough = match waiter.nodes {
                Nodes::All => missing.is_empty(),
                Nodes::AtLeast(count) => have.len() >= count,
            };
            if enough {
                waiter.answer(Waited::Done(have));
            } else if late {
                waiter.answer(Waited::TimedOut { missing, unread: 0 });
            }
        }
        waiters.retain(|waiter| waiter.reply.is_some());
        self.waiters = waiters;
        Ok(())
    }

    /// Members that do not have everything up to `target`.
    pub(super) fn missing(
        &self,
        members: &[NodeId],
        target: Sequence,
        most: usize,
    ) -> Result<Vec<Missing>, IndexError> {
        let mut missing = Vec::new();
        for &node in members {
            let changes = self.lag(node, target, most)?;
            if changes > 0 {
                missing.push(Missing { node, up: self.peers.contains_key(&node), changes });
            }
        }
        Ok(missing)
    }

    /// Changes made here up to `target` that are not durable at a node, counted up to `most`.
    pub(super) fn lag(
        &self,
        node: NodeId,
        target: Sequence,
        most: usize,
    ) -> Result<usize, IndexError> {
        let out = self.peers.get(&node).and_then(|peer| peer.out.as_ref());
        let known = match out {
            Some(_) => Vec::new(),
            None => self.index.cursors(node)?.acknowledged,
        };
        let mut changes = 0;
        for lane in Lane::ALL.into_iter().filter(|&lane| lane != Lane::Forward) {
            let durable = match out {
                Some(out) => out.durable(lane),
                None => {
                    known.iter().find(|(l, _)| *l == lane).map_or(Sequence(0), |&(_, at)| at)
                }
            };
            changes += self.index.count_after(lane, durable, target, node, most)?;
        }
        Ok(changes)
    }
}

impl Waiter {
    fn answer(&mut self, answer: Waited) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may be gone.
            drop(reply.send(answer));
        }
    }
}
