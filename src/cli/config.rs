//! `trefoil config`.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Failure, Outcome, Output, output::Table};
use crate::{
    config::{Config, Mount, SizeLimit, format_duration},
    engine::{Class, ClassTable},
};

/// Check and explain the configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration file and explain what it means.
    ///
    /// Exits with 2 if the file is wrong, and with 3 if it is right but something on this machine
    /// does not fit it, such as a mount's directory that is not there.
    #[command(after_long_help = "\
Example:
  trefoil --config ./trefoil.toml config check")]
    Check {
        /// Print the explanation as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(
    args: &ConfigArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let ConfigCommand::Check { json } = args.command;
    let problems = problems(config);
    if json {
        output.json(&Explained::new(config, &problems))?;
    } else {
        output.data(&render(config))?;
        for problem in &problems {
            output.note(&format!("problem: {problem}"));
        }
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Problems })
}

/// What on this machine does not fit a configuration that is valid in itself.
fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if config.node.advertise.is_empty() {
        problems.push(
            "this node has no address that others could dial, so none can join by way of it; set \
             `advertise` in [node]"
                .to_owned(),
        );
    }
    for Mount { name, path, .. } in &config.mounts {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => problems.push(format!("mount {name}: {} is not a directory", path.display())),
            Err(error) => problems.push(format!("mount {name}: {}: {error}", path.display())),
        }
    }
    problems
}

/// The configuration in words.
pub(super) fn render(config: &Config) -> String {
    let node = &config.node;
    let addresses: Vec<String> = node.advertise.iter().map(ToString::to_string).collect();
    let advertised = if addresses.is_empty() { "nothing".to_owned() } else { addresses.join(", ") };
    let mut text = format!(
        "{file} is valid\n\n\
         node {name}\n\
         \x20 state       {state}\n\
         \x20 listens     {listen} (UDP)\n\
         \x20 advertises  {advertised}\n\
         \x20 control     {socket}\n\
         \x20 HTTP        {http}\n\
         \x20 conflicts   {conflicts}\n\
         \x20 trash       {trash}\n\
         \x20 snapshots   {snapshots}\n\
         \x20 retention   {retention}\n",
        file = config.file.display(),
        name = node.name,
        state = node.state.display(),
        listen = node.listen,
        socket = config.control.socket.display(),
        http = config.control.http.map_or_else(|| "none".to_owned(), |at| at.to_string()),
        conflicts = at_most(node.conflicts_max, ""),
        trash = at_most(node.trash_max, " of each mount"),
        snapshots = match &config.snapshot.schedule {
            Some(schedule) => format!("at {schedule} ({})", schedule.zone()),
            None => "by hand only".to_owned(),
        },
        retention = config.snapshot.retention.describe(),
    );
    for mount in &config.mounts {
        let preset = mount.preset.map_or_else(|| "no preset".to_owned(), |p| format!("preset {p}"));
        text.push_str(&format!(
            "\nmount {}: {}\n  {preset}, watch {}\n",
            mount.name,
            mount.path.display(),
            mount.watch,
        ));
        let mut table = Table::new(["MATCH", "CLASS", "FROM"]);
        for rule in rules(mount) {
            table.row([rule.pattern, rule.class, rule.from]);
        }
        table.row(["everything else", Class::Normal.name(), "default"]);
        text.push_str(&table.render("  "));
    }
    text.push_str("\nwhat a class means\n");
    text.push_str(&render_classes(&config.classes));
    text
}

/// A limit in words.
fn at_most(limit: Option<SizeLimit>, whose: &str) -> String {
    match limit {
        None => "no limit".to_owned(),
        Some(SizeLimit::Percent(percent)) => format!("at most {percent}% of the disk{whose}"),
        Some(bytes @ SizeLimit::Bytes(_)) => format!("at most {bytes}{whose}"),
    }
}

fn render_classes(classes: &ClassTable) -> String {
    let mut table =
        Table::new(["CLASS", "SETTLE", "CONFLICT", "TRASH", "EMPTIED HOLD", "DELETE BUDGET"]);
    for class in explained_classes(classes) {
        table.row([
            class.class.to_owned(),
            class.settle,
            class.conflict.to_owned(),
            class.trash.unwrap_or_else(|| "off".to_owned()),
            class.emptied_hold.unwrap_or_else(|| "off".to_owned()),
            class.delete_budget.unwrap_or_else(|| "off".to_owned()),
        ]);
    }
    table.row(["local", "not mirrored"]);
    table.render("  ")
}

