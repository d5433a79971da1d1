//! `trefoil init`.

use clap::Args;

use super::{Failure, Outcome, Output, cluster, words::plural};
use crate::config::Config;

/// Make a cluster with this node as its first member.
///
/// Makes the cluster's certificate authority, this node's identity, and a marker in each mount, by
/// which trefoil will know that the mount is the right one. Files in the mounts are not touched:
/// they are what the nodes that join will receive. Refuses if there is a cluster already; a mount
/// that is added later is marked with `trefoil mark`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil init && systemctl start trefoil && trefoil invite")]
pub(super) struct InitArgs {}

pub(super) fn run(_: &InitArgs, config: &Config, output: &mut Output) -> Result<Outcome, Failure> {
    let founded = cluster::init(config)?;
    output.note(&format!(
        "made cluster {} with node {} ({}) and {}",
        founded.cluster_id,
        config.node.name,
        founded.node_id,
        plural(config.mounts.len(), "mount"),
    ));
    output.note("hint: start the daemon, then run `trefoil invite` for each other node");
    Ok(Outcome::Done)
}
