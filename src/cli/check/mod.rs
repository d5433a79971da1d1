//! `trefoil check`: for monitoring, after the guidelines for Nagios plugins.
//!
//! One line, performance data behind a bar, and exit codes 0 to 3 of their own: whatever goes wrong is
//! one of the four states.

mod judge;
mod plugin;
mod range;

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;

pub(super) use plugin::{Report, State};
use range::Range;

use super::{Failure, Outcome, Output, ask};
use crate::config::{Config, parse_duration};
use crate::control::ClientError;
use crate::control::types::StatusReply;

/// How long replicas must differ while nothing is on its way, and how often that is looked at.
const DIFFERS_LOOKS: u32 = 5;
const DIFFERS_PAUSE: Duration = Duration::from_secs(1);

/// Check this node for monitoring: Nagios, Icinga and what understands their plugins.
///
/// Prints one line with performance data. Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (wrong
/// usage, or not permitted). A daemon that does not run or answer is CRITICAL. Ranges are those of
/// the plugin guidelines: `10` alerts below 0 and above 10, `10:` below 10, `~:10` above 10, `10:20`
/// outside, `@10:20` inside.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Run all four on every node. The user must be root, or in the group of the control socket.

Icinga or Nagios (through NRPE or the agent):
  command[trefoil_replication]=/usr/local/bin/trefoil check replication -w 60 -c 600
  command[trefoil_cluster]=/usr/local/bin/trefoil check cluster
  command[trefoil_integrity]=/usr/local/bin/trefoil check integrity -w 8 -c 30
  command[trefoil_snapshots]=/usr/local/bin/trefoil check snapshots

Without a monitoring system, by cron:
  */5 * * * * root trefoil check replication >/run/trefoil.check || mail -s trefoil root </run/trefoil.check

Compare every file each week on one node (in /etc/cron.d, or with a systemd timer:
systemd-run --on-calendar=weekly trefoil verify --deep), and let `check integrity` watch its age:
  30 3 * * 0 root trefoil verify --deep >/dev/null")]
pub(super) struct CheckArgs {
    #[command(subcommand)]
    command: CheckCommand,
}

#[derive(Debug, Subcommand)]
enum CheckCommand {
    Replication(ReplicationArgs),
    Cluster(ClusterArgs),
    Integrity(IntegrityArgs),
    Snapshots(SnapshotsArgs),
}

/// What every check takes.
#[derive(Debug, Args)]
struct Common {
    /// How long the daemon may take to answer.
    #[arg(long, short = 't', value_name = "TIME", default_value = "10s",
        value_parser = parse_duration)]
    timeout: Duration,
    /// Print a line for everything that was found.
    #[arg(long, short)]
    verbose: bool,
    /// Print a JSON object; the exit code stays.
    #[arg(long)]
    json: bool,
}

