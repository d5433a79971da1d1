//! Tests of the configuration as a whole.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{
    Config, ConfigError, DEFAULT_CONFLICTS_MAX, DEFAULT_LISTEN, DEFAULT_SOCKET, DEFAULT_STATE,
    DEFAULT_TRASH_MAX, HostPort, SizeLimit, Surroundings, Watch,
};
use crate::{
    engine::{Class, ClassTable},
    model::RelPath,
};

const SHIPPED: &str = include_str!("../../config/trefoil.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(
        text,
        &Surroundings {
            file: Path::new("/etc/trefoil/trefoil.toml"),
            host_name: "web9",
            resolve: &|path: &Path| path.to_owned(),
        },
    )
}

/// A file with one good mount at its end, so that lines count from the top of `text`.
fn with_mount(text: &str) -> String {
    format!("{text}\n[[mount]]\nname = \"m\"\npath = \"/srv/m\"\n")
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    let error = parse(text).expect_err("should be refused").to_string();
    assert_eq!(expected, error.strip_prefix("/etc/trefoil/trefoil.toml:").unwrap_or(&error));
}

#[test]
fn the_shipped_file_is_valid_and_tells_the_classes_of_the_design() {
    let config = parse(SHIPPED).unwrap();
    let names: Vec<_> = config.mounts.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(["app-etc", "media", "static", "var"], *names);
    let class = |mount: &str, path: &str| {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        config.mount(mount).unwrap().policy.class(&path)
    };
    assert_eq!(Class::Config, class("app-etc", "env.php"));
    assert_eq!(Class::Barrier, class("static", "deployed_version.txt"));
    assert_eq!(Class::Precious, class("var", "import/prices.csv"));
    assert_eq!(Class::Local, class("var", "import/prices.csv.lock.swp"));
    assert_eq!(Class::Local, class("var", "log/system.log"));
    let var = config.mount("var").unwrap();
    assert_eq!((2, 1), (var.ignore_rules, var.own_rules));
}

#[test]
fn what_the_shipped_file_claims_as_defaults_are_the_defaults() {
    // A commented-out key has no space after its `#`; prose does.
    let uncommented: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let all = parse(&uncommented).unwrap();
    let shipped = parse(SHIPPED).unwrap();
    assert_eq!(ClassTable::default(), all.classes);
    assert_eq!(shipped.node, all.node);
    assert_eq!(shipped.control.socket, all.control.socket);
    for (a, b) in shipped.mounts.iter().zip(&all.mounts) {
        assert_eq!((a.watch, a.policy.hash()), (b.watch, b.policy.hash()));
    }
    // The one key whose default is none.
    assert_eq!((None, true), (shipped.control.http, all.control.http.is_some()));
    for key in [
        "state",
        "listen",
        "bandwidth_max",
        "conflicts_max",
        "trash_max",
        "socket",
        "http",
        "settle",
        "conflict",
        "trash",
        "watch",
    ] {
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is not explained");
    }
}

#[test]
fn a_file_with_one_mount_has_defaults_for_everything_else() {
    let config = parse(&with_mount("")).unwrap();
    assert_eq!("web9", config.node.name);
    assert_eq!(Path::new(DEFAULT_STATE), config.node.state);
    assert_eq!(DEFAULT_LISTEN, config.node.listen.to_string());
    assert_eq!(Vec::<HostPort>::new(), config.node.advertise);
    assert_eq!(Path::new(DEFAULT_SOCKET), config.control.socket);
    assert_eq!(Some(DEFAULT_CONFLICTS_MAX), config.node.conflicts_max);
    assert_eq!(Some(DEFAULT_TRASH_MAX), config.node.trash_max);
    assert_eq!(Watch::Auto, config.mounts[0].watch);
    assert_eq!(Class::Normal, config.mounts[0].policy.class(&RelPath::parse(b"x").unwrap()));
}

