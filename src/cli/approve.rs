//! `trefoil approve` and `trefoil revert`.

use clap::Args;

use super::words::count;
use super::{Failure, Outcome, Output, ask};
use crate::config::Config;
use crate::control::types::{HeldReply, HeldStatus, HeldWord};

/// Let the deletions through that are held on this node.
///
/// A class has a budget of deletions for ten minutes (`delete_budget`). What goes beyond it is held
/// on the node where it was made, and `trefoil status` says so there: no other node hears of it until
/// it is approved, or reverted. Nothing else of the mount waits.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil approve media --list   show what is held
  trefoil approve media          delete it on the other nodes, too
  trefoil revert media           bring it back here")]
pub(super) struct ApproveArgs {
    /// The mount's name.
    mount: String,
    /// Only show what is held.
    #[arg(long)]
    list: bool,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Bring back what was deleted on this node and is held.
///
/// Everything that `trefoil approve MOUNT --list` shows is made anew as it was, with its content from the
/// other nodes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  trefoil revert media && trefoil wait --mount media")]
pub(super) struct RevertArgs {
    /// The mount's name.
    mount: String,
    /// Print what was held as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn approve(
    args: &ApproveArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    if args.list {
        let reply = ask(config, async |client| client.held(&args.mount).await)?;
        return list(&args.mount, &reply, args.json, output);
    }
    decide(&args.mount, HeldWord::Approve, args.json, config, output)
}

pub(super) fn revert(
    args: &RevertArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    decide(&args.mount, HeldWord::Revert, args.json, config, output)
}

fn decide(
    mount: &str,
    word: HeldWord,
    json: bool,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let reply = ask(config, async |client| client.decide_held(mount, word).await)?;
    if json {
        output.json(&reply)?;
    }
    let Some(held) = &reply.held else {
        output.note(&format!("nothing is held in mount {mount}"));
        return Ok(Outcome::Done);
    };
    let number = number(held);
    match word {
        HeldWord::Approve => output.note(&format!("{number} in mount {mount} go through")),
        HeldWord::Revert => output.note(&format!("{number} in mount {mount} are undone")),
    }
    output.note(&format!("hint: see when it is done with `trefoil wait --mount {mount}`"));
    Ok(Outcome::Done)
}

fn list(
    mount: &str,
    reply: &HeldReply,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    if json {
        output.json(reply)?;
        return Ok(Outcome::Done);
    }
    let Some(held) = &reply.held else {
        output.note(&format!("nothing is held in mount {mount}"));
        return Ok(Outcome::Done);
    };
    output.data(&held.paths.iter().map(|path| format!("{path}\n")).collect::<String>())?;
    output.note(&format!("{} in mount {mount} are held since {}", number(held), held.since));
    if held.more {
        output.note("what is below a directory that is listed is held as well, and not all listed");
    }
    Ok(Outcome::Done)
}

fn number(held: &HeldStatus) -> String {
    let over = if held.more { "more than " } else { "" };
    let noun = if held.count == 1 && !held.more { "deletion" } else { "deletions" };
    format!("{over}{} {noun}", count(held.count))
}
