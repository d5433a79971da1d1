//! Questions to one mount, from people and from other nodes, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::actor::Actor;
use super::greet::Peer;
use super::halt::Halt;
use super::trash;
use super::wait::{Nodes, Reply};
use super::why::Doing;
use crate::control::types::{
    self, HeldStatus, HeldWord, MountState, MountStatus, PeerStatus, ProblemStatus, WaitMount,
    WorkStatus, timestamp,
};
use crate::disk::TrashNote;
use crate::engine::fingerprint::Fingerprint;
use crate::engine::{Input, Policy};
use crate::index::{IndexError, Totals};
use crate::model::{Incarnation, Lane, NodeId, Record, RelPath, Sequence};

/// Groups of paths that are compared as one: differences are looked for only in those that differ.
pub(super) const BUCKETS: usize = 4096;

/// Problems told.
const PROBLEMS_TOLD: usize = 100;

/// Things in progress told.
const DOING_TOLD: usize = 3;

/// Changes counted per peer and lane.
const LAG_MAX: usize = 1_000_000;

/// What can be asked.
#[derive(Debug)]
pub(super) enum Question {
    /// Let what is held through, or bring it back; what was held.
    Decide(HeldWord, Reply<Option<HeldStatus>>),
    /// Hold nothing for so many milliseconds.
    Deploy { for_ms: u64, reply: Reply<()> },
    /// What is held, with at most so many paths.
    Held(usize, Reply<Option<HeldStatus>>),
    /// Stop or go on, and keep it so.
    Pause(bool, Reply<()>),
    /// Classes mean something else now.
    Policy(Arc<Policy>),
    /// Up to so many live records after a path, sorted by path.
    Page { after: Option<RelPath>, most: usize, reply: Reply<Vec<Record>> },
    /// Up to so many live records before a path, in descending order of directory and name.
    PageBefore { before: Option<RelPath>, most: usize, reply: Reply<Vec<Record>> },
    /// Its record of a path.
    Record(RelPath, Reply<Option<Record>>),
    /// What is to be written down of what a person is about to replace at a path.
    Replaced(RelPath, Reply<TrashNote>),
    /// Live records in these buckets.
    Rows(Vec<usize>, Reply<Vec<Record>>),
    /// The life and the head of its index, and the records after a sequence, unless they are more than so
    /// many, or it is not said after which.
    Since { after: Option<Sequence>, most: usize, reply: Reply<Changes> },
    /// How it is.
    Status(Reply<(MountStatus, Option<Halt>)>),
    /// Set hashes of all buckets.
    Sums(Reply<Sums>),
    /// Its record of a path, and what it does there.
    Why(RelPath, Reply<(Option<Record>, Doing)>),
    /// Be told when it is durable elsewhere.
    Wait { nodes: Nodes, timeout: Duration, reply: Reply<WaitMount> },
}

/// Life, head and records of an index.
pub(super) type Changes = (Incarnation, Sequence, Option<Vec<Record>>);

/// A replica, for comparing.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    pub totals: Totals,
    /// One per bucket.
    pub buckets: Vec<Fingerprint>,
}

/// The bucket of a path.
pub(super) fn bucket(path: &RelPath) -> usize {
    let hash = blake3::hash(path.as_bytes());
    let bytes = hash.as_bytes();
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % BUCKETS
}