#[test]
fn a_specific_listen_address_is_advertised() {
    let config = parse(&with_mount("[node]\nlisten = \"127.1.2.3:7440\"")).unwrap();
    assert_eq!("127.1.2.3:7440", config.node.advertise[0].to_string());
    let text = "[node]\nlisten = \"127.1.2.3:7440\"\nadvertise = [\"a:1\", \"[::1]:2\"]";
    let advertise = parse(&with_mount(text)).unwrap().node.advertise;
    assert_eq!(["a:1", "[::1]:2"], *advertise.iter().map(ToString::to_string).collect::<Vec<_>>());
}

#[test]
fn what_is_kept_aside_has_limits_that_can_be_set_and_taken_away() {
    let text = "[node]\nconflicts_max = \"5GiB\"\ntrash_max = \"off\"";
    let node = parse(&with_mount(text)).unwrap().node;
    assert_eq!((Some(SizeLimit::Bytes(5 << 30)), None), (node.conflicts_max, node.trash_max));
}

#[test]
fn what_is_sent_has_a_limit_only_if_it_is_set() {
    let limit = |value: &str| {
        let text = with_mount(&format!("[node]\nbandwidth_max = \"{value}\""));
        parse(&text).map(|config| config.node.bandwidth_max).map_err(|error| error.to_string())
    };
    assert_eq!(None, parse(&with_mount("")).unwrap().node.bandwidth_max);
    assert_eq!((Ok(Some(20 << 20)), Ok(None)), (limit("20MiB"), limit("off")));
    for wrong in ["0MiB", "10%", "20", "fast"] {
        let error = limit(wrong).unwrap_err();
        assert!(error.contains("512KiB") && error.contains("\"off\""), "{error}");
    }
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let text = "[node]\nstate = \"./state\"\n[[mount]]\nname = \"m\"\npath = \"../m\"\n";
    let config = parse(text).unwrap();
    assert_eq!(PathBuf::from("/etc/trefoil/state"), config.node.state);
    assert_eq!(PathBuf::from("/etc/trefoil/../m"), config.mounts[0].path);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
    check_error(
        &with_mount("[node]\nname = \"a\"\nlisen = \"0.0.0.0:1\""),
        "3:1: unknown key `lisen` in [node] at line 3; did you mean `listen`?",
    );
    check_error(&with_mount("[nod]\n"), "1:2: unknown key `nod` at line 1; did you mean `node`?");
    check_error(
        &with_mount("\n[class.precius]\nsettle = \"1s\""),
        "2:8: unknown key `precius` in [class] at line 2; did you mean `precious`?",
    );
    check_error(
        &(with_mount("") + "[[mount.rule]]\nmatch = \"a\"\nclass = \"flag\"\nprio = 1"),
        "8:1: unknown key `prio` in [[mount.rule]] at line 8; allowed: match, class",
    );
    check_error(
        &with_mount("[class.local]\ntrash = \"1d\""),
        "1:8: unknown key `local` in [class] at line 1; allowed: config, flag, barrier, release, \
         precious, normal, derived",
    );
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    for (text, expected) in [
        (
            "[node]\nname = \"a b\"",
            "2:8: `name` in [node] is \"a b\" at line 2; allowed: 1 to 63 letters, digits, `.`, \
             `_`, `-`, the first a letter or digit",
        ),
        ("[node]\nname = 3", "2:8: `name` in [node] is 3 at line 2; allowed: a text in quotes"),
        (
            "[node]\nlisten = \"7440\"",
            "2:10: `listen` in [node] is \"7440\" at line 2; allowed: address:port, such as \
             0.0.0.0:7440 or [::]:7440",
        ),
        (
            "[node]\nadvertise = [\"a:1\",\n \"0.0.0.0:1\"]",
            "3:2: `advertise` in [node] is \"0.0.0.0:1\": not an address to dial at line 3; \
             allowed: host:port, such as web1.example:7440 or [2001:db8::1]:7440",
        ),
        (
            "[class.flag]\nsettle = \"soon\"",
            "2:10: `settle` in [class.flag] is \"soon\": not a duration at line 2; allowed: a \
             whole number and a unit, such as 200ms, 1s, 5m, 1h, 7d",
        ),
        (
            "[class.flag]\ntrash = \"no\"",
            "2:9: `trash` in [class.flag] is \"no\": not a duration at line 2; allowed: a whole \
             number and a unit, such as 200ms, 1s, 5m, 1h, 7d, or \"off\"",
        ),
        (
            "[node]\nconflicts_max = \"5GB\"",
            "2:17: `conflicts_max` in [node] is \"5GB\": not a size at line 2; allowed: a whole number \
             and a unit, such as 500MiB, 20GiB, 1TiB, or a part of the file system, such as 10%, or \
             \"off\"",
        ),
        (
            "[class.flag]\ndelete_budget = -1",
            "2:17: `delete_budget` in [class.flag] is -1 at line 2; allowed: a number of files, a \
             percentage such as \"1%\", the larger of both as \"50 or 1%\", or \"off\"",
        ),
        (
            "[class.flag]\ndelete_budget = \"101%\"",
            "2:17: `delete_budget` in [class.flag] is \"101%\": not a number of files or a \
             percentage at line 2; allowed: a number of files, a percentage such as \"1%\", the \
             larger of both as \"50 or 1%\", or \"off\"",
        ),
        ("node = 3", "1:8: `node` is 3 at line 1; write [node]"),
        ("[node", "1:6: not TOML: unclosed table, expected `]` at line 1; see https://toml.io"),
    ] {
        check_error(&with_mount(text), expected);
    }
}

