//! `trefoil invite`.

use std::time::Duration;

use clap::Args;

use super::{Failure, Outcome, Output, Parts};
use crate::config::{Config, parse_duration};

/// Print a ticket with which one node can join, once.
///
/// The ticket is the last line of stdout. Whoever has it can become a member: hand it over as you
/// would a password. This node's daemon has to run when the ticket is used.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil invite
  ssh web2 trefoil join $(trefoil invite --ttl 5m)")]
pub(super) struct InviteArgs {
    /// Let the ticket expire after this time: 30s, 10m, 1h, 1d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(ttl) if ttl < Duration::from_secs(1) => Err("less than a second".to_owned()),
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

pub(super) fn run(
    args: &InviteArgs,
    config: &Config,
    parts: &impl Parts,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let invitation = parts.invite(config, args.ttl)?;
    output.note(&format!(
        "the new node will look for this one at {}; valid once, until {:.0}",
        invitation.addresses.join(", "),
        invitation.expires,
    ));
    output.note("hint: on the new node run `trefoil join TICKET`, with this ticket:");
    output.data(&invitation.ticket)?;
    Ok(Outcome::Done)
}
