//! The rules of the repository that no compiler checks: layers, headers, sizes, who may print
//! and who may be unsafe, and that the documents name what exists.
//!
//! Each rule is a function from a file's path and text to complaints, tested with small bad
//! inputs below; the last tests apply them to the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which module is on which layer. A module uses only lower numbers; modules of one number do
/// not know each other.
const LAYERS: [(&str, u32); 11] = [
    ("model", 1),
    ("engine", 2),
    ("config", 3),
    ("index", 3),
    ("disk", 3),
    ("net", 3),
    ("snapshot", 4),
    ("monitor", 5),
    ("control", 6),
    ("daemon", 7),
    ("cli", 8),
];

/// The folder whose files use nothing else of the crate: what they prove must not rest on it.
const ALONE: &str = "src/cli/compare/";

/// The one file that prints.
const PRINTER: &str = "src/cli/output.rs";

/// Lines of a file, unless its header says "longer than 500 lines" and why.
const LINES_MAX: usize = 500;

/// A word or a single sign of Rust source; comments, strings and characters are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Sign(u8),
}

/// Splits Rust source into words and signs. Text inside comments and literals gives none.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || !b.is_ascii();
        let word = rest.bytes().take_while(is_word).count();
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += block_comment(rest);
        } else if let Some(length) = raw_string(rest) {
            at += length;
        } else if bytes[at] == b'"' {
            at += quoted(rest);
        } else if let Some(length) = character(rest) {
            at += length;
        } else if word > 0 {
            found.push(Token::Word(&rest[..word]));
            at += word;
        } else {
            if !bytes[at].is_ascii_whitespace() {
                found.push(Token::Sign(bytes[at]));
            }
            at += 1;
        }
    }
    found
}

/// Bytes of the block comment, possibly nested, at the start of `rest`.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// Bytes of the quoted string at the start of `rest`.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Bytes of a raw string such as `r#"…"#` at the start of `rest`, if there is one.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|p| rest.starts_with(p))?;
    let body = &rest[prefix.len()..];
    let hashes = body.bytes().take_while(|b| *b == b'#').count();
    if body.as_bytes().get(hashes) != Some(&b'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body[hashes + 1..]
        .find(&end)
        .map_or(rest.len(), |at| prefix.len() + hashes + 1 + at + end.len());
    Some(length)
}

