//! Deletions that are held: what is told of them, and what people say about them.
//!
//! In: questions of commands. Out: what is held, and the person's word to the engine. It decides
//! nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::actor::Actor;
use crate::control::types::{HeldStatus, HeldWord, timestamp};
use crate::engine::{Held, Input};
use crate::index::IndexError;

/// Paths told with a status.
const PATHS_TOLD: usize = 10;

impl Actor {
    /// What is held, with at most so many paths.
    pub(super) fn held(&self, paths_max: usize) -> Option<HeldStatus> {
        self.engine.held(paths_max).map(status)
    }

    /// The same, as short as a status has it.
    pub(super) fn held_shortly(&self) -> Option<HeldStatus> {
        self.held(PATHS_TOLD)
    }

    /// Decides about what is held. Gives what that was.
    pub(super) fn decide_held(&mut self, word: HeldWord) -> Result<Option<HeldStatus>, IndexError> {
        let held = self.held_shortly();
        if let Some(held) = &held {
            tracing::info!(mount = self.place.name, ?word, count = held.count, "held deletions");
            self.input(match word {
                HeldWord::Approve => Input::Approved,
                HeldWord::Revert => Input::Reverted,
            })?;
        }
        Ok(held)
    }

    /// Holds nothing for so long from now.
    pub(super) fn deploy(&mut self, for_ms: u64) -> Result<(), IndexError> {
        let until_ms = match for_ms {
            0 => 0,
            for_ms => self.now().monotonic_ms.saturating_add(for_ms),
        };
        self.input(Input::Deploying { until_ms })
    }

    /// Until when a deployment goes on.
    pub(super) fn deploying_until(&self) -> Option<SystemTime> {
        let now = self.now();
        let until = self.engine.deploying_until_ms(now)?;
        Some(SystemTime::now() + Duration::from_millis(until - now.monotonic_ms))
    }
}

fn status(held: Held) -> HeldStatus {
    let class = |(class, budget)| format!("{class} ({budget})");
    HeldStatus {
        count: held.count as u64,
        more: held.more,
        since: timestamp(UNIX_EPOCH + Duration::from_nanos(held.since_ns)),
        classes: held.classes.into_iter().map(class).collect(),
        paths: held.paths.iter().map(ToString::to_string).collect(),
    }
}

/// Why the mount is no replica of the others for now, and what to do.
pub(super) fn told(mount: &str, held: &HeldStatus) -> (String, String) {
    let (count, over) = (held.count, if held.more { "more than " } else { "" });
    let (noun, are) =
        if count == 1 && !held.more { ("deletion", "is") } else { ("deletions", "are") };
    let classes = match held.classes.as_slice() {
        [] => String::new(),
        classes => format!(", the budget of {} is spent", classes.join(" and ")),
    };
    let reason = format!("{over}{count} {noun} made on this node {are} held{classes}");
    let hint = format!(
        "`trefoil approve {mount} --list` shows them; `trefoil approve {mount}` lets them through, \
         `trefoil revert {mount}` brings them back"
    );
    (reason, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_told_with_what_to_do() {
        let held = HeldStatus {
            count: 1,
            more: false,
            since: timestamp(UNIX_EPOCH),
            classes: vec!["config (0)".to_owned()],
            paths: Vec::new(),
        };
        let (reason, hint) = told("app-etc", &held);
        let expected = "1 deletion made on this node is held, the budget of config (0) is spent";
        assert_eq!(expected, reason);
        assert!(hint.contains("`trefoil revert app-etc`"), "{hint}");
        let more = HeldStatus { count: 16_384, more: true, ..held };
        assert!(told("media", &more).0.starts_with("more than 16384 deletions made"));
    }
}
