//! Sets up the log: to stderr, as text or JSON.

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::Failure;

/// What is logged and how.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Log what this filter says, such as `debug` or `info,trefoil::net=trace`.
    ///
    /// Without it `daemon` logs at `info`, `snapshot mount` at `warn`, and the other commands log nothing.
    #[arg(long, global = true, value_name = "FILTER", env = "TREFOIL_LOG")]
    log: Option<String>,

    /// Write the log as text or as JSON, one object a line.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "TREFOIL_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Starts logging, once in a process; `default` is the filter of who has named none.
pub(super) fn start(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let directives = args.log.as_deref().filter(|text| !text.is_empty()).unwrap_or(default);
    let filter = EnvFilter::builder()
        .parse(directives)
        .with_context(|| format!("cannot use {directives:?} as the log's filter"))
        .map_err(|error| Failure {
            hint: Some("use a level (error, warn, info, debug, trace) or MODULE=LEVEL".to_owned()),
            ..Failure::usage(error)
        })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    // Somebody who embeds this has a log of their own.
    started.ok();
    Ok(())
}
