//! `trefoil join`.

use clap::Args;

use super::{Failure, Outcome, Output, Parts};
use crate::config::Config;

/// Make this node a member of the cluster that a ticket is from.
///
/// Files that are in the mounts already stay and are merged with those of the cluster by their
/// content: nothing is deleted, and what differs is kept in the conflict store. Start the daemon
/// afterwards.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil join TICKET && systemctl start trefoil && trefoil status")]
pub(super) struct JoinArgs {
    /// What `trefoil invite` printed on a member.
    ticket: String,
}

pub(super) fn run(
    args: &JoinArgs,
    config: &Config,
    parts: &impl Parts,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let joined = parts.join(config, &args.ticket)?;
    output.note(&format!(
        "node {} ({}) joined cluster {} of {}",
        config.node.name,
        joined.node_id,
        joined.cluster_id,
        joined.members.join(", "),
    ));
    for mount in &joined.mounts_left_out {
        output.note(&format!("note: the cluster has a mount {mount:?} that this node has not"));
    }
    output.note("hint: start the daemon: `systemctl start trefoil`, or `trefoil daemon`");
    Ok(Outcome::Done)
}
