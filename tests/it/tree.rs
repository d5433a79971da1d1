//! Compares directory trees as a user would see them, apart from anything the daemon knows.

use std::path::Path;

// As a file of its own: nothing else of the program is part of the proof.
#[allow(unreachable_pub, unused_imports, reason = "public where the program uses it")]
#[path = "../../src/cli/compare/mod.rs"]
mod compare;

pub(crate) use compare::{Kind, Tree, describe, differences};

/// Fails the test with a line a difference unless all trees are equal.
#[track_caller]
pub(crate) fn assert_equal<P: AsRef<Path>>(roots: &[P]) {
    let trees: Vec<Tree> = roots.iter().map(|root| describe(root.as_ref()).unwrap()).collect();
    for (root, tree) in roots.iter().zip(&trees).skip(1) {
        let lines = differences(&trees[0], tree);
        let (first, second) = (roots[0].as_ref().display(), root.as_ref().display());
        assert!(lines.is_empty(), "{first} and {second} differ:\n{}", lines.join("\n"));
    }
}

#[test]
#[should_panic(expected = "a: only in the first")]
fn trees_that_differ_fail_the_test() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(first.path().join("a"), "").unwrap();
    assert_equal(&[first.path(), second.path()]);
}
