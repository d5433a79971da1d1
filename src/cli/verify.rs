//! `trefoil verify`.

use std::time::Duration;

use clap::Args;

use super::{
    Failure, Outcome, Output, ask,
    output::Table,
    words::{count, or_dash, plural, size},
};
use crate::{
    config::Config,
    control::types::{VerifyMount, VerifyProgress, VerifyReply, VerifyRequest},
};

/// How often it is said how far it is.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Compare the replicas of all nodes now, and name what differs.
///
/// Compares fingerprints. With --deep every node reads and hashes all its files again, and it is
/// compared which names are hard links of one file: that takes as long as reading takes, and how far
/// it is goes to stderr. A node that says nothing for a minute is given up. Exits with 1 if anything
/// differs or could not be compared.
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
    let reply = ask(config, async |client| {
        let mut reply = std::pin::pin!(client.verify(&request));
        loop {
            if let Ok(reply) = tokio::time::timeout(PROGRESS_EVERY, &mut reply).await {
                return reply;
            }
            // Progress that cannot be told is no reason to give up.
            if let (false, Ok(progress)) = (args.json, client.verify_progress().await) {
                progress_lines(&progress).iter().for_each(|line| output.note(line));
            }
        }
    })?;
    if args.json {
        output.json(&reply)?;
    } else {
        progress_lines(&read(&reply)).iter().for_each(|line| output.note(line));
        output.data(&render(&reply))?;
    }
    for mount in &reply.mounts {
        let failed = mount.nodes.iter().filter_map(|node| Some((node, node.error.as_ref()?)));
        for (node, error) in failed {
            output.note(&format!("error: mount {} on {}: {error}", mount.name, node.name));
        }
    }
    Ok(if reply.equal { Outcome::Done } else { Outcome::Differs })
}

/// How far each node was at last.
fn read(reply: &VerifyReply) -> Vec<VerifyProgress> {
    let all =
        reply.mounts.iter().flat_map(|mount| mount.nodes.iter().map(move |node| (mount, node)));
    let read = all.filter_map(|(mount, node)| {
        Some(VerifyProgress {
            mount: mount.name.clone(),
            node: node.name.clone(),
            files: node.read_files?,
            files_total: node.files?,
            bytes: node.bytes?,
        })
    });
    read.collect()
}

/// A line for each mount that is being read.
pub(super) fn progress_lines(progress: &[VerifyProgress]) -> Vec<String> {
    let mounts = progress.chunk_by(|a, b| a.mount == b.mount);
    let line = |mount: &[VerifyProgress]| {
        let node = |node: &VerifyProgress| {
            let (files, total) = (count(node.files), count(node.files_total));
            format!("{} {files} of {total} ({})", node.node, size(node.bytes))
        };
        let nodes: Vec<_> = mount.iter().map(node).collect();
        format!("read in mount {}: {}", mount[0].mount, nodes.join(", "))
    };
    mounts.map(line).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_line_a_mount() {
        let progress = |mount: &str, node: &str, files| VerifyProgress {
            mount: mount.to_owned(),
            node: node.to_owned(),
            files,
            files_total: 12_000,
            bytes: 2_000_000,
        };
        let all =
            [progress("media", "n1", 1024), progress("media", "n2", 0), progress("var", "n1", 5)];
        let lines = [
            "read in mount media: n1 1 024 of 12 000 (1.9 MiB), n2 0 of 12 000 (1.9 MiB)",
            "read in mount var: n1 5 of 12 000 (1.9 MiB)",
        ];
        assert_eq!(lines, *progress_lines(&all));
        assert!(progress_lines(&[]).is_empty());
    }
}
