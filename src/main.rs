//! The program: arguments, logging, dispatch, error chain, exit code.
fn main() {}
