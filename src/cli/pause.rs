//! `trefoil pause`.

use clap::Args;

use super::{Failure, Outcome, Output, ask};
use crate::config::Config;

/// Stop mirroring a mount on this node until `trefoil resume`.
///
/// Nothing is sent or applied meanwhile; what changes here and on the other nodes is made up for
/// afterwards. It stays paused if the daemon restarts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil pause media")]
pub(super) struct PauseArgs {
    /// The mount's name.
    mount: String,
}

pub(super) fn run(
    args: &PauseArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    ask(config, async |client| client.pause(&args.mount).await)?;
    output.note(&format!("paused mount {}", args.mount));
    output.note(&format!("hint: go on with `trefoil resume {}`", args.mount));
    Ok(Outcome::Done)
}