/// Are the replicas compared and equal, how far are the others behind, is anything halted?
///
/// CRITICAL: a mount is halted, or differs for five seconds while nothing is on its way. WARNING: a
/// mount is paused or not compared with a node, a path has a problem, a conflict is kept, the conflict
/// store or a trash is larger than it may be. Lag is that of
/// the node that is farthest behind; a node that is down is behind too.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil check replication -w 60 -c 600 --critical-changes 100000")]
struct ReplicationArgs {
    /// Seconds that changes have waited: the range that is no WARNING.
    #[arg(long, short, value_name = "RANGE", default_value = "60", allow_hyphen_values = true)]
    warning: Range,
    /// The range that is not CRITICAL.
    #[arg(long, short, value_name = "RANGE", default_value = "300", allow_hyphen_values = true)]
    critical: Range,
    /// The same for the number of changes.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warning_changes: Option<Range>,
    /// The same for the number of changes.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    critical_changes: Option<Range>,
    /// Only this mount.
    #[arg(long, value_name = "MOUNT")]
    mount: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Are all nodes up, of one release, and are their certificates good?
///
/// CRITICAL also: this node was removed. Nodes renew their certificates by themselves long before
/// these ranges; one that does not has been down, or has a wrong clock.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil check cluster -w 0 -c 1")]
struct ClusterArgs {
    /// Nodes that are down: the range that is no WARNING.
    #[arg(long, short, value_name = "RANGE", default_value = "0", allow_hyphen_values = true)]
    warning: Range,
    /// The range that is not CRITICAL.
    #[arg(long, short, value_name = "RANGE", default_value = "1", allow_hyphen_values = true)]
    critical: Range,
    /// Days that the first certificate to end has left: the range that is no WARNING.
    #[arg(long, value_name = "RANGE", default_value = "60:", allow_hyphen_values = true)]
    certificate_warning: Range,
    /// The range that is not CRITICAL.
    #[arg(long, value_name = "RANGE", default_value = "14:", allow_hyphen_values = true)]
    certificate_critical: Range,
    #[command(flatten)]
    common: Common,
}

/// What did the last comparisons find, how old are they, what did the watcher miss?
///
/// CRITICAL: the last `verify` that was run on this node, or the last with --deep, found differences.
/// WARNING: it did not reach a node; the watcher missed changes since the daemon started; an index was
/// damaged; a conflict is kept.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil check integrity -w 8 -c 30")]
struct IntegrityArgs {
    /// Days since the last `verify --deep` on this node: the range that is no WARNING.
    #[arg(long, short, value_name = "RANGE", allow_hyphen_values = true)]
    warning: Option<Range>,
    /// The range that is not CRITICAL.
    #[arg(long, short, value_name = "RANGE", allow_hyphen_values = true)]
    critical: Option<Range>,
    /// Changes that only a scan found since the daemon started: the range that is no WARNING.
    #[arg(long, value_name = "RANGE", default_value = "0", allow_hyphen_values = true)]
    missed_warning: Range,
    /// Only this mount.
    #[arg(long, value_name = "MOUNT")]
    mount: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// How old is the newest snapshot, do all nodes have it, is there room for more?
///
/// A moment of the schedule counts as missed when no snapshot is there a quarter of an hour later. WARNING: one was
/// missed, the newest is not on every node yet, or something went wrong with it. CRITICAL: two were missed,
/// there is none, or the last look at the data has found damage.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil check snapshots -w 0 -c 1 --free-warning 20:")]
struct SnapshotsArgs {
    /// Missed moments of the schedule: the range that is no WARNING.
    #[arg(long, short, value_name = "RANGE", default_value = "0", allow_hyphen_values = true)]
    warning: Range,
    /// The range that is not CRITICAL.
    #[arg(long, short, value_name = "RANGE", default_value = "1", allow_hyphen_values = true)]
    critical: Range,
    /// Nodes that have the newest one: the range that is no WARNING. Without it, all of them must.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    copies_warning: Option<Range>,
    /// GiB that are free where snapshots are kept: the range that is no WARNING.
    #[arg(long, value_name = "RANGE", default_value = "1:", allow_hyphen_values = true)]
    free_warning: Range,
    /// Days since all data was last read with `trefoil snapshot verify --read-data`: the range that is no
    /// WARNING. Without it, that is only told.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    verified_warning: Option<Range>,
    #[command(flatten)]
    common: Common,
}

impl CheckCommand {
    fn name(&self) -> &'static str {
        match self {
            Self::Replication(_) => "replication",
            Self::Cluster(_) => "cluster",
            Self::Integrity(_) => "integrity",
            Self::Snapshots(_) => "snapshots",
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Replication(args) => &args.common,
            Self::Cluster(args) => &args.common,
            Self::Integrity(args) => &args.common,
            Self::Snapshots(args) => &args.common,
        }
    }

