//! `trefoil conflicts`.

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    Failure, Outcome, Output, ask,
    output::{Table, is_unread},
    words::{plural, size, until},
};
use crate::{
    config::Config,
    control::{
        ClientError,
        types::{ConflictStatus, Refusal, RefusalKind},
    },
};

/// List and settle what lost against a concurrent edit.
///
/// When two nodes change a path without knowing of each other, all nodes keep the same one in place,
/// and the other goes to the conflict store. There it stays until it is discarded or expires.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil conflicts list
  trefoil conflicts show ID --content | diff - /var/www/shop/app/etc/config.php
  trefoil conflicts restore ID")]
pub(super) struct ConflictsArgs {
    #[command(subcommand)]
    command: ConflictsCommand,
}

#[derive(Debug, Subcommand)]
enum ConflictsCommand {
    /// List what is kept, newest first.
    List {
        /// Print a JSON list of objects.
        #[arg(long)]
        json: bool,
    },
    /// Tell everything about one, or write what was kept to stdout.
    Show {
        /// The id, as listed, or how it begins.
        id: String,
        /// Write the kept bytes to stdout, and nothing else.
        #[arg(long, conflicts_with = "json")]
        content: bool,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Put it back in place, on all nodes; what is there now is kept in its stead.
    Restore {
        /// The id, as listed, or how it begins.
        id: String,
    },
    /// Drop it for good.
    Discard {
        /// The id, as listed, or how it begins.
        id: String,
    },
}

pub(super) fn run(
    args: &ConflictsArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    match &args.command {
        ConflictsCommand::List { json } => {
            let conflicts = ask(config, async |client| client.conflicts().await)?;
            if *json {
                output.json(&conflicts)?;
            } else {
                output.data(&render_list(&conflicts, Timestamp::now()))?;
            }
        }
        ConflictsCommand::Show { id, content: true, .. } => {
            write_content(&find(id, config)?.id, config, output)?;
        }
        ConflictsCommand::Show { id, json, .. } => {
            let conflict = find(id, config)?;
            if *json {
                output.json(&conflict)?;
            } else {
                output.data(&render(&conflict))?;
            }
        }
        ConflictsCommand::Restore { id } => {
            let id = find(id, config)?.id;
            let done = ask(config, async |client| client.restore(&id).await)?;
            output.note(&format!("restored {} in mount {}", done.path, done.mount));
            if let Some(replaced) = done.replaced {
                output.note(&format!("hint: what was there is kept as {replaced}"));
            }
        }
        ConflictsCommand::Discard { id } => {
            let id = find(id, config)?.id;
            ask(config, async |client| client.discard(&id).await)?;
            output.note(&format!("discarded {id}"));
        }
    }
    Ok(Outcome::Done)
}

fn write_content(id: &str, config: &Config, output: &mut Output) -> Result<(), Failure> {
    let out = output.bytes();
    let Err(failure) = ask(config, async |client| client.conflict_content(id, out).await) else {
        return Ok(());
    };
    match failure.error.downcast_ref() {
        Some(ClientError::Write(error)) if is_unread(error) => Ok(()),
        _ => Err(failure),
    }
}

/// The one conflict whose id begins so.
fn find(id: &str, config: &Config) -> Result<ConflictStatus, Failure> {
    let mut found = ask(config, async |client| client.conflicts().await)?;
    found.retain(|conflict| !id.is_empty() && conflict.id.starts_with(id));
    match (found.pop(), found.is_empty()) {
        (Some(conflict), true) => Ok(conflict),
        (None, _) => Err(unknown(&format!("there is no conflict {id:?}"))),
        (Some(_), false) => Err(unknown(&format!("several conflicts begin with {id:?}"))),
    }
}

fn unknown(error: &str) -> Failure {
    let refusal = Refusal::new(RefusalKind::NotFound, error);
    ClientError::from(refusal.with_hint("see `trefoil conflicts list`")).into()
}

/// The list, in words.
pub(super) fn render_list(conflicts: &[ConflictStatus], now: Timestamp) -> String {
    if conflicts.is_empty() {
        return "no conflicts\n".to_owned();
    }
    let mut table =
        Table::new(["ID", "KEPT", "FROM", "SIZE", "MODIFIED", "EXPIRES IN", "MOUNT", "PATH"]);
    for conflict in conflicts {
        table.row([
            conflict.id.clone(),
            format!("{:.0}", conflict.kept),
            conflict.origin.clone(),
            size(conflict.bytes),
            format!("{:.0}", conflict.modified),
            conflict.expires.map_or_else(|| "never".to_owned(), |then| until(now, then)),
            conflict.mount.clone(),
            conflict.path.clone(),
        ]);
    }
    format!("{}\n\n{}", plural(conflicts.len(), "conflict"), table.render(""))
}

/// One conflict, in words.
pub(super) fn render(conflict: &ConflictStatus) -> String {
    let expires = conflict.expires.map_or_else(|| "never".to_owned(), |then| format!("{then:.0}"));
    format!(
        "conflict {id}\n\
         mount     {mount}\n\
         path      {path}\n\
         kept      {kind}, {size}, modified {modified:.0}, from {origin}\n\
         why       {reason}\n\
         since     {kept:.0}\n\
         expires   {expires}\n\
         \n\
         to see it         trefoil conflicts show {id} --content\n\
         to bring it back  trefoil conflicts restore {id}\n\
         to drop it        trefoil conflicts discard {id}\n",
        id = conflict.id,
        mount = conflict.mount,
        path = conflict.path,
        kind = conflict.kind,
        size = size(conflict.bytes),
        modified = conflict.modified,
        origin = conflict.origin,
        reason = conflict.reason,
        kept = conflict.kept,
    )
}
