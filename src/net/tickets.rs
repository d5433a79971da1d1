//! The tickets a node gave out: made by `invite`, redeemed by the daemon, in a file that both
//! lock. Secrets are kept as hashes only.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files;
use super::identity::{Identity, IdentityError};
use super::roster::{self, RosterError};
use super::ticket::{Secret, Ticket};
use super::wire::Refusal;
use crate::model::NodeId;

/// Tickets remembered at a time.
const TICKETS_MAX: usize = 1000;

/// How long an expired or used ticket is remembered, to say so when it comes again.
const REMEMBERED_SECS: u64 = 30 * 24 * 60 * 60;

/// Why no ticket was made.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// This node has no identity.
    #[error("cannot load the identity")]
    Identity(#[from] IdentityError),
    /// The member list cannot be read.
    #[error("cannot load the member list")]
    Members(#[from] RosterError),
    /// This node was removed from the cluster.
    #[error("this node was removed from the cluster")]
    Removed,
    /// The ticket would not say where to connect to.
    #[error("this node has no address yet: start its daemon, or set `advertise`")]
    NoAddress,
    /// More than a thousand tickets are open.
    #[error("too many open tickets")]
    TooMany,
    /// The file of tickets cannot be read or written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize, Default)]
struct TicketsFile {
    tickets: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// BLAKE3 of the secret.
    secret: String,
    expires_secs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Used>,
}

#[derive(Serialize, Deserialize)]
struct Used {
    /// BLAKE3 of the public key that was enrolled.
    key: String,
    node: String,
}

/// Makes a ticket that lets one node join for as long as `ttl`, by way of this node. Works beside
/// the running daemon.
///
/// # Errors
/// [`InviteError`]; no ticket was made then.
pub fn invite(state: &Path, ttl: Duration) -> Result<Ticket, InviteError> {
    let identity = Identity::load(state)?;
    let members = roster::load_members(state)?;
    if !members.is_active(identity.id) {
        return Err(InviteError::Removed);
    }
    let addresses = members.member(identity.id).map(|m| m.addresses.clone()).unwrap_or_default();
    if addresses.is_empty() {
        return Err(InviteError::NoAddress);
    }
    let file_error = |source| InviteError::File { path: path(state), source };
    let secret = Secret(files::random().map_err(file_error)?);
    let now_secs = files::now_secs();
    let expires_secs = now_secs.saturating_add(ttl.as_secs());
    let _lock = files::lock(&lock_path(state)).map_err(file_error)?;
    let mut file = load(state, now_secs).map_err(file_error)?;
    if file.tickets.len() >= TICKETS_MAX {
        return Err(InviteError::TooMany);
    }
    file.tickets.push(Entry { secret: hashed(&secret.0), expires_secs, used: None });
    save(state, &file).map_err(file_error)?;
    let pin = *blake3::hash(&identity.ca_certificate).as_bytes();
    let key = identity.key_hash();
    Ok(Ticket { addresses, inviter: identity.id, pin, secret, key, expires_secs })
}

/// Redeems a ticket for the holder of `key` (a hash). `admit` is asked once the ticket is known to
/// be good, and gives the id of the new node or the reason against it, which leaves the ticket
/// as it was. After `Ok` the ticket is used, durably; the same key may redeem it again, in case
/// the answer was lost, and gets the same id. Blocks.
pub(super) fn redeem(
    state: &Path,
    secret: &Secret,
    key: &[u8; 32],
    admit: impl FnOnce(Option<NodeId>) -> Result<NodeId, (Refusal, String)>,
) -> Result<NodeId, (Refusal, String)> {
    let unable =
        |e: io::Error| (Refusal::Unable, format!("cannot use {}: {e}", path(state).display()));
    let now_secs = files::now_secs();
    let _lock = files::lock(&lock_path(state)).map_err(unable)?;
    let mut file = load(state, now_secs).map_err(unable)?;
    let secret = hashed(&secret.0);
    let key = data_encoding::HEXLOWER.encode(key);
    let Some(entry) = file.tickets.iter_mut().find(|entry| entry.secret == secret) else {
        return Err((Refusal::Unknown, String::new()));
    };
    let again = match &entry.used {
        Some(used) if used.key == key => roster::parse_node(&used.node),
        Some(_) => return Err((Refusal::Used, String::new())),
        None => None,
    };
    if entry.expires_secs <= now_secs {
        return Err((Refusal::Expired, String::new()));
    }
    let node = admit(again)?;
    if again.is_none() {
        entry.used = Some(Used { key, node: node.to_string() });
        save(state, &file).map_err(unable)?;
    }
    Ok(node)
}

fn hashed(secret: &[u8; 32]) -> String {
    blake3::hash(secret).to_hex().to_string()
}

/// The file without what may be forgotten.
fn load(state: &Path, now_secs: u64) -> io::Result<TicketsFile> {
    let mut file: TicketsFile = match std::fs::read(path(state)) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => TicketsFile::default(),
        Err(error) => return Err(error),
    };
    file.tickets.retain(|t| t.expires_secs.saturating_add(REMEMBERED_SECS) > now_secs);
    Ok(file)
}

fn save(state: &Path, file: &TicketsFile) -> io::Result<()> {
    files::save(&path(state), &serde_json::to_vec_pretty(file)?)
}

fn path(state: &Path) -> PathBuf {
    state.join("tickets.json")
}

fn lock_path(state: &Path) -> PathBuf {
    state.join("tickets.lock")
}
