//! A peer's record that was decided for: what several peers announced of a path, as one.

use std::collections::BTreeMap;

use super::reconcile::{Verdict, reconcile};
use crate::model::{Lane, NodeId, Record, Sequence, Version};

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
    /// When a directory that shall go, but has children, is kept.
    pub keep_ms: Option<u64>,
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
    /// What was announced.
    pub record: Record,
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
            keep_ms: None,
        }
    }

    /// Takes one more announced record into account; says whether it is wanted now instead.
    pub(super) fn merge(&mut self, theirs: &Record) -> bool {
        match reconcile(Some(&self.record), theirs) {
            Verdict::Keep => false,
            Verdict::Learn(version) => {
                self.record.version = version;
                false
            }
            Verdict::Take { version, .. } => {
                self.begin(Record { version, ..theirs.clone() });
                true
            }
        }
    }

    /// Forgets what a peer announced; what the others did is wanted then. Says whether there are
    /// others.
    pub(super) fn forget(&mut self, peer: NodeId) -> bool {
        let before = self.sources.len();
        self.sources.retain(|&(source, _), _| source != peer);
        let records: Vec<_> = self.sources.values().map(|source| source.record.clone()).collect();
        let Some((first, others)) = records.split_first().filter(|_| self.sources.len() < before)
        else {
            return before == self.sources.len();
        };
        self.begin(first.clone());
        others.iter().for_each(|record| {
            self.merge(record);
        });
        true
    }

    fn begin(&mut self, record: Record) {
        self.record = record;
        self.content = Content::Absent;
        self.retry_ms = 0;
        self.attempts = 0;
        self.keep_ms = None;
    }

    /// A peer that holds just this version; nothing if every peer has to be told of it, because it
    /// came of what was decided here.
    pub(super) fn holder(&self, version: &Version) -> Option<NodeId> {
        let mut holders =
            self.sources.iter().filter(|(_, source)| source.record.version == *version);
        holders.next().map(|(&(peer, _), _)| peer)
    }
}