#[test]
fn a_wrong_mount_is_named_with_what_is_allowed() {
    for (text, expected) in [
        ("", "1:1: the file has no mount at line 1; add a [[mount]] with `name` and `path`"),
        (
            "[[mount]]\nname = \"a\"",
            "1:1: [[mount]] has no `path` at line 1; each mount needs `name` and `path`",
        ),
        (
            "[[mount]]\nname = \"a\"\npath = \"/a\"\nwatch = \"fast\"",
            "4:9: `watch` in [[mount]] is \"fast\": not a way to watch at line 4; allowed: auto, \
             fanotify, inotify",
        ),
        (
            "[[mount]]\nname = \"a\"\npath = \"/a\"\nignore = [\"x\", \"!y\"]",
            "4:16: `ignore` in [[mount]] is \"!y\": pattern starts with `!` at line 4; put a rule \
             with another class before this one instead",
        ),
        (
            "[[mount]]\nname = \"a\"\npath = \"/a\"\nrule = [{match = \"x\", class = \"Flag\"}]",
            "4:31: `class` in [[mount.rule]] is \"Flag\": not a class at line 4; allowed: config, \
             flag, barrier, release, precious, normal, derived, local",
        ),
        (
            "[[mount]]\nname = \"a\"\npath = \"/a\"\npreset = \"magento\"",
            "4:10: `preset` in [[mount]] is \"magento\": neither the mount's name nor its path \
             tells which tree this is at line 4; allowed: magento (tree by name or path), \
             magento:app-etc, magento:media, magento:static, magento:var",
        ),
    ] {
        check_error(text, expected);
    }
}

#[test]
fn mounts_are_apart_from_each_other_and_from_the_state() {
    let two = |a: &str, b: &str| {
        format!(
            "[node]\nstate = \"/state\"\n[control]\nsocket = \"/run/c.sock\"\n\
             [[mount]]\nname = \"a\"\npath = \"{a}\"\n[[mount]]\nname = \"b\"\npath = \"{b}\""
        )
    };
    assert!(parse(&two("/srv/a", "/srv/ab")).is_ok());
    for (a, b, expected) in [
        (
            "/srv/a",
            "/srv/a/",
            "10:8: `path` in [[mount]] is \"/srv/a\", which is the same as mount \"a\"",
        ),
        (
            "/srv/a",
            "/srv/x/../a/b",
            "10:8: `path` in [[mount]] is \"/srv/x/../a/b\", which is inside mount \"a\"",
        ),
        (
            "/srv/a/b",
            "/srv/a",
            "10:8: `path` in [[mount]] is \"/srv/a\", which is around mount \"a\"",
        ),
        (
            "/srv",
            "/state/b",
            "10:8: `path` in [[mount]] is \"/state/b\", which is inside the state folder",
        ),
        (
            "/run",
            "/srv",
            "7:8: `path` in [[mount]] is \"/run\", which is around the control socket",
        ),
    ] {
        let line = expected.split_once(':').unwrap().0;
        check_error(&two(a, b), &format!("{expected} at line {line}; move one of them"));
    }
    check_error(
        "[[mount]]\nname = \"a\"\npath = \"/a\"\n[[mount]]\nname = \"a\"\npath = \"/b\"",
        "5:8: `name` in [[mount]] is \"a\", as that of a mount before at line 5; each mount needs \
         its own name",
    );
}

