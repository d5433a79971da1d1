//! What a Nagios plugin prints: a state, one line, performance data, and more lines if asked for. Pure.

use serde::Serialize;

use super::range::Range;

/// How something is. The exit code of the check is that of the worst; unknown is worse than a warning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::cli) enum State {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl State {
    /// 0 to 3, as the guidelines say.
    pub(in crate::cli) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn gravity(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Unknown => 2,
            Self::Critical => 3,
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(in crate::cli) struct Finding {
    pub(in crate::cli) state: State,
    pub(in crate::cli) text: String,
}

/// A number for a graph, with the ranges it was held against.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(in crate::cli) struct Perf {
    pub(in crate::cli) label: String,
    pub(in crate::cli) value: f64,
    /// `s`, `ms`, `c` for a counter, or nothing.
    pub(in crate::cli) unit: &'static str,
    pub(in crate::cli) warning: Option<String>,
    pub(in crate::cli) critical: Option<String>,
}

/// What a check found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(in crate::cli) struct Report {
    pub(in crate::cli) check: &'static str,
    pub(in crate::cli) state: State,
    /// What is said if there are no findings.
    pub(in crate::cli) summary: String,
    /// The gravest first.
    pub(in crate::cli) findings: Vec<Finding>,
    pub(in crate::cli) perfdata: Vec<Perf>,
}

impl Report {
    pub(in crate::cli) fn new(check: &'static str) -> Self {
        let (findings, perfdata) = (Vec::new(), Vec::new());
        Self { check, state: State::Ok, summary: String::new(), findings, perfdata }
    }

    /// Something is not as it should be.
    pub(in crate::cli) fn find(&mut self, state: State, text: impl Into<String>) {
        if state.gravity() > self.state.gravity() {
            self.state = state;
        }
        self.findings.push(Finding { state, text: text.into() });
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.state.gravity()));
    }

    /// A number that is only told.
    pub(in crate::cli) fn tell(
        &mut self,
        label: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        let (warning, critical) = (None, None);
        self.perfdata.push(Perf { label: label.into(), value, unit, warning, critical });
    }

    /// A number that is held against ranges; `text` is said if it is outside of one.
    pub(in crate::cli) fn hold(
        &mut self,
        (label, value, unit): (impl Into<String>, f64, &'static str),
        warning: Option<&Range>,
        critical: Option<&Range>,
        text: impl Into<String>,
    ) {
        let alerts = |range: Option<&Range>| range.is_some_and(|range| range.alerts(value));
        match (alerts(warning), alerts(critical)) {
            (_, true) => self.find(State::Critical, text),
            (true, false) => self.find(State::Warning, text),
            (false, false) => {}
        }
        self.perfdata.push(Perf {
            label: label.into(),
            value,
            unit,
            warning: warning.map(ToString::to_string),
            critical: critical.map(ToString::to_string),
        });
    }

    /// The line, and with `long` a line for each finding.
    pub(in crate::cli) fn render(&self, long: bool) -> String {
        let said = match &self.findings[..] {
            [] => self.summary.clone(),
            [only] => only.text.clone(),
            [first, rest @ ..] => format!("{} (and {} more)", first.text, rest.len()),
        };
        let mut text =
            format!("TREFOIL {} {}: {}", self.check.to_uppercase(), self.state.name(), line(&said));
        let perfdata: Vec<_> = self.perfdata.iter().map(perf).collect();
        if !perfdata.is_empty() {
            text.push_str(&format!(" | {}", perfdata.join(" ")));
        }
        if long {
            text.push_str(&format!("\n{}", line(&self.summary)));
            for finding in &self.findings {
                text.push_str(&format!("\n{}: {}", finding.state.name(), line(&finding.text)));
            }
        }
        text.push('\n');
        text
    }
}

/// Text that neither ends the line nor begins performance data.
fn line(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == '|' {
                '/'
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        })
        .collect()
}

fn perf(perf: &Perf) -> String {
    let label: String = perf
        .label
        .chars()
        .map(|c| match c {
            '\'' | '=' | '|' => '_',
            c if c.is_control() => '_',
            c => c,
        })
        .collect();
    let label = if label.contains(' ') { format!("'{label}'") } else { label };
    // At most three digits behind the point, none if they are zero.
    let number = format!("{:.3}", perf.value);
    let number = number.trim_end_matches('0').trim_end_matches('.');
    let range = |range: &Option<String>| range.clone().unwrap_or_default();
    let ranges = format!("{};{}", range(&perf.warning), range(&perf.critical));
    let text = format!("{label}={number}{};{ranges}", perf.unit);
    text.trim_end_matches(';').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_comes_first() {
        let mut report = Report::new("cluster");
        report.summary = "fine".to_owned();
        assert_eq!("TREFOIL CLUSTER OK: fine\n", report.render(false));
        report.find(State::Warning, "meh");
        report.find(State::Unknown, "who knows");
        assert_eq!(3, report.state.code());
        report.find(State::Critical, "bad |\nthing");
        report.find(State::Warning, "meh too");
        assert_eq!(2, report.state.code());
        let line = "TREFOIL CLUSTER CRITICAL: bad / thing (and 3 more)\n";
        assert_eq!(line, report.render(false));
        assert_eq!(6, report.render(true).lines().count());
    }

    #[test]
    fn performance_data_has_labels_units_and_ranges() {
        let mut report = Report::new("replication");
        let (warning, critical) = ("60".parse().unwrap(), "~:300".parse().unwrap());
        report.hold(("a b's lag", 61.25, "s"), Some(&warning), Some(&critical), "slow");
        report.tell("changes", 7.0, "");
        report.hold(("up", 100.0, ""), None, Some(&critical), "down");
        let text = report.render(false);
        let wanted = "TREFOIL REPLICATION WARNING: slow | 'a b_s lag'=61.25s;60;~:300 changes=7 up=100;;~:300\n";
        assert_eq!(wanted, text);
    }
}
