//! That `docs/reliability.md` names only tests which exist: a promise whose test was renamed or
//! removed is not checked by anything.

use std::collections::BTreeSet;
use std::fs;

use crate::tidy::{files, root};

/// Names in back quotes that read like a test's and are of none.
fn unknown_tests(text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let reads_like_one = |name: &&str| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && name.matches('_').count() >= 3
    };
    quoted.filter(reads_like_one).filter(|name| !tests.contains(*name)).map(str::to_owned).collect()
}

/// The names of all tests in a source: functions right behind a `#[test]` and the like.
fn tests_in(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
            found.extend(rest.split('(').next().map(str::to_owned));
            is_test = false;
        }
    }
    found
}

#[test]
fn every_test_that_the_promises_name_exists() {
    let sources = [files("src", ".rs"), files("tests", ".rs")].concat();
    let tests = sources.iter().flat_map(|(_, text)| tests_in(text)).collect();
    let text = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    assert_eq!(Vec::<String>::new(), unknown_tests(&text, &tests));
    for nr in 1..=41 {
        let begins = format!("| F{nr} |");
        assert_eq!(1, text.matches(&begins).count(), "{begins}");
    }
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    let source = "#[test]\n#[ignore]\nfn what_is_there_is_found() {}\nfn and_this_is_no_test() {}";
    let tests = tests_in(source);
    assert_eq!(
        0,
        unknown_tests("`what_is_there_is_found`, `pub/media`, `SIM_SEEDS`", &tests).len()
    );
    assert_eq!(["and_this_is_no_test"], *unknown_tests("`and_this_is_no_test`", &tests));
}
