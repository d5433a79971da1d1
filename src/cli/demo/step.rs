//! Runs the demo's steps in order, and reports what each has proven.
//!
//! In: a list of steps, and what they work on. Out: a [`Report`]. A step that fails does not end the
//! demo; only those that need it are skipped, and the report says so. Knows nothing of nodes.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::interrupt::Interrupted;

/// Lines that a failed step may take up in the report.
const REASON_LINES_MAX: usize = 8;

/// Something to do and to prove, on a `C`.
pub(super) struct Step<C> {
    /// One word.
    pub(super) name: &'static str,
    /// What is done, for the progress.
    pub(super) about: &'static str,
    /// The steps without which this one makes no sense.
    pub(super) needs: &'static [&'static str],
    /// Does it; gives what was proven.
    pub(super) run: fn(&mut C) -> anyhow::Result<String>,
}

/// How a step ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ending {
    /// What was proven.
    Proven(String),
    /// Why it was not.
    Failed(String),
    /// Why it was not tried.
    Skipped(String),
}

struct Line {
    name: &'static str,
    ending: Ending,
    took: Duration,
}

/// How the steps ended, in their order.
pub(super) struct Report {
    lines: Vec<Line>,
    took: Duration,
}

/// Runs the steps one after the other; `tell` hears of each as it begins, with the time since the
/// start.
pub(super) fn run<C>(
    steps: &[Step<C>],
    subject: &mut C,
    mut tell: impl FnMut(Duration, &str),
) -> Report {
    let start = Instant::now();
    let mut report = Report { lines: Vec::new(), took: Duration::ZERO };
    let mut interrupted = false;
    for step in steps {
        let began = Instant::now();
        let ending = if interrupted {
            Ending::Skipped("interrupted".to_owned())
        } else if let Some(needed) = step.needs.iter().find(|name| !report.proved(name)) {
            Ending::Skipped(format!("it needs the step {needed}, which was not passed"))
        } else {
            tell(start.elapsed(), &format!("{}: {}", step.name, step.about));
            match (step.run)(subject) {
                Ok(proven) => Ending::Proven(proven),
                Err(error) => {
                    interrupted = error.is::<Interrupted>();
                    Ending::Failed(format!("{error:#}"))
                }
            }
        };
        report.lines.push(Line { name: step.name, ending, took: began.elapsed() });
    }
    report.took = start.elapsed();
    report
}

impl Report {
    /// Whether every step was run and has proven what it should.
    pub(super) fn is_proven(&self) -> bool {
        self.lines.iter().all(|line| matches!(line.ending, Ending::Proven(_)))
    }

    fn proved(&self, name: &str) -> bool {
        let is_proven = |line: &Line| matches!(line.ending, Ending::Proven(_));
        self.lines.iter().any(|line| line.name == name && is_proven(line))
    }

    /// A line a step, and one for all.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let took = format!("{:.1} s", line.took.as_secs_f64());
            let (mark, took, words) = match &line.ending {
                Ending::Proven(words) => ("✓", took.as_str(), words),
                Ending::Failed(words) => ("FAILED", took.as_str(), words),
                Ending::Skipped(words) => ("skipped", "-", words),
            };
            let words = shortened(words).join(&format!("\n{:28}", ""));
            let name = line.name;
            // Writing to a string cannot fail.
            writeln!(text, "{mark:<7}  {name:<9} {took:>7}  {words}").unwrap_or_default();
        }
        let took = self.took.as_secs_f64();
        let all = self.lines.len();
        let failed =
            self.lines.iter().filter(|line| matches!(line.ending, Ending::Failed(_))).count();
        let skipped =
            self.lines.iter().filter(|line| matches!(line.ending, Ending::Skipped(_))).count();
        let sum = if self.is_proven() {
            format!("all {all} steps proven in {took:.1} s")
        } else {
            format!("{failed} of {all} steps FAILED, {skipped} skipped, in {took:.1} s")
        };
        writeln!(text, "\n{sum}").unwrap_or_default();
        text
    }
}

/// The first lines, and how many more there are.
fn shortened(words: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        words.lines().take(REASON_LINES_MAX).map(ToOwned::to_owned).collect();
    let more = words.lines().count().saturating_sub(lines.len());
    if more > 0 {
        lines.push(format!("and {more} lines more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    type Names = Vec<&'static str>;

    const FIRST: Step<Names> = Step {
        name: "first",
        about: "begins",
        needs: &[],
        run: |names| {
            names.push("first");
            Ok("begun".to_owned())
        },
    };
    const BROKEN: Step<Names> = Step {
        name: "broken",
        about: "breaks",
        needs: &["first"],
        run: |names| {
            names.push("broken");
            bail!("web1 / web2:\na: content")
        },
    };
    const NEEDY: Step<Names> =
        Step { name: "needy", about: "", needs: &["broken"], run: |_| Ok(String::new()) };
    const FREE: Step<Names> = Step {
        name: "free",
        about: "",
        needs: &["first"],
        run: |names| {
            names.push("free");
            Ok("done all the same".to_owned())
        },
    };

    /// Runs the steps: those that were done, and the report with its times left out.
    fn check(steps: &[Step<Names>], done: &[&str]) -> (bool, String) {
        let mut names = Names::new();
        let mut report = run(steps, &mut names, |_, _| {});
        assert_eq!(done, names);
        report.took = Duration::ZERO;
        report.lines.iter_mut().for_each(|line| line.took = Duration::ZERO);
        (report.is_proven(), report.render())
    }

    #[test]
    fn what_is_proven_is_ticked() {
        let (proven, text) = check(&[FIRST, FREE], &["first", "free"]);
        assert!(proven);
        insta::assert_snapshot!(text, @r"
        ✓        first       0.0 s  begun
        ✓        free        0.0 s  done all the same

        all 2 steps proven in 0.0 s
        ");
    }

    #[test]
    fn a_failing_step_fails_the_demo_and_skips_only_what_needs_it() {
        let (proven, text) = check(&[FIRST, BROKEN, NEEDY, FREE], &["first", "broken", "free"]);
        assert!(!proven);
        insta::assert_snapshot!(text, @r"
        ✓        first       0.0 s  begun
        FAILED   broken      0.0 s  web1 / web2:
                                    a: content
        skipped  needy           -  it needs the step broken, which was not passed
        ✓        free        0.0 s  done all the same

        1 of 4 steps FAILED, 1 skipped, in 0.0 s
        ");
    }

    #[test]
    fn nothing_is_begun_after_an_interruption() {
        let told = Step { run: |_: &mut Names| Err(Interrupted.into()), ..BROKEN };
        let (proven, text) = check(&[FIRST, told, FREE], &["first"]);
        assert!(!proven);
        assert!(text.contains("interrupted"), "{text}");
    }

    #[test]
    fn a_long_reason_is_shortened() {
        let reason = "a\n".repeat(20);
        let lines = shortened(&reason);
        assert_eq!(Some("and 12 lines more"), lines.last().map(String::as_str));
    }
}
