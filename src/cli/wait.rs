//! `trefoil wait`.

use std::time::Duration;

use clap::Args;

use super::{
    Failure, Outcome, Output, ask,
    output::Table,
    words::{count, or_dash},
};
use crate::{
    config::{Config, parse_duration},
    control::types::{WaitNodes, WaitReply, WaitRequest},
};

/// Return when everything written on this node so far is durable on other nodes.
///
/// What was written before the call counts, also what the daemon has not noticed yet; what is
/// written afterwards does not. Exits with 1 when the time is up, and says what is missing where.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil wait
  trefoil wait --mount static --nodes all --timeout 5m && switch-release
  trefoil wait --nodes quorum")]
pub(super) struct WaitArgs {
    /// Wait for this mount only.
    #[arg(long, value_name = "MOUNT")]
    mount: Option<String>,

    /// Wait for all other nodes, for a quorum (with this node more than half), or for that many.
    #[arg(long, value_name = "all|quorum|N", default_value = "all")]
    nodes: WaitNodes,

    /// Give up after this time: 500ms, 60s, 10m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &WaitArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let request = WaitRequest {
        mount: args.mount.clone(),
        nodes: args.nodes,
        timeout_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let reply = ask(config, async |client| client.wait(&request).await)?;
    if args.json {
        output.json(&reply)?;
    }
    output.note(render(&reply, args.nodes).trim_end());
    Ok(if reply.done { Outcome::Done } else { Outcome::Differs })
}

/// What came of it, in words.
pub(super) fn render(reply: &WaitReply, nodes: WaitNodes) -> String {
    let seconds = Duration::from_millis(reply.waited_ms).as_secs_f64();
    if reply.done {
        let nodes = match nodes {
            WaitNodes::All => "all nodes".to_owned(),
            WaitNodes::Quorum => "a quorum of nodes".to_owned(),
            WaitNodes::Count(1) => "1 other node".to_owned(),
            WaitNodes::Count(number) => format!("{number} other nodes"),
        };
        return format!("durable on {nodes} after {seconds:.2} s\n");
    }
    let mut text = format!("error: cannot wait any longer: not durable after {seconds:.2} s\n\n");
    let mut table = Table::new(["MOUNT", "NODE", "MISSING", "WHY", "SUCH AS"]);
    for mount in reply.mounts.iter().filter(|mount| !mount.done) {
        if let Some(reason) = &mount.reason {
            table.row([mount.name.as_str(), "this node", "-", reason, ""]);
        }
        for node in mount.nodes.iter().filter(|node| !node.done) {
            let why = if node.up { "not there yet" } else { "node is down" };
            let missing = or_dash(node.missing.map(count));
            table.row([mount.name.as_str(), &node.name, &missing, why, &node.paths.join(" ")]);
        }
    }
    text.push_str(&table.render(""));
    text.push_str("\nhint: see `trefoil status`");
    text
}
