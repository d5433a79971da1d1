//! Turns the tables of a configuration file into a [`Config`].
//!
//! In: text, and what surrounds the file. Out: a valid configuration, or the first thing wrong
//! with it. Pure: what it needs of the machine comes in as [`Surroundings`].

use std::{
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, ConfigError, Control, DEFAULT_CONFLICTS_MAX, DEFAULT_LISTEN, DEFAULT_SCHEDULE,
    DEFAULT_SOCKET, DEFAULT_STATE, DEFAULT_TRASH_MAX, HostPort, Mount, Node, Preset, SizeLimit,
    Snapshot, is_name, parse_duration, size,
    table::{Source, Table, Value},
};
use crate::engine::{Class, ClassTable, Pattern, Policy, Retention, Schedule};

/// Mounts of one node.
pub const MOUNTS_MAX: usize = 64;

/// Addresses of one node.
const ADVERTISE_MAX: usize = 16;

/// Bytes of a Unix socket's path: what the kernel's address holds.
const SOCKET_BYTES_MAX: usize = 107;

const NAME_ALLOWED: &str =
    "allowed: 1 to 63 letters, digits, `.`, `_`, `-`, the first a letter or digit";

/// What a configuration file is read in.
pub struct Surroundings<'a> {
    /// The file, absolute: relative paths in it start at its folder.
    pub file: &'a Path,
    /// The default for the node's name.
    pub host_name: &'a str,
    /// Looks through symbolic links, so that one directory under two names is found out.
    pub resolve: &'a dyn Fn(&Path) -> PathBuf,
}

impl Config {
    /// Checks the text of a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong, with its line.
    pub fn parse(text: &str, around: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let source = Source { file: around.file, text };
        let mut root = source.parse()?;
        let mut taken = Taken { resolve: around.resolve, places: Vec::new() };

        let node = parse_node(root.table("node")?, source, around, &mut taken)?;
        let control = parse_control(root.table("control")?, around)?;
        taken.add("the control socket", &control.socket);
        let snapshot = parse_snapshot(root.table("snapshot")?)?;
        let classes = parse_classes(root.table("class")?)?;
        let tables = root.tables("mount")?;
        root.finish()?;

        let Some(first) = tables.first() else {
            let allowed = "add a [[mount]] with `name` and `path`";
            return Err(source.error(0..0, "the file has no mount", allowed));
        };
        if tables.len() > MOUNTS_MAX {
            return Err(first.error("is one of too many", format!("at most {MOUNTS_MAX} mounts")));
        }
        let mut mounts: Vec<Mount> = Vec::with_capacity(tables.len());
        for table in tables {
            let mount = parse_mount(table, &mounts, around, &classes, &mut taken)?;
            mounts.push(mount);
        }
        Ok(Self { file: around.file.to_owned(), node, control, snapshot, classes, mounts })
    }
}

fn parse_node(
    table: Option<Table<'_>>,
    source: Source<'_>,
    around: &Surroundings<'_>,
    taken: &mut Taken<'_>,
) -> Result<Node, ConfigError> {
    let default_listen: SocketAddr = DEFAULT_LISTEN.parse().expect("a test reads the default");
    let mut node = Node {
        name: around.host_name.to_owned(),
        state: PathBuf::from(DEFAULT_STATE),
        listen: default_listen,
        advertise: Vec::new(),
        bandwidth_max: None,
        conflicts_max: Some(DEFAULT_CONFLICTS_MAX),
        trash_max: Some(DEFAULT_TRASH_MAX),
    };
    let no_name = |span| {
        let what = format!("the host name {:?} cannot be the node's name", around.host_name);
        source.error(span, what, "set `name` in [node]")
    };
    let Some(mut table) = table else {
        taken.add("the state folder", &node.state);
        return if is_name(&node.name) { Ok(node) } else { Err(no_name(0..0)) };
    };
    match table.string("name")? {
        Some(name) => node.name = parse_name(&name)?,
        None if is_name(around.host_name) => {}
        None => return Err(no_name(table.span.clone())),
    }
    if let Some(state) = table.string("state")? {
        node.state = parse_path(&state, around)?.value;
    }
    taken.add("the state folder", &node.state);
    if let Some(listen) = table.string("listen")? {
        node.listen = parse_address(&listen)?;
    }
    if let Some(advertise) = table.strings("advertise")? {
        if let Some(beyond) = advertise.get(ADVERTISE_MAX) {
            return Err(beyond.error("is too long", format!("at most {ADVERTISE_MAX} addresses")));
        }
        let hosts = advertise.iter().map(|text| text.parse("", str::parse::<HostPort>));
        node.advertise = hosts.collect::<Result<_, _>>()?;
    }
    if node.advertise.is_empty() && !node.listen.ip().is_unspecified() {
        node.advertise.push(node.listen.into());
    }
    if let Some(text) = table.string("bandwidth_max")? {
        node.bandwidth_max = parse_or_off(&text, size::parse_bytes)?;
    }
    if let Some(text) = table.string("conflicts_max")? {
        node.conflicts_max = parse_or_off(&text, str::parse::<SizeLimit>)?;
    }
    if let Some(text) = table.string("trash_max")? {
        node.trash_max = parse_or_off(&text, str::parse::<SizeLimit>)?;
    }
    table.finish()?;
    Ok(node)
}

