//! The program: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use trefoil::cli::{self, Cli, Local, Output};

fn main() -> ExitCode {
    cli::run(&Cli::parse(), &Local, &mut Output::standard())
}