impl Actor {
    /// Answers.
    pub(super) fn ask(&mut self, question: Question) -> Result<(), IndexError> {
        match question {
            Question::Decide(word, reply) => drop(reply.send(self.decide_held(word)?)),
            Question::Deploy { for_ms, reply } => drop(reply.send(self.deploy(for_ms)?)),
            Question::Held(paths_max, reply) => drop(reply.send(self.held(paths_max))),
            Question::Pause(paused, reply) => {
                self.paused = paused;
                self.stop_or_go();
                reply.send(()).unwrap_or_default();
            }
            Question::Policy(policy) => {
                self.place.policy = policy.clone();
                self.input(Input::Policy(policy))?;
            }
            Question::Page { after, most, reply } => {
                drop(reply.send(self.index.page(after.as_ref(), most)?));
            }
            Question::PageBefore { before, most, reply } => {
                drop(reply.send(self.index.page_before(before.as_ref(), most)?));
            }
            Question::Since { after, most, reply } => {
                let records = match after {
                    Some(after) => self.index.changed_after(after, most)?,
                    None => None,
                };
                drop(reply.send((self.index.incarnation(), self.index.head(), records)));
            }
            Question::Record(path, reply) => {
                drop(reply.send(self.index.row(&path)?.map(|row| row.record)));
            }
            Question::Replaced(path, reply) => {
                let was = self.index.row(&path)?.map(|row| row.record.version.stamp);
                let note = trash::note(&self.place, &path, was, self.place.node, false);
                // Whoever asked may be gone.
                let (Ok(()) | Err(_)) = reply.send(note);
            }
            Question::Rows(buckets, reply) => drop(reply.send(self.rows(&buckets)?)),
            Question::Status(reply) => drop(reply.send((self.status()?, self.halted.clone()))),
            Question::Sums(reply) => drop(reply.send(self.sums()?)),
            Question::Why(path, reply) => {
                let record = self.index.row(&path)?.map(|row| row.record);
                drop(reply.send((record, self.doing_at(&path))));
            }
            Question::Wait { nodes, timeout, reply } => self.wait_for(nodes, timeout, reply),
        }
        Ok(())
    }

    fn doing_at(&self, path: &RelPath) -> Doing {
        let status = self.engine.path_status(path);
        let now_ms = self.now().monotonic_ms;
        Doing {
            doing: status.doing,
            due_ms: status.due_ms.map(|at| at.saturating_sub(now_ms)),
            since_ns: status.problem.as_ref().map(|problem| problem.since_ns),
            problem: status.problem.map(|problem| problem.reason),
        }
    }

    fn rows(&self, buckets: &[usize]) -> Result<Vec<Record>, IndexError> {
        let mut records = Vec::new();
        self.index.each(|row| {
            if row.record.is_live() && buckets.contains(&bucket(&row.record.path)) {
                records.push(row.record);
            }
        })?;
        Ok(records)
    }

    fn sums(&self) -> Result<Sums, IndexError> {
        let mut buckets = vec![Fingerprint::default(); BUCKETS];
        self.index.each(|row| {
            buckets[bucket(&row.record.path)].add(Fingerprint::of_entry(&row.record));
        })?;
        Ok(Sums { totals: self.index.totals(), buckets })
    }

    fn status(&self) -> Result<MountStatus, IndexError> {
        let totals = self.index.totals();
        let (dirty, wants) = self.engine.pending();
        let (problems, problem_count) = self.engine.problems();
        let stats = self.watcher.as_ref().map(|watcher| watcher.stats());
        let others = self.shared.other_members();
        let names = self.shared.names();
        let mut peers = Vec::new();
        for id in others {
            peers.push(self.peer_status(id, names.get(&id), totals.fingerprint)?);
        }
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let held = self.held_shortly();
        let healthy = self.halted.is_none() && !self.paused && self.scanned && held.is_none();
        let in_sync = healthy && peers.iter().all(|peer| peer.equal == Some(true));
        Ok(MountStatus {
            name: self.place.name.clone(),
            path: self.place.path.display().to_string(),
            state: self.word(dirty + wants),
            doing: self.doing(),
            files: totals.files,
            bytes: totals.bytes,
            fingerprint: totals.fingerprint.to_string(),
            in_sync,
            backend: self
                .watcher
                .as_ref()
                .map_or_else(|| "none".into(), |w| w.backend().to_string()),
            pending: (dirty + wants) as u64,
            peers,
            problems: problems.into_iter().take(PROBLEMS_TOLD).map(problem_status).collect(),
            problem_count: problem_count as u64,
            overflows: stats.map_or(0, |stats| stats.overflows),
            missed_events: self.missed_events,
            held,
            deploying_until: self.deploying_until().map(timestamp),
            verified: None,
            verified_deep: None,
            index_set_aside: false,
            trash_size: self.shared.limits.trash_size(&self.place.name),
            work: self.work(),
        })
    }

