//! `trefoil demo`: three nodes on this machine, and a proof of what they promise.
//!
//! `step` runs the steps and reports, `mirror`, `clash`, `outage` and `disaster` are the steps, `cluster` is what
//! they work on. What a step has proven never rests on the daemons' word alone: names, content and
//! metadata are read from the three folders by `cli::compare`.

mod clash;
mod cluster;
mod disaster;
mod folder;
mod interrupt;
mod mirror;
mod outage;
mod process;
mod shop;
mod step;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::{Failure, Outcome, Output};
use cluster::{Cluster, NODES};
use folder::Folder;
use interrupt::Interrupt;
use step::Step;

/// Show three nodes at work on this machine, and prove that they keep their promises.
///
/// Makes three nodes in a temporary folder and runs them as real processes on loopback addresses,
/// each with the mounts var, media, static and etc of a Magento shop. They are written to on one
/// node, on all at once and in conflict, and while one of them is killed; one mount is deleted everywhere
/// and restored from a snapshot. Each step is proven by
/// reading all three folders and comparing names, content and metadata, whatever the daemons say.
///
/// It takes less than a minute, needs no configuration and no privileges, and touches nothing
/// outside its folder. The report goes to stdout, the progress to stderr. Exits with 1 if a step
/// failed; the folder is kept then, with the nodes' logs. No process is left behind.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil demo
  trefoil demo --keep /tmp/three")]
pub(super) struct DemoArgs {
    /// Work in this folder, which is new or empty, and leave it behind to look at.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Become a daemon that ends with the demo of this process id.
    #[arg(long, hide = true, value_name = "PID", conflicts_with = "keep")]
    daemon_of: Option<u32>,
}

/// The steps, in order.
const STEPS: [Step<Cluster>; 10] = [
    Step {
        name: "cluster",
        about: "three nodes: init, invite, join",
        needs: &[],
        run: mirror::found,
    },
    Step {
        name: "shop",
        about: "a shop is written on web1",
        needs: &["cluster"],
        run: mirror::shop,
    },
    Step {
        name: "release",
        about: "a release is written on web2",
        needs: &["cluster"],
        run: mirror::release,
    },
    Step {
        name: "latency",
        about: "single files are timed",
        needs: &["cluster"],
        run: mirror::latency,
    },
    Step {
        name: "at once",
        about: "all three nodes write",
        needs: &["cluster"],
        run: clash::at_once,
    },
    Step {
        name: "conflict",
        about: "two nodes edit one file, unaware of each other",
        needs: &["cluster"],
        run: clash::conflict,
    },
    Step {
        name: "outage",
        about: "web3 is killed, misses a lot, and comes back",
        needs: &["shop"],
        run: outage::outage,
    },
    Step {
        name: "disaster",
        about: "a mount is deleted everywhere, and restored from a snapshot",
        needs: &["shop"],
        run: disaster::disaster,
    },
    Step {
        name: "verify",
        about: "everything is read and hashed again",
        needs: &["cluster"],
        run: outage::verify,
    },
    Step {
        name: "stop",
        about: "the daemons are asked to stop",
        needs: &["cluster"],
        run: outage::stop,
    },
];

/// Runs the demo; `config` matters only to what the demo starts.
pub(super) fn run(args: &DemoArgs, config: &Path, output: &mut Output) -> Result<Outcome, Failure> {
    if let Some(demo) = args.daemon_of {
        return Err(process::become_daemon(config, demo));
    }
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let folder = Folder::open(args.keep.as_deref())?;
    let mut cluster =
        Cluster::prepare(folder, interrupt.clone()).context("cannot prepare the nodes")?;
    let place = cluster.folder.path().display().to_string();
    output.note(&format!("three nodes in {place}"));
    let report = step::run(&STEPS, &mut cluster, |since, text| {
        output.note(&format!("{:>5.1} s  {text}", since.as_secs_f64()));
    });
    // Ended before anything is said, so that whoever hears the end finds none of them.
    for node in &mut cluster.nodes {
        node.daemon.kill()?;
    }
    if !report.is_proven() && !interrupt.is_stopped() {
        cluster.folder.keep();
    }
    let mut text = report.render();
    if cluster.folder.is_kept() {
        text.push_str(&format!("the nodes' folders are in {place}, their logs:"));
        NODES.iter().for_each(|name| text.push_str(&format!(" {name}/log")));
        text.push('\n');
    }
    drop(cluster);
    output.data(&text)?;
    Ok(if report.is_proven() { Outcome::Done } else { Outcome::Differs })
}
