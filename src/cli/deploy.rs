//! `trefoil deploy`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Failure, Outcome, Output, ask};
use crate::config::{Config, parse_duration};
use crate::control::types::DeployRequest;

/// Say that a deployment goes on, so that no deletion is held.
///
/// A deployment that removes more than the budget of deletions allows is let through while it is
/// announced. It ends by itself after some time, and when the daemon ends. What clears and rebuilds
/// `pub/static` needs none of this: its class has no budget.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil deploy begin --for 20m && ./deploy.sh; trefoil deploy end")]
pub(super) struct DeployArgs {
    #[command(subcommand)]
    command: DeployCommand,
}

#[derive(Debug, Subcommand)]
enum DeployCommand {
    /// Hold no deletion that is made on this node for some time.
    Begin(BeginArgs),
    /// Hold deletions beyond their budget again.
    End(EndArgs),
}

#[derive(Debug, Args)]
struct BeginArgs {
    /// Only in these mounts; none: in all.
    mounts: Vec<String>,
    /// For how long, at most a day.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = parse_window)]
    window: Duration,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct EndArgs {
    /// Only in these mounts; none: in all.
    mounts: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A deployment that takes longer was forgotten.
const WINDOW_MAX: Duration = Duration::from_hours(24);

fn parse_window(text: &str) -> Result<Duration, String> {
    let window = parse_duration(text).map_err(|error| error.to_string())?;
    match window {
        Duration::ZERO => Err("a deployment takes some time, such as 20m".to_owned()),
        window if window > WINDOW_MAX => Err("longer than a day".to_owned()),
        window => Ok(window),
    }
}

pub(super) fn run(
    args: &DeployArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (mounts, window, json) = match &args.command {
        DeployCommand::Begin(begin) => (&begin.mounts, begin.window, begin.json),
        DeployCommand::End(end) => (&end.mounts, Duration::ZERO, end.json),
    };
    let for_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    let request = DeployRequest { mounts: mounts.clone(), for_ms };
    let reply = ask(config, async |client| client.deploy(&request).await)?;
    if json {
        output.json(&reply)?;
        return Ok(Outcome::Done);
    }
    let named = reply.mounts.join(", ");
    match reply.until {
        Some(until) => output.note(&format!("no deletion is held in {named} until {until}")),
        None => output.note(&format!("deletions beyond their budget are held again in {named}")),
    }
    Ok(Outcome::Done)
}