    fn mount(&self) -> Option<&str> {
        match self {
            Self::Replication(args) => args.mount.as_deref(),
            Self::Integrity(args) => args.mount.as_deref(),
            Self::Cluster(_) | Self::Snapshots(_) => None,
        }
    }
}

pub(super) fn run(
    args: &CheckArgs,
    config: &Path,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let common = args.command.common();
    let report = Config::load(config)
        .map_err(Failure::from)
        .and_then(|config| status(&args.command, &config))
        .map_or_else(
            |failure| failed(args.command.name(), &failure),
            |status| judge(&args.command, &status, Timestamp::now()),
        );
    if common.json {
        output.json(&report)?;
    } else {
        output.data(&report.render(common.verbose))?;
    }
    Ok(Outcome::Plugin(report.state.code()))
}

fn judge(command: &CheckCommand, status: &StatusReply, now: Timestamp) -> Report {
    let only = command.mount();
    if let Some(only) = only.filter(|only| !status.mounts.iter().any(|m| m.name == **only)) {
        let known: Vec<_> = status.mounts.iter().map(|mount| mount.name.as_str()).collect();
        return unknown(
            command.name(),
            format!("there is no mount \"{only}\"; there are {}", known.join(", ")),
        );
    }
    match command {
        CheckCommand::Replication(args) => {
            let ranges = judge::Lag {
                warning: args.warning.clone(),
                critical: args.critical.clone(),
                warning_changes: args.warning_changes.clone(),
                critical_changes: args.critical_changes.clone(),
            };
            judge::replication(status, only, &ranges, now)
        }
        CheckCommand::Cluster(args) => {
            let ranges = judge::Members {
                warning: args.warning.clone(),
                critical: args.critical.clone(),
                certificate_warning: args.certificate_warning.clone(),
                certificate_critical: args.certificate_critical.clone(),
            };
            judge::cluster(status, &ranges, now)
        }
        CheckCommand::Integrity(args) => {
            let ranges = judge::Verified {
                warning: args.warning.clone(),
                critical: args.critical.clone(),
                missed_warning: args.missed_warning.clone(),
            };
            judge::integrity(status, only, &ranges, now)
        }
        CheckCommand::Snapshots(args) => {
            let ranges = judge::Snapshots {
                warning: args.warning.clone(),
                critical: args.critical.clone(),
                copies_warning: args.copies_warning.clone(),
                free_warning: args.free_warning.clone(),
                verified_warning: args.verified_warning.clone(),
            };
            judge::snapshots(status, &ranges, now)
        }
    }
}

/// Asks the daemon. Replicas may differ for a moment while their fingerprints are on their way: what
/// differs is asked for again.
fn status(command: &CheckCommand, config: &Config) -> Result<StatusReply, Failure> {
    let timeout = command.common().timeout;
    let looks = if matches!(command, CheckCommand::Replication(_)) { DIFFERS_LOOKS } else { 0 };
    ask(config, async |client| {
        let asked = async {
            let mut status = client.status().await?;
            for _ in 0..looks {
                let differs = |mount: &crate::control::types::MountStatus| {
                    mount.peers.iter().any(|peer| judge::differs(mount, peer))
                };
                if !status.mounts.iter().any(differs) {
                    break;
                }
                tokio::time::sleep(DIFFERS_PAUSE).await;
                status = client.status().await?;
            }
            Ok(status)
        };
        let late = |_| Err(ClientError::Silent(timeout));
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(late)
    })
}

/// No answer: the daemon is at fault, unless it could not be asked at all.
fn failed(check: &'static str, failure: &Failure) -> Report {
    let causes: Vec<_> = failure.error.chain().map(ToString::to_string).collect();
    let text = causes.join(": ");
    let permitted = !matches!(
        failure.error.downcast_ref::<ClientError>(),
        Some(ClientError::NotPermitted { .. })
    );
    if failure.usage || !permitted {
        return unknown(check, text);
    }
    let mut report = Report::new(check);
    report.find(State::Critical, text);
    report
}

pub(super) fn unknown(check: &'static str, text: impl Into<String>) -> Report {
    let mut report = Report::new(check);
    report.find(State::Unknown, text);
    report
}

/// Which check a command line that is wrong was meant for: its failure is UNKNOWN, not what 2 means
/// to monitoring.
pub(super) fn meant(arguments: &[String]) -> Option<&'static str> {
    let at = arguments.iter().position(|argument| argument == "check")?;
    let is_own =
        at == 0 || arguments[at - 1] != "config" || at >= 2 && arguments[at - 2] == "--config";
    let names = ["replication", "cluster", "integrity", "snapshots"];
    let named = arguments[at + 1..].iter().find_map(|a| names.into_iter().find(|name| a == name));
    is_own.then(|| named.unwrap_or("check"))
}

#[cfg(test)]
pub(super) mod testing {
    //! The checks with arguments as text, for tests of what they say.

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckArgs,
    }

    /// What a check says of a status.
    pub(in crate::cli) fn says(arguments: &str, status: &StatusReply, now: Timestamp) -> String {
        let words = std::iter::once("check").chain(arguments.split(' '));
        let line = Line::try_parse_from(words).unwrap();
        let report = judge(&line.check.command, status, now);
        let code = report.state.code();
        format!("{}{code}", report.render(line.check.command.common().verbose))
    }
}
