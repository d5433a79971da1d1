//! What the commands need of the layers below that is more than a question to a running daemon.
//!
//! A trait, so that the commands are tested without a network; the program has one implementation.

use std::time::Duration;

use jiff::Timestamp;

use super::Failure;
use crate::config::Config;

/// A cluster that was made.
#[derive(Clone, Debug)]
pub struct Founded {
    /// This node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster_id: String,
}

/// A ticket that was made.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The ticket: one word.
    pub ticket: String,
    /// Where the new node will look for this one.
    pub addresses: Vec<String>,
    /// Until when it can be used.
    pub expires: Timestamp,
}

/// A cluster that was joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// This node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The other members' names.
    pub members: Vec<String>,
    /// Mounts of the cluster that this node's configuration does not have.
    pub mounts_left_out: Vec<String>,
}

/// The layers below, as the commands see them.
pub trait Parts {
    /// Makes a cluster: its CA, this node's identity, and the markers of its mounts.
    ///
    /// # Errors
    /// If there is one already, nothing is changed; otherwise it can be called again.
    fn init(&self, config: &Config) -> Result<Founded, Failure>;

    /// Makes a ticket that one node can use once, until `ttl` has passed.
    ///
    /// # Errors
    /// If this node is in no cluster, or cannot be reached by others.
    fn invite(&self, config: &Config, ttl: Duration) -> Result<Invitation, Failure>;

    /// Enrols this node with the one that made the ticket, and makes the markers of its mounts.
    ///
    /// # Errors
    /// If this node is in a cluster already, or the other one cannot be reached or refuses.
    fn join(&self, config: &Config, ticket: &str) -> Result<Joined, Failure>;

    /// Mirrors until told to stop.
    ///
    /// # Errors
    /// If it cannot start, or cannot go on.
    fn daemon(&self, config: Config) -> anyhow::Result<()>;
}
