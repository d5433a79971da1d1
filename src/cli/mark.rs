//! `trefoil mark`.

use clap::Args;

use super::{Failure, Outcome, Output, ask};
use crate::config::Config;

/// Begin to mirror a mount that was added to the configuration of this node.
///
/// Makes the marker in the mount's directory, by which trefoil will know that the mount is the right
/// one; `init` and `join` do that for the mounts there are by then. Files that are in the directory
/// stay, and are merged with those of the other nodes. Refuses if the mount was mirrored on this
/// node before: then its file system is missing. If its directory is a copy of the one before, with
/// the marker, this says that the copy is whole: what is not in it counts as deleted.
///
/// Add the mount to the configuration of every node, restart the daemons, and run this on each node.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  systemctl restart trefoil && trefoil mark media && trefoil status")]
pub(super) struct MarkArgs {
    /// The mount's name.
    mount: String,
}

pub(super) fn run(
    args: &MarkArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let reply = ask(config, async |client| client.mark(&args.mount).await)?;
    let mount = &args.mount;
    output.note(&match (reply.made, reply.open) {
        (true, true) => format!("marked mount {mount}; it is mirrored from now on"),
        (true, false) => format!("marked mount {mount}; it is being opened"),
        (false, true) => format!("mount {mount} was marked before; it is mirrored"),
        (false, false) => format!("mount {mount} was marked before; it is being opened"),
    });
    output.note("hint: run this on the other nodes too, then see `trefoil status`");
    Ok(Outcome::Done)
}
