//! `trefoil why`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::locate::find;
use super::output::Table;
use super::words::{age, size, until};
use super::{Failure, Outcome, Output, ask};
use crate::config::Config;
use crate::control::types::{WhyNode, WhyRecord, WhyReply, WhyRequest};

/// Tell what every node holds at a path, whose edit that is, and what it waits for.
///
/// Asks all nodes for their record of the path, whether or not anything is there: a deletion is
/// remembered too. Says how each record stands to the one of this node, and by which rule; what each
/// node does at the path or waits for; and what failed there, since when and when it is tried again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil why /var/www/shop/pub/media/catalog/a.jpg
  trefoil why app/etc/config.php --json | jq .agreed

Exit code 3: the nodes do not all hold the same edit, one did not answer, or something failed.")]
pub(super) struct WhyArgs {
    /// A file, directory or link in one of the mounts, also one that is gone.
    path: PathBuf,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &WhyArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (mount, below) = find(&args.path, &config.mounts)?;
    let path_bytes = data_encoding::HEXLOWER.encode(below.as_os_str().as_bytes());
    let request = WhyRequest { mount, path_bytes };
    let reply = ask(config, async |client| client.why(&request).await)?;
    if args.json {
        output.json(&reply)?;
    } else {
        output.data(&render(&reply, Timestamp::now()))?;
    }
    let fine = reply.agreed && reply.nodes.iter().all(|node| node.problem.is_none());
    Ok(if fine { Outcome::Done } else { Outcome::Problems })
}

/// The reply, in words.
pub(super) fn render(reply: &WhyReply, now: Timestamp) -> String {
    let known = reply.nodes.iter().any(|node| node.record.is_some());
    let agreed = match (reply.agreed, known) {
        (true, true) => "all nodes hold the same edit",
        (true, false) => "no node has ever heard of this path",
        (false, _) => "the nodes do NOT agree",
    };
    let mut text = format!(
        "{agreed}\n\nmount {}, path {}\nclass {} ({})\n\n",
        reply.mount, reply.path, reply.class, reply.rule
    );
    let mut table = Table::new(["NODE", "HOLDS", "EDITED", "BY", "COMPARED WITH THE FIRST"]);
    for node in &reply.nodes {
        let cell =
            |of: fn(&WhyRecord) -> String| node.record.as_ref().map_or_else(|| "-".to_owned(), of);
        table.row([
            node.name.clone(),
            cell(holds),
            cell(|record| format!("{:.0}", record.edited)),
            cell(|record| record.author.clone()),
            relation(node),
        ]);
    }
    text.push_str(&table.render(""));
    let doing: Vec<_> = reply.nodes.iter().filter_map(|node| doing(node, now)).collect();
    if !doing.is_empty() {
        text.push_str(&format!("\n{}\n", doing.join("\n")));
    }
    text
}

fn relation(node: &WhyNode) -> String {
    match (&node.error, &node.relation) {
        (Some(error), _) => format!("not compared: {error}"),
        (None, Some(relation)) => relation.clone(),
        (None, None) => "-".to_owned(),
    }
}

fn holds(record: &WhyRecord) -> String {
    let bytes = record.bytes.map_or_else(String::new, |bytes| format!(", {}", size(bytes)));
    let mode = record.mode.as_ref().map_or_else(String::new, |mode| format!(", {mode}"));
    let content = record.content.as_ref().and_then(|hash| hash.get(..8));
    let content = content.map_or_else(String::new, |hash| format!(", {hash}"));
    let weak = if record.weak {
        ", edited by nobody (found on joining, or kept for what is in it)"
    } else {
        ""
    };
    format!("{}{bytes}{mode}{content}{weak}", record.kind)
}

fn doing(node: &WhyNode, now: Timestamp) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(node.doing.clone());
    if let Some(problem) = &node.problem {
        let since =
            node.problem_since.map_or_else(String::new, |at| format!(" for {}", age(now, at)));
        parts.push(format!("failing{since}: {problem}"));
    }
    let retry = node.next_retry.map(|at| format!("looks again in {}", until(now, at)));
    parts.extend(retry.filter(|_| !parts.is_empty()));
    (!parts.is_empty()).then(|| format!("{}: {}", node.name, parts.join("; ")))
}
