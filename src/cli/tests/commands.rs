//! Whole commands: what they print where, and their exit codes.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use clap::{CommandFactory, Parser};
use insta::assert_snapshot;

use crate::cli::{Cli, Output, run};

/// A stream that can be looked into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Runs a command with this configuration file: its stdout, stderr and exit code. The folder in the
/// output is `DIR`.
fn command(file: &str, args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trefoil.toml");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let cli = Cli::try_parse_from(["trefoil", "--config", path].iter().chain(args)).unwrap();
    let (data, notes) = (Shared::default(), Shared::default());
    let code = run(&cli, &mut Output::new(data.clone(), notes.clone()));
    let text = format!("{}--\n{}{code:?}", data.text(), notes.text());
    text.replace(dir.path().to_str().unwrap(), "DIR")
}

const SMALL: &str = "[node]\nname = \"w1\"\nstate = \"state\"\n[control]\nsocket = \"sock\"\n\
    [[mount]]\nname = \"var\"\npath = \"var\"\n";

#[test]
fn failures_say_why_and_what_to_do() {
    assert_snapshot!(command(SMALL, &["status"]), @r"
    --
    error: cannot reach the daemon at DIR/sock: No such file or directory (os error 2)
    hint: start it: `systemctl start trefoil`, or `trefoil daemon`
    ExitCode(unix_exit_status(1))
    ");
    assert_snapshot!(command(SMALL, &["invite"]), @r"
    --
    error: cannot invite: this node is in no cluster yet
    hint: make one with `trefoil init`, or join one with `trefoil join TICKET`
    ExitCode(unix_exit_status(1))
    ");
    assert_snapshot!(command(SMALL, &["init"]), @r#"
    --
    error: cannot use mount "var" at DIR/var: cannot open the root: No such file or directory (os error 2)
    hint: make it: mkdir -p DIR/var
    ExitCode(unix_exit_status(1))
    "#);
    assert_snapshot!(command(SMALL, &["join", "x"]), @r"
    --
    error: cannot join: malformed ticket: copy the whole line that `invite` printed
    ExitCode(unix_exit_status(2))
    ");
    assert_snapshot!(command(&SMALL.replace("state =", "stat ="), &["status"]), @r"
    --
    error: cannot load the configuration: DIR/trefoil.toml:3:1: unknown key `stat` in [node] at line 3; did you mean `state`?
    ExitCode(unix_exit_status(2))
    ");
    assert_snapshot!(command(SMALL, &["--log", "a=b=c", "status"]), @r#"
    --
    error: cannot use "a=b=c" as the log's filter: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
    hint: use a level (error, warn, info, debug, trace) or MODULE=LEVEL
    ExitCode(unix_exit_status(2))
    "#);
}

#[test]
fn a_configuration_that_does_not_fit_the_machine_is_a_problem() {
    let text = command(SMALL, &["config", "check"]);
    let notes = text.split_once("--\n").unwrap().1;
    assert_snapshot!(notes, @r"
    problem: this node has no address that others could dial, so none can join by way of it; set `advertise` in [node]
    problem: mount var: DIR/var: No such file or directory (os error 2)
    ExitCode(unix_exit_status(3))
    ");
    let json = command(SMALL, &["config", "check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(json.split_once("--\n").unwrap().0).unwrap();
    assert_eq!(2, json["problems"].as_array().unwrap().len());
    assert_eq!("w1", json["node"]["name"]);
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    struct Closed(io::ErrorKind);
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(Output::new(Closed(io::ErrorKind::BrokenPipe), io::sink()).data("x").is_ok());
    assert!(Output::new(Closed(io::ErrorKind::StorageFull), io::sink()).data("x").is_err());
}

#[test]
fn the_command_line_is_consistent_and_wrong_usage_is_refused() {
    Cli::command().debug_assert();
    for wrong in [
        &["trefoil"][..],
        &["trefoil", "nothing"],
        &["trefoil", "join"],
        &["trefoil", "invite", "--ttl", "0s"],
        &["trefoil", "wait", "--nodes", "most"],
        &["trefoil", "wait", "--timeout", "60"],
        &["trefoil", "conflicts", "show", "x", "--content", "--json"],
        &["trefoil", "trash", "restore"],
        &["trefoil", "trash", "restore", "x", "--all-below", "y"],
    ] {
        let error = Cli::try_parse_from(wrong).unwrap_err();
        assert_eq!(2, error.exit_code(), "{wrong:?}");
    }
}
