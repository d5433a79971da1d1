//! The command line: arguments in, calls of the layers below, words and exit codes out.
//!
//! One file a subcommand, each with its arguments and its `run`. Data goes to stdout, everything
//! else to stderr, and only `output` prints. Nothing here decides about files.

mod approve;
mod check;
mod cluster;
pub mod compare;
mod config;
mod conflicts;
mod daemon;
mod demo;
mod deploy;
mod failure;
mod init;
mod invite;
mod join;
mod locate;
mod logging;
mod mark;
mod output;
mod pause;
mod remove;
mod restore;
mod resume;
mod snapshot;
mod status;
mod status_view;
mod trash;
mod trash_restore;
mod verify;
mod wait;
mod why;
mod words;

#[cfg(test)]
mod tests;

use std::{ffi::OsString, future::Future, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub use failure::{Failure, Outcome};
pub use logging::LogArgs;
pub use output::Output;

use crate::{
    config::{Config, DEFAULT_FILE},
    control::{Client, ClientError},
};

/// Keep directory trees identical on several nodes, all of them accepting writes.
///
/// Results go to stdout, everything else to stderr. The exit code is 0 if it was done, 1 if it
/// failed, 2 if the command line or the configuration is wrong, 3 if it was done but there are
/// problems. `check` has those of a monitoring plugin.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_long_help = "\
Start a cluster:
  web1$ trefoil init && systemctl start trefoil
  web1$ trefoil invite
  web2$ trefoil join TICKET && systemctl start trefoil
  web2$ trefoil status"
)]
pub struct Cli {
    /// Read this configuration file.
    #[arg(long, global = true, value_name = "FILE", env = "TREFOIL_CONFIG",
        default_value = DEFAULT_FILE)]
    config: PathBuf,

    #[command(flatten)]
    log: LogArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Invite(invite::InviteArgs),
    Join(join::JoinArgs),
    Remove(remove::RemoveArgs),
    Daemon(daemon::DaemonArgs),
    Status(status::StatusArgs),
    Wait(wait::WaitArgs),
    Conflicts(conflicts::ConflictsArgs),
    Approve(approve::ApproveArgs),
    Revert(approve::RevertArgs),
    Deploy(deploy::DeployArgs),
    Trash(trash::TrashArgs),
    Snapshot(snapshot::SnapshotArgs),
    Restore(restore::RestoreArgs),
    Mark(mark::MarkArgs),
    Pause(pause::PauseArgs),
    Resume(resume::ResumeArgs),
    Verify(verify::VerifyArgs),
    Check(check::CheckArgs),
    Why(why::WhyArgs),
    Config(config::ConfigArgs),
    Demo(demo::DemoArgs),
}

impl Command {
    /// What is logged unless somebody says otherwise: by commands that go on, what concerns whoever looks at them.
    fn log_filter(&self) -> &'static str {
        match self {
            Self::Daemon(_) => "info",
            Self::Snapshot(args) if args.goes_on() => "warn",
            _ => "off",
        }
    }
}

/// Reads a command line and carries it out. What is wrong with it, and help, are printed here.
pub fn run_arguments(arguments: &[OsString], output: &mut Output) -> ExitCode {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => run(&cli, output),
        Err(error) => {
            let words: Vec<_> =
                arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            match check::meant(&words).filter(|_| error.use_stderr()) {
                Some(check) => {
                    output.note(error.to_string().trim_end());
                    let report = check::unknown(check, "the command line is wrong");
                    // There is nobody left to tell that stdout cannot be written.
                    output.data(&report.render(false)).ok();
                    ExitCode::from(report.state.code())
                }
                None => error.exit(),
            }
        }
    }
}

/// Carries out a command line and says how it went.
pub fn run(cli: &Cli, output: &mut Output) -> ExitCode {
    match dispatch(cli, output) {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn dispatch(cli: &Cli, output: &mut Output) -> Result<Outcome, Failure> {
    if let Command::Demo(args) = &cli.command {
        // Makes configurations of its own, and reads none.
        return demo::run(args, &cli.config, output);
    }
    if let Command::Check(args) = &cli.command {
        // Also a configuration that cannot be read is told as monitoring wants it.
        return check::run(args, &cli.config, output);
    }
    let config = Config::load(&cli.config)?;
    logging::start(&cli.log, cli.command.log_filter())?;
    match &cli.command {
        Command::Init(args) => init::run(args, &config, output),
        Command::Invite(args) => invite::run(args, &config, output),
        Command::Join(args) => join::run(args, &config, output),
        Command::Remove(args) => remove::run(args, &config, output),
        Command::Daemon(args) => daemon::run(args, config),
        Command::Status(args) => status::run(args, &config, output),
        Command::Wait(args) => wait::run(args, &config, output),
        Command::Conflicts(args) => conflicts::run(args, &config, output),
        Command::Approve(args) => approve::approve(args, &config, output),
        Command::Revert(args) => approve::revert(args, &config, output),
        Command::Deploy(args) => deploy::run(args, &config, output),
        Command::Snapshot(args) => snapshot::run(args, &config, output),
        Command::Restore(args) => restore::run(args, &config, output),
        Command::Trash(args) => trash::run(args, &config, output),
        Command::Mark(args) => mark::run(args, &config, output),
        Command::Pause(args) => pause::run(args, &config, output),
        Command::Resume(args) => resume::run(args, &config, output),
        Command::Verify(args) => verify::run(args, &config, output),
        Command::Why(args) => why::run(args, &config, output),
        Command::Config(args) => config::run(args, &config, output),
        Command::Demo(_) | Command::Check(_) => unreachable!("carried out above"),
    }
}

/// Asks the daemon of this configuration.
fn ask<T, F>(config: &Config, call: impl FnOnce(Client) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| anyhow::Error::new(e).context("cannot start"))?;
    Ok(runtime.block_on(call(Client::new(&config.control.socket)))?)
}
