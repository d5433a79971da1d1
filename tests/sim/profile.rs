//! What kind of history a seed makes.

use crate::rng::Rng;
use crate::world::{Micros, SECOND};

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
        };
        if rng.chance(20) {
            profile = profile.without_faults();
        }
        profile
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
