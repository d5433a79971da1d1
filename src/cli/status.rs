//! `trefoil status`.

use clap::Args;
use jiff::Timestamp;

use super::{Failure, Outcome, Output, ask, status_view};
use crate::config::Config;

/// Show how nodes and mounts are.
///
/// The first line says whether everything is in sync, or what is wrong and what to do about it. "In
/// sync" means that the fingerprints of all mounts were compared with those of all nodes and are
/// equal. Exits with 3 if there are problems, a mount is held by a guard, or this node was removed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil status
  trefoil status --json | jq .in_sync")]
pub(super) struct StatusArgs {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &StatusArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let status = ask(config, async |client| client.status().await)?;
    if args.json {
        output.json(&status)?;
    } else {
        output.data(&status_view::render(&status, Timestamp::now()))?;
    }
    let problems = status.mounts.iter().any(|mount| mount.problem_count > 0);
    let fine = !problems && status.guards.is_empty() && !status.removed;
    Ok(if fine { Outcome::Done } else { Outcome::Problems })
}
