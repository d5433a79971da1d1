//! What kind of history a seed makes.

use trefoil::model::limits;

use crate::rng::Rng;
use crate::world::{Micros, SECOND};

/// Which histories there are: the seeds of the first that failed once are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    First,
    Second,
}

/// Who writes where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Everyone everywhere.
    Free,
    /// Each node below a directory of its own: there can be no conflict.
    Owners,
}

#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub nodes: usize,
    pub writers: Writers,
    pub operations: u64,
    pub length: Micros,
    /// Deletes and renames among the operations.
    pub destructive: bool,
    pub dirs: bool,
    pub cuts: u64,
    pub crashes: u64,
    pub power_cuts: u64,
    pub index_losses: u64,
    pub overflows: u64,
    pub disk_faults: u64,
    pub clock_jumps: u64,
    pub late_joiner: bool,
    pub skewed: bool,
    pub echo_percent: u64,
    pub inline_percent: u64,
    pub slow_percent: u64,
    /// Made directories are watched only a moment later.
    pub inotify: bool,
    pub more: More,
}

/// Budgets of deletions: 0, 1, …
pub const BUDGETS: u64 = 3;

/// What histories of the first generation do not have. Drawn from a generator of its own, and with
/// nothing of it no other number is drawn: the seeds of the first generation replay as they did.
#[derive(Clone, Copy, Debug, Default)]
pub struct More {
    /// Daemons killed between an apply and its note, and what was applied is changed meanwhile.
    pub crashes_at_apply: u64,
    /// How many of the files that were not synced a power cut tears.
    pub torn_percent: u64,
    pub pauses: u64,
    /// The file system under the mount is away for a while.
    pub halts: u64,
    /// Nodes that are down for long.
    pub away: u64,
    /// How long a tombstone is kept at least; zero: for ever.
    pub kept: Micros,
    /// Nodes that are removed from the cluster for good.
    pub removals: u64,
    /// Nodes that come back as another one, with what was on their disk or nothing.
    pub replacements: u64,
    /// Deletions that pass without a word, if that is limited.
    pub budget: Option<u64>,
    /// Indexes, or whole machines, that are put back as they were.
    pub backups: u64,
    /// What a peer can have under way at a node, if that is little.
    pub share: Option<usize>,
}

impl More {
    pub fn draw(rng: &mut Rng) -> Self {
        let few = |rng: &mut Rng, most: u64| if rng.chance(60) { 0 } else { rng.range(1, most) };
        Self {
            crashes_at_apply: few(rng, 4),
            torn_percent: *rng.pick(&[0, 30, 90]),
            pauses: few(rng, 2),
            halts: few(rng, 2),
            away: few(rng, 2),
            kept: *rng.pick(&[0, 10, 20]) * SECOND,
            removals: u64::from(rng.chance(15)),
            replacements: if rng.chance(15) { rng.range(1, 2) } else { 0 },
            budget: rng.chance(30).then(|| rng.below(BUDGETS)),
            backups: if rng.chance(20) { rng.range(1, 2) } else { 0 },
            share: rng.chance(30).then(|| 1 + rng.index(8)),
        }
    }
}

impl Profile {
    pub fn draw(rng: &mut Rng) -> Self {
        let few = |rng: &mut Rng, most: u64| if rng.chance(60) { 0 } else { rng.range(1, most) };
        let mut profile = Self {
            nodes: 2 + rng.index(3),
            writers: if rng.chance(35) { Writers::Owners } else { Writers::Free },
            operations: rng.range(5, 120),
            length: rng.range(2, 90) * SECOND,
            destructive: rng.chance(85),
            dirs: rng.chance(70),
            cuts: few(rng, 6),
            crashes: few(rng, 4),
            power_cuts: few(rng, 2),
            index_losses: few(rng, 2),
            overflows: few(rng, 3),
            disk_faults: few(rng, 2),
            clock_jumps: few(rng, 2),
            late_joiner: rng.chance(15),
            skewed: rng.chance(30),
            echo_percent: *rng.pick(&[0, 50, 100]),
            inline_percent: *rng.pick(&[0, 50, 100]),
            slow_percent: *rng.pick(&[0, 3, 20]),
            inotify: rng.chance(50),
            more: More::default(),
        };
        if rng.chance(20) {
            profile = profile.without_faults();
        }
        profile
    }

    /// With what came later.
    pub fn with_more(self, rng: &mut Rng) -> Self {
        let calm = self.cuts + self.crashes + self.power_cuts + self.index_losses == 0;
        let more = if calm && rng.chance(50) { More::default() } else { More::draw(rng) };
        Self { more, ..self }
    }

    /// What a peer can have under way at a node.
    pub fn share(&self) -> usize {
        self.more.share.unwrap_or(limits::SHARE_MAX)
    }

    /// Only delays.
    pub fn without_faults(self) -> Self {
        Self {
            cuts: 0,
            crashes: 0,
            power_cuts: 0,
            index_losses: 0,
            overflows: 0,
            disk_faults: 0,
            clock_jumps: 0,
            late_joiner: false,
            skewed: false,
            ..self
        }
    }

    /// How far a node's wall clock is off.
    pub fn draw_skew(self, rng: &mut Rng) -> i64 {
        const NS: i64 = 1_000_000_000;
        if self.skewed {
            *rng.pick(&[0, NS, -NS, 3600 * NS, -3600 * NS, 365 * 86_400 * NS])
        } else {
            0
        }
    }
}
