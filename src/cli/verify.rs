//! `trefoil verify`.

use clap::Args;

use super::{
    Failure, Outcome, Output, ask,
    output::Table,
    words::{count, or_dash, plural, size},
};
use crate::{
    config::Config,
    control::types::{VerifyMount, VerifyReply, VerifyRequest},
};

/// Compare the replicas of all nodes now, and name what differs.
///
/// Compares fingerprints; with --deep it reads and hashes every file on every node first, which
/// takes as long as reading them takes. Exits with 1 if anything differs or could not be compared.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil verify
  trefoil verify --mount media --deep")]
pub(super) struct VerifyArgs {
    /// Compare this mount only.
    #[arg(long, value_name = "MOUNT")]
    mount: Option<String>,

    /// Read and hash every file on every node.
    #[arg(long)]
    deep: bool,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &VerifyArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let request = VerifyRequest { mount: args.mount.clone(), deep: args.deep };
    let reply = ask(config, async |client| client.verify(&request).await)?;
    if args.json {
        output.json(&reply)?;
    } else {
        output.data(&render(&reply))?;
    }
    Ok(if reply.equal { Outcome::Done } else { Outcome::Differs })
}

/// What was found, in words.
pub(super) fn render(reply: &VerifyReply) -> String {
    let mounts = plural(reply.mounts.len(), "mount");
    let how = if reply.deep { "every file read and hashed" } else { "fingerprints compared" };
    let mut text = if reply.equal {
        format!("equal: {mounts} identical on all nodes; {how}\n")
    } else {
        let unequal = reply.mounts.iter().filter(|mount| !mount.equal).count();
        format!("NOT equal: {} of {mounts}; {how}\n", count(unequal as u64))
    };
    for mount in &reply.mounts {
        text.push('\n');
        text.push_str(&render_mount(mount));
    }
    text
}

fn render_mount(mount: &VerifyMount) -> String {
    let verdict = if mount.equal { "equal" } else { "NOT equal" };
    let mut text = format!("mount {}: {verdict}\n", mount.name);
    let mut nodes = Table::new(["NODE", "FILES", "SIZE", "FINGERPRINT", "NOT COMPARED BECAUSE"]);
    for node in &mount.nodes {
        nodes.row([
            node.name.clone(),
            or_dash(node.files.map(count)),
            or_dash(node.bytes.map(size)),
            or_dash(node.fingerprint.as_deref()),
            node.error.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&nodes.render("  "));
    let mut differences = Table::new(["DIFFERENCE", "NODE", "PATH"]);
    for difference in &mount.differences {
        differences.row([&difference.what, &difference.node, &difference.path]);
    }
    text.push_str(&differences.render("  "));
    let more = mount.difference_count.saturating_sub(mount.differences.len() as u64);
    if more > 0 {
        text.push_str(&format!("  and {} more\n", count(more)));
    }
    text
}
