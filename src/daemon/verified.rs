//! What the last comparisons of each mount found, and when: for monitoring, also after a restart.
//!
//! In: replies of `verify`. Out: a small file in the state folder, and what it says. It is a note for
//! people: nothing is decided by it.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::open::unusable_index;
use crate::control::types::{MountStatus, VerifiedStatus, VerifyMount, VerifyReply};

/// The last comparison of a mount, and the last that read every file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Verified {
    last: Option<VerifiedStatus>,
    deep: Option<VerifiedStatus>,
}

type Noted = BTreeMap<String, Verified>;

fn file(state: &Path) -> PathBuf {
    state.join("verified.json")
}

/// A note that cannot be read is no note.
fn read(state: &Path) -> Noted {
    let text = fs::read(file(state)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes down what was found.
pub(super) fn note(state: &Path, reply: &VerifyReply, now: Timestamp) {
    let mut noted = read(state);
    for mount in &reply.mounts {
        let entry = noted.entry(mount.name.clone()).or_default();
        let found = found(mount, now);
        if reply.deep {
            entry.deep = Some(found.clone());
        }
        entry.last = Some(found);
    }
    if let Err(error) = write(state, &noted) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot write down what was verified");
    }
}

fn found(mount: &VerifyMount, now: Timestamp) -> VerifiedStatus {
    let failed = mount.nodes.iter().filter(|node| node.error.is_some());
    VerifiedStatus {
        when: now,
        equal: mount.equal,
        difference_count: mount.difference_count,
        not_compared: failed.map(|node| node.name.clone()).collect(),
    }
}

fn write(state: &Path, noted: &Noted) -> io::Result<()> {
    let made = file(state).with_extension("json.new");
    fs::write(&made, serde_json::to_vec_pretty(noted)?)?;
    fs::rename(made, file(state))
}

/// Adds to a mount's status what was found in it.
pub(super) fn tell(state: &Path, status: &mut MountStatus) {
    let verified = read(state).remove(&status.name).unwrap_or_default();
    status.verified = verified.last;
    status.verified_deep = verified.deep;
    status.index_set_aside = unusable_index(state, &status.name).exists();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_comparison_is_remembered_when_a_quick_one_follows() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mount = VerifyMount {
            name: "data".to_owned(),
            equal: false,
            nodes: Vec::new(),
            differences: Vec::new(),
            difference_count: 3,
        };
        let mut reply = VerifyReply { equal: false, deep: true, mounts: vec![mount] };
        note(folder.path(), &reply, at(1));
        reply.deep = false;
        reply.mounts[0].equal = true;
        note(folder.path(), &reply, at(2));
        let noted = read(folder.path()).remove("data").unwrap();
        let told = |one: Option<VerifiedStatus>| one.map(|one| (one.when, one.equal));
        assert_eq!(
            (Some((at(2), true)), Some((at(1), false))),
            (told(noted.last), told(noted.deep))
        );
    }
}
