//! The member list as this node holds it: in memory for all who watch it, and in a file.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::files;
use super::members::{ClusterId, MarkerId, Member, MemberState, Members};
use crate::model::NodeId;

/// Why the member list cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// A verb, as in "read".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("damaged file {}", .0.display())]
    Damaged(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct MembersFile {
    cluster: String,
    members: Vec<MemberFile>,
    mounts: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct MemberFile {
    id: String,
    name: String,
    addresses: Vec<String>,
    removed: bool,
    changed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// The member list, shared.
pub(super) struct Roster {
    state: PathBuf,
    /// Held while the list is changed and saved, so that changes come one after the other.
    changing: Mutex<()>,
    list: watch::Sender<Arc<Members>>,
}

impl Roster {
    /// Loads the list from the state folder.
    pub(super) fn load(state: &Path) -> Result<Self, RosterError> {
        let list = watch::Sender::new(Arc::new(load_members(state)?));
        Ok(Self { state: state.to_owned(), changing: Mutex::new(()), list })
    }

    /// The list as it is now.
    pub(super) fn members(&self) -> Arc<Members> {
        self.list.borrow().clone()
    }

    /// Tells of every change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Members>> {
        self.list.subscribe()
    }

    /// Changes the list; if it is another one afterwards, saves it and tells those who watch. It
    /// holds in memory even after `Err`: what peers said or the operator wants is true, saved or
    /// not. Blocks.
    pub(super) fn change(&self, change: impl FnOnce(&mut Members)) -> Result<(), RosterError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.members();
        let mut after = Members::clone(&before);
        change(&mut after);
        if after == *before {
            return Ok(());
        }
        let saved = save(&self.state, &after);
        self.list.send_replace(Arc::new(after));
        saved
    }

    /// Takes in what a peer knows. Blocks.
    pub(super) fn merge(&self, theirs: &Members) {
        if let Err(error) = self.change(|members| members.merge(theirs)) {
            warn!(error = &error as &dyn std::error::Error, "cannot save the member list");
        }
    }
}

/// Reads the member list of a state folder.
///
/// # Errors
/// [`RosterError`].
pub fn load_members(state: &Path) -> Result<Members, RosterError> {
    let path = path(state);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(RosterError::File { doing: "read", path, source }),
    };
    parse(&bytes).ok_or(RosterError::Damaged(path))
}

/// Writes the member list of a state folder, durably.
pub(super) fn save(state: &Path, members: &Members) -> Result<(), RosterError> {
    let file = MembersFile {
        cluster: members.cluster.to_string(),
        members: members.iter().map(member_file).collect(),
        mounts: members.mounts().iter().map(|(name, id)| (name.clone(), id.to_string())).collect(),
    };
    let path = path(state);
    let written = serde_json::to_vec_pretty(&file)
        .map_err(io::Error::from)
        .and_then(|bytes| files::save(&path, &bytes));
    written.map_err(|source| RosterError::File { doing: "write", path, source })
}

fn member_file(member: &Member) -> MemberFile {
    MemberFile {
        id: member.id.to_string(),
        name: member.name.clone(),
        addresses: member.addresses.clone(),
        removed: member.state == MemberState::Removed,
        changed: member.changed,
        key: member.key.map(|key| data_encoding::HEXLOWER.encode(&key)),
    }
}

fn parse(bytes: &[u8]) -> Option<Members> {
    let file: MembersFile = serde_json::from_slice(bytes).ok()?;
    let mut members = Members::new(ClusterId(parse_hex(&file.cluster)?));
    for member in file.members {
        members.put(Member {
            id: parse_node(&member.id)?,
            name: member.name,
            addresses: member.addresses,
            state: if member.removed { MemberState::Removed } else { MemberState::Active },
            changed: member.changed,
            key: match member.key {
                Some(key) => Some(parse_hex(&key)?),
                None => None,
            },
        });
    }
    for (name, id) in file.mounts {
        members.put_mount(&name, MarkerId(parse_hex(&id)?));
    }
    Some(members)
}

/// A node id as it is printed.
pub(super) fn parse_node(text: &str) -> Option<NodeId> {
    parse_hex(text).map(|bytes| NodeId(u64::from_be_bytes(bytes)))
}

/// Lower-case hexadecimal of a fixed length.
pub(super) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn path(state: &Path) -> PathBuf {
    state.join("members.json")
}
