//! `trefoil daemon`.

use clap::Args;

use super::{Failure, Outcome, Parts};
use crate::config::Config;

/// Mirror the mounts, in the foreground, until told to stop.
///
/// SIGTERM and SIGINT stop it cleanly; SIGHUP makes it read its configuration again and take over
/// what can be changed while running. It tells systemd when it is ready.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil daemon
  trefoil --log debug --log-format json daemon")]
pub(super) struct DaemonArgs {}

pub(super) fn run(_: &DaemonArgs, config: Config, parts: &impl Parts) -> Result<Outcome, Failure> {
    parts.daemon(config)?;
    Ok(Outcome::Done)
}
