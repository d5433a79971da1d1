//! Paths that failed: data, listed and tried again, never an error that stops others.

use std::collections::BTreeMap;

use super::clock::Now;
use crate::model::{RelPath, limits};

/// One path's failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The path, relative to the mount.
    pub path: RelPath,
    /// Why, as "cannot open: permission denied".
    pub reason: String,
    /// Since when, in nanoseconds since 1970.
    pub since_ns: u64,
    /// When it is tried again, in nanoseconds since 1970. Nothing for what is left alone until it
    /// changes, such as a socket.
    pub retry_ns: Option<u64>,
}

/// The failures of one mount.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeMap<RelPath, Problem>);

impl Problems {
    /// Notes a failure; `retry_in_ms` from now it is tried again.
    pub(super) fn note(
        &mut self,
        now: Now,
        path: &RelPath,
        reason: String,
        retry_in_ms: Option<u64>,
    ) {
        let since_ns = self.0.get(path).map_or(now.wall_ns, |p| p.since_ns);
        let retry_ns = retry_in_ms.map(|ms| now.wall_ns + ms * 1_000_000);
        let problem = Problem { path: path.clone(), reason, since_ns, retry_ns };
        self.0.insert(path.clone(), problem);
    }

    /// The path is fine.
    pub(super) fn solve(&mut self, path: &RelPath) {
        if !self.0.is_empty() {
            self.0.remove(path);
        }
    }

    pub(super) fn get(&self, path: &RelPath) -> Option<&Problem> {
        self.0.get(path)
    }

    /// The paths at and below a directory that failed.
    pub(super) fn below(&self, dir: &RelPath) -> Vec<RelPath> {
        let at_or_below = |path: &&RelPath| *path == dir || path.is_below(dir);
        self.0.keys().filter(at_or_below).cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn list(&self) -> (Vec<Problem>, usize) {
        (self.0.values().take(limits::PROBLEMS_MAX).cloned().collect(), self.0.len())
    }
}

/// How long to wait before the next try, in milliseconds: doubling from 250 ms to a minute.
pub(super) fn backoff_ms(attempts: u32) -> u64 {
    (250_u64 << attempts.min(8)).min(60_000)
}
