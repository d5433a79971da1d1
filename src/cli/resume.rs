//! `trefoil resume`.

use clap::Args;

use super::{Failure, Outcome, Output, ask};
use crate::config::Config;

/// Go on mirroring a mount that was paused on this node.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil resume media")]
pub(super) struct ResumeArgs {
    /// The mount's name.
    mount: String,
}

pub(super) fn run(
    args: &ResumeArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    ask(config, async |client| client.resume(&args.mount).await)?;
    output.note(&format!("resumed mount {}", args.mount));
    Ok(Outcome::Done)
}
