//! The program: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use trefoil::cli::{self, Output};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    cli::run_arguments(&arguments, &mut Output::standard())
}