fn parse_control(
    table: Option<Table<'_>>,
    around: &Surroundings<'_>,
) -> Result<Control, ConfigError> {
    let mut control = Control { socket: PathBuf::from(DEFAULT_SOCKET), http: None };
    let Some(mut table) = table else { return Ok(control) };
    if let Some(text) = table.string("socket")? {
        let socket = parse_path(&text, around)?;
        if socket.value.as_os_str().len() > SOCKET_BYTES_MAX {
            let allowed = format!("at most {SOCKET_BYTES_MAX} bytes, folder included");
            return Err(socket.error("is too long for a Unix socket", allowed));
        }
        control.socket = socket.value;
    }
    if let Some(http) = table.string("http")? {
        control.http = Some(parse_address(&http)?);
    }
    table.finish()?;
    Ok(control)
}

fn parse_snapshot(table: Option<Table<'_>>) -> Result<Snapshot, ConfigError> {
    let mut snapshot = Snapshot::default();
    let Some(mut table) = table else { return Ok(snapshot) };
    let zone = table.string("time_zone")?;
    let name = match &zone {
        Some(zone) => {
            zone.parse("", |name| Schedule::parse(DEFAULT_SCHEDULE, Some(name)))?;
            Some(zone.value.as_str())
        }
        None => None,
    };
    snapshot.schedule = match table.string("schedule")? {
        Some(text) => parse_or_off(&text, |text| Schedule::parse(text, name))?,
        None => Schedule::parse(DEFAULT_SCHEDULE, name).ok(),
    };
    let mut keep = Retention::default();
    let mut is_set = false;
    for (key, count) in [
        ("keep_last", &mut keep.keep_last),
        ("keep_hourly", &mut keep.keep_hourly),
        ("keep_daily", &mut keep.keep_daily),
        ("keep_weekly", &mut keep.keep_weekly),
        ("keep_monthly", &mut keep.keep_monthly),
    ] {
        if let Some(number) = table.number(key)? {
            (*count, is_set) = (number, true);
        }
    }
    if let Some(text) = table.string("keep_within")? {
        keep.keep_within = Some(text.parse("", parse_duration)?);
        is_set = true;
    }
    if is_set {
        if keep == Retention::default() {
            let allowed = "leave all `keep_` keys out for the usual ones";
            return Err(table.error("keeps no snapshot", allowed));
        }
        snapshot.retention = keep;
    }
    table.finish()?;
    Ok(snapshot)
}

fn parse_classes(table: Option<Table<'_>>) -> Result<ClassTable, ConfigError> {
    let mut classes = ClassTable::default();
    let Some(mut table) = table else { return Ok(classes) };
    for class in Class::ALL {
        // There is nothing to set for what is not mirrored.
        if class == Class::Local {
            continue;
        }
        let Some(mut keys) = table.table(class.name())? else { continue };
        let settings = classes.get_mut(class);
        if let Some(text) = keys.string("settle")? {
            settings.settle = text.parse("", parse_duration)?;
        }
        if let Some(text) = keys.string("conflict")? {
            settings.keep_losers = match text.value.as_str() {
                "keep" => true,
                "last-writer" => false,
                other => {
                    return Err(text.error(format!("is {other:?}"), "allowed: keep, last-writer"));
                }
            };
        }
        if let Some(text) = keys.string("trash")? {
            settings.trash = parse_or_off(&text, parse_duration)?;
        }
        if let Some(text) = keys.string("emptied_hold")? {
            settings.emptied_hold = parse_or_off(&text, parse_duration)?;
        }
        if let Some(budget) = keys.budget_or_off("delete_budget")? {
            settings.delete_budget = budget;
        }
        keys.finish()?;
    }
    table.finish()?;
    Ok(classes)
}