/// Bytes of a character literal at the start of `rest`; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if body.starts_with('\\') {
        let end = body.char_indices().skip(2).find(|(_, c)| *c == '\'')?;
        return Some(end.0 + 2);
    }
    let first = body.chars().next()?;
    body[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// The module path of a source file: `src/net/wire/mod.rs` is `net`, `wire`.
fn module_of(path: &str) -> Vec<&str> {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let inner = inner.strip_suffix(".rs").unwrap_or(inner);
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    if inner == "lib" || inner == "main" { Vec::new() } else { inner.split('/').collect() }
}

/// The top-level modules that a file of the crate uses, by `crate::` or by enough `super::`.
fn modules_used(path: &str, source: &str) -> BTreeSet<String> {
    let tokens = tokens(source);
    let home = module_of(path).len();
    let mut used = BTreeSet::new();
    // For each open brace, whether it is an inline module's.
    let mut braces = Vec::new();
    for at in 0..tokens.len() {
        match &tokens[at] {
            Token::Sign(b'{') => {
                let inline = at >= 2 && tokens[at - 2] == Token::Word("mod");
                braces.push(inline);
            }
            Token::Sign(b'}') => drop(braces.pop()),
            Token::Word("crate") => used.extend(named_after(&tokens, at + 1)),
            Token::Word("super") if !follows_path(&tokens, at) => {
                let depth = home + braces.iter().filter(|inline| **inline).count();
                let (supers, next) = count_supers(&tokens, at);
                if depth > 0 && supers >= depth {
                    used.extend(named_after(&tokens, next));
                }
            }
            _ => {}
        }
    }
    used
}

/// Whether `::` stands before the token.
fn follows_path(tokens: &[Token<'_>], at: usize) -> bool {
    at >= 2 && tokens[at - 2..at] == [Token::Sign(b':'), Token::Sign(b':')]
}

/// How often `super` stands in a row from `at`, and where the path goes on.
fn count_supers(tokens: &[Token<'_>], at: usize) -> (usize, usize) {
    let (mut count, mut next) = (1, at + 1);
    let colons = [Token::Sign(b':'), Token::Sign(b':'), Token::Word("super")];
    while tokens[next..].starts_with(&colons) {
        (count, next) = (count + 1, next + 3);
    }
    (count, next)
}

/// The names right after the crate's root: of `::a::b` it is `a`, of `::{a::b, c}` `a` and `c`.
fn named_after(tokens: &[Token<'_>], at: usize) -> Vec<String> {
    let mut rest = tokens[at..].iter();
    if rest.next() != Some(&Token::Sign(b':')) || rest.next() != Some(&Token::Sign(b':')) {
        return Vec::new();
    }
    match rest.next() {
        Some(Token::Word(name)) => vec![(*name).to_owned()],
        Some(Token::Sign(b'*')) => vec!["*".to_owned()],
        Some(Token::Sign(b'{')) => {
            let (mut names, mut depth, mut first) = (Vec::new(), 1, true);
            for token in rest {
                match token {
                    Token::Sign(b'{') => depth += 1,
                    Token::Sign(b'}') => depth -= 1,
                    Token::Sign(b',') if depth == 1 => first = true,
                    Token::Word(name) if depth == 1 && first => {
                        names.push((*name).to_owned());
                        first = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            names
        }
        _ => Vec::new(),
    }
}

/// Uses of modules that are not on a lower layer.
fn layer_faults(path: &str, source: &str) -> Vec<String> {
    let layer_of = |name: &str| LAYERS.iter().find(|(n, _)| *n == name).map(|(_, layer)| *layer);
    let module = module_of(path);
    // `lib.rs` lists all modules and `main.rs` may use all.
    let Some(own) = module.first() else { return Vec::new() };
    let Some(layer) = layer_of(own) else {
        return vec![format!("{path}: module `{own}` is not in LAYERS")];
    };
    let mut faults = Vec::new();
    for used in modules_used(path, source) {
        if path.starts_with(ALONE) {
            faults.push(format!("{path}: must not use `{used}`, nor any other module"));
        } else if used != *own {
            match layer_of(&used) {
                Some(theirs) if theirs < layer => {}
                Some(theirs) => {
                    faults.push(format!("{path}: `{own}` ({layer}) uses `{used}` ({theirs})"));
                }
                None => faults.push(format!("{path}: uses `{used}`, which is not in LAYERS")),
            }
        }
    }
    faults
}

/// Missing header, or too long without a reason in it.
fn shape_faults(path: &str, source: &str) -> Vec<String> {
    let header: Vec<&str> = source.lines().take_while(|line| line.starts_with("//!")).collect();
    if header.is_empty() {
        return vec![format!("{path}: does not open with a `//!` header")];
    }
    let lines = source.lines().count();
    let excused = header.join(" ").contains("longer than 500 lines");
    if lines > LINES_MAX && !excused {
        return vec![format!("{path}: {lines} lines; split it, or say why in its header")];
    }
    Vec::new()
}

/// `unsafe` outside the system call files, printing outside the printer.
fn word_faults(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let file = path.rsplit('/').next().unwrap_or(path);
    let calls_system = file.starts_with("sys") || file.ends_with("_sys.rs");
    let may_be_unsafe = path.starts_with("src/disk/") && calls_system;
    let mut faults = Vec::new();
    for pair in tokens.windows(2) {
        match pair {
            [Token::Word("unsafe"), _] if !may_be_unsafe => {
                faults.push(format!("{path}: `unsafe` outside src/disk/**/*sys.rs"));
            }
            [
                Token::Word(name @ ("println" | "print" | "eprintln" | "eprint" | "dbg")),
                Token::Sign(b'!'),
            ] if path != PRINTER => {
                faults.push(format!("{path}: `{name}!` outside {PRINTER}"));
            }
            _ => {}
        }
    }
    faults.dedup();
    faults
}

/// Calls of `sleep`: what a test waits for is an event.
fn sleep_faults(path: &str, source: &str) -> Vec<String> {
    let call = |pair: &[Token<'_>]| pair == [Token::Word("sleep"), Token::Sign(b'(')];
    let found = tokens(source).windows(2).any(call);
    if found { vec![format!("{path}: sleeps instead of waiting for an event")] } else { Vec::new() }
}

/// Files of this repository that a document names in back quotes or links to, which do not exist.
fn document_faults(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut faults = Vec::new();
    let quoted = text.split('`').skip(1).step_by(2);
    for name in quoted.filter(|name| names_a_file(name)) {
        // The code map leaves out `src/`.
        if !exists(name) && !exists(&format!("src/{name}")) {
            faults.push(format!("{path}: names `{name}`, which does not exist"));
        }
    }
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let target = link.split('#').next().unwrap_or(link);
        let outside = link.contains("://") || link.starts_with("mailto:") || target.is_empty();
        if !outside && !exists(&format!("{folder}/{target}")) && !exists(target) {
            faults.push(format!("{path}: links to {target}, which does not exist"));
        }
    }
    faults
}

/// Whether a quoted text is the path of a file or folder that this repository should have.
fn names_a_file(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    let ours = ["src/", "tests/", "docs/", "benches/", "config/", "systemd/", ".ci/"];
    let ends = [".rs", ".md", ".toml", ".service"];
    let below_us = ours.iter().any(|folder| text.starts_with(folder));
    plain
        && text.contains('/')
        && !text.starts_with('/')
        && !text.starts_with("..")
        && (below_us || ends.iter().any(|end| text.ends_with(end)))
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` that end in `ending`: path relative to the root, and text.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(folder)];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_str().is_some_and(|p| p.ends_with(ending)) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Fails with all that `rule` finds in the Rust files below `folder`.
#[track_caller]
fn check_all(folder: &str, rule: impl Fn(&str, &str) -> Vec<String>) {
    let sources = files(folder, ".rs");
    assert!(!sources.is_empty(), "no sources below {folder}");
    let faults: Vec<String> = sources.iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn modules_use_only_lower_layers() {
    check_all("src", layer_faults);
}

#[test]
fn sources_have_a_header_and_a_bounded_length() {
    check_all("src", shape_faults);
    check_all("tests", shape_faults);
    check_all("benches", shape_faults);
}

#[test]
fn only_the_system_call_files_are_unsafe_and_only_the_printer_prints() {
    check_all("src", word_faults);
}

#[test]
fn tests_do_not_sleep() {
    check_all("tests", sleep_faults);
}

#[test]
fn documents_name_only_what_exists() {
    let mut documents = files("docs", ".md");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benches/lab/README.md"] {
        documents.push((name.to_owned(), fs::read_to_string(root().join(name)).expect(name)));
    }
    let exists = |path: &str| Path::new(&root()).join(path.trim_start_matches('/')).exists();
    let faults: Vec<String> =
        documents.iter().flat_map(|(path, text)| document_faults(path, text, &exists)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[track_caller]
fn uses(path: &str, source: &str, expected: &[&str]) {
    let found = modules_used(path, source);
    assert_eq!(expected, found.iter().map(String::as_str).collect::<Vec<_>>(), "{source}");
}

#[test]
fn uses_are_found_however_they_are_written() {
    uses("src/disk/scan.rs", "use crate::model::RelPath;", &["model"]);
    uses(
        "src/disk/scan.rs",
        "use crate::{engine::{Input, a::B}, model, net as n};",
        &["engine", "model", "net"],
    );
    uses("src/disk/scan.rs", "fn f(x: &crate :: index::Index) {}", &["index"]);
    uses("src/disk/scan.rs", "use super::super::net::Link;", &["net"]);
    uses("src/disk/mod.rs", "use super::{net, index::Index};", &["index", "net"]);
    uses("src/disk/scan.rs", "use super::stage;", &[]);
    uses("src/disk/mod.rs", "mod tests { use super::*; use super::super::net; }", &["net"]);
    uses("src/disk/scan.rs", "use crate::*;", &["*"]);
    uses("src/disk/scan.rs", "pub(crate) fn f() { $crate::net::f() }", &["net"]);
}

#[test]
fn comments_and_literals_use_nothing() {
    uses("src/disk/scan.rs", "/// [`crate::net`]\n/* a /* b */ crate::net */", &[]);
    uses(
        "src/disk/scan.rs",
        r##"f("a\" crate::net", r#"" crate::net "#, br"crate::net", '"');"##,
        &[],
    );
    uses("src/disk/scan.rs", r"f::<'a>('\'', '\u{7f}', b'x'); use crate::net;", &["net"]);
}

#[test]
fn a_module_that_looks_up_or_sideways_is_a_fault() {
    let fault = |path, source| layer_faults(path, source).join("; ");
    assert_eq!("", fault("src/daemon/mirror.rs", "use crate::{disk, index, net, engine};"));
    assert_eq!(
        "src/disk/scan.rs: `disk` (3) uses `index` (3)",
        fault("src/disk/scan.rs", "use crate::index;")
    );
    assert_eq!(
        "src/model/path.rs: `model` (1) uses `cli` (8)",
        fault("src/model/path.rs", "use crate::cli;")
    );
    assert_eq!("src/misc.rs: module `misc` is not in LAYERS", fault("src/misc.rs", ""));
    assert_eq!(
        "src/cli/compare/walk.rs: must not use `model`, nor any other module",
        fault("src/cli/compare/walk.rs", "use crate::model;")
    );
}

#[test]
fn files_without_header_or_too_long_are_faults() {
    let long = "\n".repeat(600);
    assert_eq!(0, shape_faults("src/a.rs", "//! A.\n").len());
    assert_eq!(1, shape_faults("src/a.rs", "use a;\n").len());
    assert_eq!(1, shape_faults("src/a.rs", &format!("//! A.{long}")).len());
    let excused = format!("//! A table; longer than 500 lines because it is one.{long}");
    assert_eq!(0, shape_faults("src/a.rs", &excused).len());
}

#[test]
fn unsafe_and_printing_are_found() {
    assert_eq!(1, word_faults("src/net/a.rs", "unsafe { f() }").len());
    assert_eq!(0, word_faults("src/net/a.rs", "#![allow(unsafe_code)] // unsafe").len());
    assert_eq!(0, word_faults("src/disk/watch/fanotify_sys.rs", "unsafe { f() }").len());
    assert_eq!(1, word_faults("src/net/sys.rs", "unsafe { f() } unsafe { g() }").len());
    assert_eq!(1, word_faults("src/cli/status.rs", "println!(\"a\")").len());
    assert_eq!(0, word_faults(PRINTER, "println!(\"a\")").len());
    assert_eq!(1, sleep_faults("tests/it/a.rs", "thread::sleep(second)").len());
}

#[test]
fn documents_that_name_what_is_not_there_are_faults() {
    let exists = |path: &str| ["src/net/mod.rs", "docs/a.md"].contains(&path);
    let faults = |text| document_faults("docs/b.md", text, &exists).len();
    assert_eq!(
        0,
        faults("`net/mod.rs`, `src/net/mod.rs`, `pub/media`, `/etc/x.toml`, [a](a.md#b)")
    );
    assert_eq!(1, faults("`src/net/gone.rs`"));
    assert_eq!(1, faults("see [this](gone.md)"));
    assert_eq!(0, faults("[q](https://example.org/x)"));
}