#[derive(Serialize)]
struct Rule<'a> {
    #[serde(rename = "match")]
    pattern: &'a str,
    class: &'static str,
    /// `ignore`, `rule` or `preset`.
    from: &'static str,
}

fn rules(mount: &Mount) -> impl Iterator<Item = Rule<'_>> {
    mount.policy.rules().iter().enumerate().map(|(at, (pattern, class))| {
        let from = match at {
            at if at < mount.ignore_rules => "ignore",
            at if at < mount.ignore_rules + mount.own_rules => "rule",
            _ => "preset",
        };
        Rule { pattern: pattern.as_str(), class: class.name(), from }
    })
}

#[derive(Serialize)]
struct ExplainedClass {
    class: &'static str,
    settle: String,
    conflict: &'static str,
    trash: Option<String>,
    emptied_hold: Option<String>,
    delete_budget: Option<String>,
}

fn explained_classes(classes: &ClassTable) -> impl Iterator<Item = ExplainedClass> {
    Class::ALL.into_iter().filter(|class| *class != Class::Local).map(|class| {
        let settings = classes.get(class);
        ExplainedClass {
            class: class.name(),
            settle: format_duration(settings.settle),
            conflict: if settings.keep_losers { "keep" } else { "last-writer" },
            trash: settings.trash.map(format_duration),
            emptied_hold: settings.emptied_hold.map(format_duration),
            delete_budget: settings.delete_budget.map(|budget| budget.to_string()),
        }
    })
}

#[derive(Serialize)]
struct Explained<'a> {
    file: String,
    node: ExplainedNode<'a>,
    control: ExplainedControl,
    snapshot: ExplainedSnapshot,
    mounts: Vec<ExplainedMount<'a>>,
    classes: Vec<ExplainedClass>,
    problems: &'a [String],
}

#[derive(Serialize)]
struct ExplainedNode<'a> {
    name: &'a str,
    state: String,
    listen: String,
    advertise: Vec<String>,
    conflicts_max: Option<String>,
    trash_max: Option<String>,
}

#[derive(Serialize)]
struct ExplainedControl {
    socket: String,
    http: Option<String>,
}

#[derive(Serialize)]
struct ExplainedSnapshot {
    /// Nothing: by hand only.
    schedule: Option<String>,
    time_zone: Option<&'static str>,
    retention: String,
}

#[derive(Serialize)]
struct ExplainedMount<'a> {
    name: &'a str,
    path: String,
    preset: Option<String>,
    watch: &'static str,
    rules: Vec<Rule<'a>>,
    /// Equal on nodes whose rules are equal.
    rules_hash: String,
}

impl<'a> Explained<'a> {
    fn new(config: &'a Config, problems: &'a [String]) -> Self {
        let node = &config.node;
        let mounts = config.mounts.iter().map(|mount| ExplainedMount {
            name: &mount.name,
            path: mount.path.display().to_string(),
            preset: mount.preset.map(|preset| preset.to_string()),
            watch: mount.watch.name(),
            rules: rules(mount).collect(),
            rules_hash: data_encoding::HEXLOWER.encode(&mount.policy.hash()),
        });
        Self {
            file: config.file.display().to_string(),
            node: ExplainedNode {
                name: &node.name,
                state: node.state.display().to_string(),
                listen: node.listen.to_string(),
                advertise: node.advertise.iter().map(ToString::to_string).collect(),
                conflicts_max: node.conflicts_max.map(|limit| limit.to_string()),
                trash_max: node.trash_max.map(|limit| limit.to_string()),
            },
            control: ExplainedControl {
                socket: config.control.socket.display().to_string(),
                http: config.control.http.map(|address| address.to_string()),
            },
            snapshot: ExplainedSnapshot {
                schedule: config.snapshot.schedule.as_ref().map(ToString::to_string),
                time_zone: config.snapshot.schedule.as_ref().map(crate::engine::Schedule::zone),
                retention: config.snapshot.retention.describe(),
            },
            mounts: mounts.collect(),
            classes: explained_classes(&config.classes).collect(),
            problems,
        }
    }
}