    fn work(&self) -> WorkStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.mount.counters;
        WorkStatus {
            files_opened: count(&counters.files_opened),
            bytes_hashed: count(&counters.bytes_hashed),
            files_staged: count(&counters.files_staged),
            syncs: count(&counters.syncs),
            messages: self.messages,
        }
    }

    fn word(&self, pending: usize) -> MountState {
        match () {
            () if self.halted.is_some() => MountState::Halted,
            () if self.paused => MountState::Paused,
            () if !self.scanned => MountState::Scanning,
            () if pending > 0 => MountState::Syncing,
            () => MountState::Watching,
        }
    }

    fn doing(&self) -> String {
        let told = |(path, what): (RelPath, String)| format!("{path}: {what}");
        self.engine.doing(DOING_TOLD).into_iter().map(told).collect::<Vec<_>>().join("; ")
    }

    fn peer_status(
        &self,
        id: NodeId,
        name: Option<&String>,
        ours: Fingerprint,
    ) -> Result<PeerStatus, IndexError> {
        let peer = self.peers.get(&id);
        let state = peer.and_then(|peer| peer.state.as_ref());
        let head = self.index.head();
        let lag = self.lag(id, head, LAG_MAX)?;
        let oldest = self.oldest_missing(id)?;
        let fingerprint = state.map(|state| Fingerprint::from_bytes(&state.fingerprint));
        let apart = peer.and_then(Peer::apart);
        let comparable = peer.is_some() && apart.is_none();
        Ok(PeerStatus {
            name: name.cloned().unwrap_or_else(|| id.to_string()),
            up: peer.is_some(),
            lag_changes: Some(lag as u64),
            lag_seconds: Some(oldest.map_or(0.0, age_seconds)),
            fingerprint: fingerprint.map(|f| f.to_string()),
            equal: fingerprint.filter(|_| comparable).map(|theirs| theirs == ours),
            heard: peer.and_then(|peer| peer.heard).map(timestamp),
            not_compared_because: apart,
        })
    }

    fn oldest_missing(&self, id: NodeId) -> Result<Option<Sequence>, IndexError> {
        let mut oldest = None;
        for lane in Lane::ALL.into_iter().filter(|&lane| lane != Lane::Forward) {
            let durable = self.durable(id, lane)?;
            let (rows, _) = self.index.rows_after(lane, durable, 1, id)?;
            oldest = oldest.into_iter().chain(rows.first().map(|row| row.sequence)).min();
        }
        Ok(oldest)
    }
}

impl Peer {
    /// Why both replicas cannot be compared, if so.
    fn apart(&self) -> Option<String> {
        match &self.state {
            _ if self.refused.is_some() => self.refused.clone(),
            _ if self.out.is_none() => {
                Some("not open there: is it configured and marked?".to_owned())
            }
            Some(state) if state.held > 0 => Some("deletions made there are held".to_owned()),
            Some(state) if !state.halted.is_empty() => {
                Some(format!("stopped there: {}", state.halted))
            }
            _ => None,
        }
    }
}

/// Sequences are microseconds since 1970, unless the clock stood still.
fn age_seconds(sequence: Sequence) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_micros(sequence.0)).as_secs_f64()
}

fn problem_status(problem: crate::engine::Problem) -> ProblemStatus {
    let time = |ns: u64| timestamp(UNIX_EPOCH + Duration::from_nanos(ns));
    ProblemStatus {
        path: problem.path.to_string(),
        reason: problem.reason,
        since: time(problem.since_ns),
        next_retry: problem.retry_ns.map(time),
    }
}

/// How many nodes a request asks for, with so many members.
pub(super) fn nodes(asked: types::WaitNodes, members: usize) -> Nodes {
    match asked {
        types::WaitNodes::All => Nodes::All,
        types::WaitNodes::Quorum => Nodes::AtLeast(members / 2 + 1),
        types::WaitNodes::Count(others) => Nodes::AtLeast(others as usize + 1),
    }
}
