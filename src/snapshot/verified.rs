//! When the data of each snapshot was last read and hashed, and what was found. For people and monitoring:
//! nothing else believes it.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::manifest::SnapshotId;
use super::repository::{Lock, Repository, RepositoryError, SNAPSHOTS};

const FILE: &str = "verified";

/// A look at all data of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When it ended: nanoseconds since 1970.
    pub at_ns: u64,
    /// What was wrong then.
    pub faults: u64,
}

impl Repository {
    /// The last looks, by snapshot.
    #[must_use]
    pub fn verified(&self) -> BTreeMap<SnapshotId, Verified> {
        let text = fs::read(self.path().join(FILE)).unwrap_or_default();
        let lines: BTreeMap<String, Verified> = serde_json::from_slice(&text).unwrap_or_default();
        lines.into_iter().filter_map(|(id, look)| Some((SnapshotId::parse(&id)?, look))).collect()
    }

    /// Notes looks; those at snapshots that are gone are forgotten.
    ///
    /// # Errors
    /// [`RepositoryError::Io`]: those of before are noted.
    pub fn note_verified(
        &self,
        lock: &Lock,
        looks: impl IntoIterator<Item = (SnapshotId, Verified)>,
    ) -> Result<(), RepositoryError> {
        let mut all = self.verified();
        all.extend(looks);
        let there = self.ids_in(SNAPSHOTS)?;
        let lines: BTreeMap<String, Verified> = all
            .into_iter()
            .filter(|(id, _)| there.contains(id))
            .map(|(id, look)| (id.to_string(), look))
            .collect();
        let text = serde_json::to_vec(&lines).unwrap_or_default();
        self.replace(lock, &text, &self.path().join(FILE))
    }
}
