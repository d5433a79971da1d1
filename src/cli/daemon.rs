//! `trefoil daemon`.

use clap::Args;

use super::{Failure, Outcome};
use crate::{config::Config, control::BindError, daemon::DaemonError};

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

pub(super) fn run(_: &DaemonArgs, config: Config) -> Result<Outcome, Failure> {
    crate::daemon::run(config).map_err(|error| {
        let hint = match &error {
            DaemonError::NoCluster(_) => {
                Some("make a cluster with `trefoil init`, or join one with `trefoil join TICKET`")
            }
            DaemonError::Control(BindError::InUse(_)) => {
                Some("it runs already; see `trefoil status`")
            }
            _ => None,
        };
        let error = anyhow::Error::new(error).context("cannot run the daemon");
        Failure { error, hint: hint.map(str::to_owned), usage: false }
    })?;
    Ok(Outcome::Done)
}
