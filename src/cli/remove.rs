//! `trefoil remove`.

use clap::Args;

use super::{Failure, Outcome, Output, ask};
use crate::config::Config;

/// Take a node out of the cluster.
///
/// Its certificate is refused everywhere from then on, and nothing waits for it any more. Its files
/// stay where they are. To take it in again, empty its state folder and let it join.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example, for a server that is lost:
  trefoil remove web3
  trefoil invite            # for the machine that replaces it")]
pub(super) struct RemoveArgs {
    /// The node's name or id, as in `trefoil status`.
    node: String,
}

pub(super) fn run(
    args: &RemoveArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let removed = ask(config, async |client| client.remove(&args.node).await)?;
    output.note(&format!("removed node {} ({})", removed.name, removed.id));
    Ok(Outcome::Done)
}