fn parse_mount(
    mut table: Table<'_>,
    before: &[Mount],
    around: &Surroundings<'_>,
    classes: &ClassTable,
    taken: &mut Taken<'_>,
) -> Result<Mount, ConfigError> {
    let name_text = table.required("name", "each mount needs `name` and `path`")?;
    let name = parse_name(&name_text)?;
    if before.iter().any(|mount| mount.name == name) {
        let what = format!("is {name:?}, as that of a mount before");
        return Err(name_text.error(what, "each mount needs its own name"));
    }
    let path_text = table.required("path", "each mount needs `name` and `path`")?;
    let path = parse_path(&path_text, around)?;
    taken.check_apart(&path)?;
    taken.add(&format!("mount {name:?}"), &path.value);

    let preset = match table.string("preset")? {
        Some(text) => Some(text.parse("", |t| Preset::parse(t, &name, &path.value))?),
        None => None,
    };
    let watch = match table.string("watch")? {
        Some(text) => text.parse("", str::parse)?,
        None => super::Watch::default(),
    };
    let mut rules = Vec::new();
    for text in table.strings("ignore")?.unwrap_or_default() {
        rules.push((parse_pattern(&text)?, Class::Local));
    }
    let ignore_rules = rules.len();
    for mut rule in table.tables("rule")? {
        let pattern = rule.required("match", "each rule needs `match` and `class`")?;
        let class = rule.required("class", "each rule needs `match` and `class`")?;
        rules.push((parse_pattern(&pattern)?, class.parse("", str::parse)?));
        rule.finish()?;
    }
    let own_rules = rules.len() - ignore_rules;
    rules.extend(preset.map(Preset::rules).unwrap_or_default());
    let policy = Policy::new(rules, classes.clone())
        .map_err(|e| table.error(&format!("has rules that cannot be used: {e}"), "use fewer"))?;
    table.finish()?;
    let policy = Arc::new(policy);
    Ok(Mount { name, path: path.value, preset, ignore_rules, own_rules, watch, policy })
}

fn parse_name(text: &Value<'_, String>) -> Result<String, ConfigError> {
    if is_name(&text.value) {
        return Ok(text.value.clone());
    }
    Err(text.error(format!("is {:?}", text.value), NAME_ALLOWED))
}

fn parse_pattern(text: &Value<'_, String>) -> Result<Pattern, ConfigError> {
    text.parse("allowed: a glob such as *.lock, cache/ or /import/**", Pattern::parse)
}

fn parse_address(text: &Value<'_, String>) -> Result<SocketAddr, ConfigError> {
    const ALLOWED: &str = "allowed: address:port, such as 0.0.0.0:7440 or [::]:7440";
    let address: SocketAddr =
        text.value.parse().map_err(|_| text.error(format!("is {:?}", text.value), ALLOWED))?;
    if address.port() == 0 {
        return Err(
            text.error(format!("is {:?}: port 0 changes at each start", text.value), ALLOWED)
        );
    }
    Ok(address)
}

/// What `parse` reads, whose error ends in what is allowed, or `off`.
fn parse_or_off<T, E: std::fmt::Display>(
    text: &Value<'_, String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, ConfigError> {
    if text.value == "off" {
        return Ok(None);
    }
    text.parse("", |t| parse(t).map(Some).map_err(|e| format!("{e}, or \"off\"")))
}

fn parse_path<'i>(
    text: &Value<'i, String>,
    around: &Surroundings<'_>,
) -> Result<Value<'i, PathBuf>, ConfigError> {
    if text.value.is_empty() || text.value.contains('\0') {
        return Err(text.error(format!("is {:?}", text.value), "allowed: a path"));
    }
    let folder = around.file.parent().unwrap_or_else(|| Path::new("/"));
    // Collected anew, for `components` drops `.` and doubled slashes.
    Ok(text.with(folder.join(&text.value).components().collect()))
}

/// Paths that mounts must be apart from.
struct Taken<'a> {
    resolve: &'a dyn Fn(&Path) -> PathBuf,
    /// What it is, and its path in every form that it may be known by.
    places: Vec<(String, Vec<PathBuf>)>,
}

impl Taken<'_> {
    fn forms(&self, path: &Path) -> Vec<PathBuf> {
        vec![without_dots(path), (self.resolve)(path)]
    }

    fn add(&mut self, what: &str, path: &Path) {
        self.places.push((what.to_owned(), self.forms(path)));
    }

    /// Checks that a mount's path is apart from all the others.
    fn check_apart(&self, path: &Value<'_, PathBuf>) -> Result<(), ConfigError> {
        let forms = self.forms(&path.value);
        for (place, place_forms) in &self.places {
            for (ours, theirs) in forms.iter().zip(place_forms) {
                let how = match () {
                    () if ours == theirs => "the same as",
                    () if ours.starts_with(theirs) => "inside",
                    () if theirs.starts_with(ours) => "around",
                    () => continue,
                };
                let what = format!("is {:?}, which is {how} {place}", path.value);
                return Err(path.error(what, "move one of them"));
            }
        }
        Ok(())
    }
}

/// The path with each `..` taken as the folder above.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