#[test]
fn addresses_to_dial_are_told_from_slips() {
    for good in ["web1:7440", "web1.example.:1", "10.0.0.1:65535", "[2001:db8::1]:7440"] {
        let parsed: HostPort = good.parse().unwrap();
        assert_eq!(good, parsed.to_string());
    }
    for bad in [
        "web1",
        "web1:",
        "web1:0",
        "web1:65536",
        ":1",
        "::1:1",
        "[::]:1",
        "10.0.0:1",
        "10.0.0.1.5:1",
        "a b:1",
        "a/b:1",
        "-a:1",
        "a..b:1",
        "web1:+1",
    ] {
        assert!(bad.parse::<HostPort>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        drop(parse(&text));
    }

    #[test]
    fn any_change_to_a_good_file_is_read_or_refused(
        at in 0..SHIPPED.len(), len in 0usize..20, new in "[\\[\\]\"'=.,{}a-z0-9#\n\u{fc} -]{0,8}",
    ) {
        let text = SHIPPED.as_bytes();
        let changed = [&text[..at], new.as_bytes(), &text[(at + len).min(text.len())..]].concat();
        if let Err(error) = parse(&String::from_utf8_lossy(&changed)) {
            let message = error.to_string();
            prop_assert!(error.line >= 1 && !message.contains('\n'), "{}", message);
        }
    }
}

#[test]
fn snapshots_are_taken_and_kept_as_they_are_by_default_or_as_it_is_said() {
    let default = parse(&with_mount("")).unwrap().snapshot;
    assert_eq!(Some("0 */6 * * *".to_owned()), default.schedule.map(|s| s.to_string()));
    assert_eq!(crate::engine::Retention::standard(), default.retention);
    let text = "[snapshot]\nschedule = \"off\"\nkeep_daily = 7\nkeep_within = \"2d\"";
    let own = parse(&with_mount(text)).unwrap().snapshot;
    assert_eq!((None, 7, 0), (own.schedule, own.retention.keep_daily, own.retention.keep_weekly));
    assert!(own.retention.tiers.is_empty(), "only what is said");
    let zone = parse(&with_mount("[snapshot]\ntime_zone = \"Europe/Berlin\"")).unwrap().snapshot;
    let noon = "2026-07-01T10:00:00Z".parse().unwrap();
    let next = zone.schedule.unwrap().next_after(noon).unwrap();
    assert_eq!("2026-07-01T16:00:00Z", next.to_string(), "18:00 in summer there");
}

#[test]
fn a_wrong_schedule_or_retention_is_named() {
    for (text, says) in [
        (
            "schedule = \"0 25 * * *\"",
            "2:12: `schedule` in [snapshot] is \"0 25 * * *\": cannot read",
        ),
        ("time_zone = \"Berlin\"", "2:13: `time_zone` in [snapshot] is \"Berlin\": no time zone"),
        ("keep_daily = \"7\"", "2:14: `keep_daily` in [snapshot]"),
        ("keep_daily = 0", "1:1: [snapshot] keeps no snapshot"),
        ("keep_yearly = 1", "2:1: unknown key `keep_yearly` in [snapshot]"),
    ] {
        let error = parse(&with_mount(&format!("[snapshot]\n{text}"))).unwrap_err().to_string();
        let told = error.strip_prefix("/etc/trefoil/trefoil.toml:").unwrap_or(&error);
        assert!(told.starts_with(says), "{told}");
    }
}
