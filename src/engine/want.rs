//! A peer's record that was decided for: what several peers announced of a path, as one.

use std::collections::BTreeMap;

use super::reconcile::{Verdict, reconcile};
use crate::model::{ContentId, Entry, Lane, NodeId, Record, Sequence, Version};

/// A peer's record that was decided for and is not applied yet.
#[derive(Debug)]
pub(super) struct Want {
    pub record: Record,
    /// Who announced it, on which lane. Empty for one that was found in the journal at start-up.
    pub sources: BTreeMap<(NodeId, Lane), Source>,
    pub content: Content,
    pub retry_ms: u64,
    pub attempts: u32,
    pub waits: Waits,
    /// How often a writer had the file open.
    pub refused_open: u32,
    /// A directory that shall go was listed, and what is in it is none of ours.
    pub holds_unmirrored: bool,
    /// Where it waits to be fetched: with whom, and its place in the order.
    pub queued: Option<(Option<NodeId>, u64)>,
    /// Nobody announced it: it is our own record, to be made anew where it went from the disk.
    pub restores: bool,
}

/// Where the content of a wanted file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// To be fetched, or not needed.
    Absent,
    Fetching,
    /// Came with the announcement, or was fetched.
    Here,
}

/// What a want waits for. For people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Nothing,
    /// Its turn after what its origin finished before it.
    Order,
    /// Its directory.
    Parent,
    /// Someone to close the file.
    Writer,
    /// The directory's children to go.
    Children,
    /// A listing of the directory.
    Listing,
    /// Nothing: the listing is there.
    Listed,
}

/// An announcement of a wanted record.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The first announcement for this path that is not done yet.
    pub first: Sequence,
    /// The one of the wanted record.
    pub sequence: Sequence,
    /// Visible only after everything up to here.
    pub after: Option<Sequence>,
    /// Whether the path is a barrier.
    pub barrier: bool,
    /// What was announced.
    pub record: Record,
}

impl Source {
    /// Whether one peer holds this after the other. What a peer holds only grows in what it has
    /// seen; the sequence does not tell, since a directory may come ahead of its own.
    fn is_newer_than(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.record.version, &other.record.version);
        if ours.vector == theirs.vector {
            return (ours.touched, self.sequence) > (theirs.touched, other.sequence);
        }
        ours.vector.covers(&theirs.vector)
    }
}

impl Want {
    /// What was announced for a path where nothing is wanted yet.
    pub(super) fn new(record: Record, sources: BTreeMap<(NodeId, Lane), Source>) -> Self {
        Self {
            record,
            sources,
            content: Content::Absent,
            retry_ms: 0,
            attempts: 0,
            waits: Waits::Nothing,
            refused_open: 0,
            holds_unmirrored: false,
            queued: None,
            restores: false,
        }
    }

    /// Decides anew what is wanted: of what each peer holds now, not of all it ever announced. What
    /// a peer has replaced since is nowhere to be had, and it was decided there with what replaced
    /// it. Says whether something else is wanted now.
    pub(super) fn renew(&mut self) -> bool {
        let mut newest = BTreeMap::<NodeId, &Source>::new();
        for (&(peer, _), source) in &self.sources {
            let other = newest.entry(peer).or_insert(source);
            if source.is_newer_than(other) {
                *other = source;
            }
        }
        let records = newest.into_values().map(|source| source.record.clone());
        let Some(record) = records.reduce(merged) else { return false };
        let edit = |record: &Record| (record.version.stamp, record.version.touched);
        if edit(&record) == edit(&self.record) && record.entry == self.record.entry {
            self.record = record;
            return false;
        }
        self.begin(record);
        true
    }

    /// Forgets what a peer announced; what the others did is wanted then. Says whether there are
    /// others.
    pub(super) fn forget(&mut self, peer: NodeId) -> bool {
        let before = self.sources.len();
        self.sources.retain(|&(source, _), _| source != peer);
        if self.sources.len() < before {
            self.renew();
        }
        !self.sources.is_empty() || before == 0
    }

    /// Who may have the content, in the order in which they are to be asked: those who announced it
    /// before those who announced something else here, and after each failure another one first.
    pub(super) fn holders(&self, content: ContentId) -> Vec<NodeId> {
        let of = |source: &Source| source.record.entry.as_ref().and_then(Entry::content);
        let (mut peers, mut others) = (Vec::new(), Vec::new());
        for (&(peer, _), source) in &self.sources {
            let holds = of(source).is_some_and(|(id, _)| id == content);
            let list = if holds { &mut peers } else { &mut others };
            if !list.contains(&peer) {
                list.push(peer);
            }
        }
        others.retain(|peer| !peers.contains(peer));
        peers.extend(others);
        let tried = usize::try_from(self.attempts).unwrap_or_default();
        if !peers.is_empty() {
            let first = tried % peers.len();
            peers.rotate_left(first);
        }
        peers
    }

    fn begin(&mut self, record: Record) {
        self.record = record;
        self.content = Content::Absent;
        self.retry_ms = 0;
        self.attempts = 0;
        self.restores = false;
    }

    /// A peer that holds just this version; nothing if every peer has to be told of it, because it
    /// came of what was decided here.
    pub(super) fn holder(&self, version: &Version) -> Option<NodeId> {
        let mut holders =
            self.sources.iter().filter(|(_, source)| source.record.version == *version);
        holders.next().map(|(&(peer, _), _)| peer)
    }
}

/// What comes of two records that peers hold.
fn merged(ours: Record, theirs: Record) -> Record {
    match reconcile(Some(&ours), &theirs) {
        Verdict::Keep => ours,
        Verdict::Learn(version) => Record { version, ..ours },
        Verdict::Take { version, .. } => Record { version, ..theirs },
    }
}
