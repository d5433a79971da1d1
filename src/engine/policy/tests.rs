//! Which class a path has, and what is no pattern.

use proptest::prelude::*;

use super::*;

fn path(bytes: &[u8]) -> RelPath {
    RelPath::parse(bytes).unwrap()
}

fn policy(rules: &[(&str, Class)]) -> Policy {
    let rules = rules.iter().map(|&(p, class)| (Pattern::parse(p).unwrap(), class)).collect();
    Policy::new(rules, ClassTable::default()).unwrap()
}

#[track_caller]
fn check(pattern: &str, yes: &[&str], no: &[&str]) {
    let policy = policy(&[(pattern, Class::Flag)]);
    for p in yes {
        assert_eq!(Class::Flag, policy.class(&path(p.as_bytes())), "{pattern} should match {p}");
    }
    for p in no {
        assert_eq!(Class::Normal, policy.class(&path(p.as_bytes())), "{pattern} matches {p}");
    }
}

#[test]
fn patterns_match_as_in_gitignore() {
    check("*.lock", &["a.lock", "x/y/a.lock", ".lock", "a.lock/below"], &["a.lock2", "lock"]);
    check("cache", &["cache", "x/cache", "x/cache/y"], &["cache2", "x/acache"]);
    check("cache/", &["cache", "x/cache/y"], &["cache2"]);
    check("/cache", &["cache", "cache/y"], &["x/cache", "cache2"]);
    check("a/*.php", &["a/b.php", "a/b.php/c"], &["a/b/c.php", "x/a/b.php"]);
    check("**/b", &["b", "a/b", "a/x/b/c"], &["ab"]);
    check("a/**", &["a/b", "a/b/c"], &["a", "ab"]);
    check("a/**/b", &["a/b", "a/x/y/b"], &["ab", "a/xb"]);
    check("**", &["a", "a/b"], &[]);
    check("*", &["a", "a/b"], &[]);
    check(".*.flag", &[".maintenance.flag", "x/.a.flag"], &["a.flag"]);
    check("/{a,b}", &["a", "b/c"], &["c", "x/a"]);
    check("[a-c]?", &["ax"], &["dx", "a/x"]);
    check("a\\*", &["a*"], &["ab"]);
}

#[test]
fn the_pattern_that_decides_is_told() {
    let policy = policy(&[("*.php", Class::Config), ("var", Class::Local)]);
    let told = |p: &[u8]| policy.pattern_of(&path(p)).map(Pattern::as_str);
    assert_eq!((Some("*.php"), Some("var"), None), (told(b"a.php"), told(b"x/var/y"), told(b"a")));
}

#[test]
fn names_that_are_not_text_match_too() {
    let policy = policy(&[("*.lock", Class::Local), ("a?b", Class::Flag)]);
    assert_eq!(Class::Local, policy.class(&path(b"\xff\n/\xfe.lock")));
    assert_eq!(Class::Flag, policy.class(&path(b"a\xffb")));
    assert_eq!(Class::Normal, policy.class(&path(b"\xff")));
}

#[test]
fn the_first_rule_that_matches_wins() {
    let policy = policy(&[("*.php", Class::Config), ("*", Class::Release)]);
    assert_eq!(Class::Config, policy.class(&path(b"a.php")));
    assert_eq!(Class::Release, policy.class(&path(b"a.txt")));
}

#[test]
fn what_is_below_a_local_directory_is_local_whatever_an_earlier_rule_says() {
    let policy = policy(&[("*.php", Class::Config), ("/log", Class::Local)]);
    assert_eq!(Class::Local, policy.class(&path(b"log/a.php")));
    assert_eq!(Class::Local, policy.class(&path(b"log/deep/a.php")));
    assert_eq!(Class::Config, policy.class(&path(b"logs/a.php")));
    assert!(policy.skips(&path(b"log/deep")));
}

#[test]
fn only_the_content_is_local_when_the_pattern_says_so() {
    let policy = policy(&[("keep/a", Class::Flag), ("keep/**", Class::Local)]);
    assert!(!policy.skips(&path(b"keep")));
    assert_eq!(Class::Flag, policy.class(&path(b"keep/a")));
    assert_eq!(Class::Local, policy.class(&path(b"keep/b")));
}

#[test]
fn the_own_directory_is_always_local_and_the_root_never() {
    let all_flag = policy(&[("**", Class::Flag)]);
    assert!(all_flag.skips(&path(b".trefoil")));
    assert!(all_flag.skips(&path(b".trefoil/stage/x")));
    assert!(!all_flag.skips(&path(b"a/.trefoil")));
    assert!(!policy(&[("**", Class::Local)]).skips(&RelPath::root()));
}

#[test]
fn the_hash_depends_on_rules_classes_and_order() {
    let hash = |rules: &[(&str, Class)]| policy(rules).hash();
    let one = hash(&[("a", Class::Flag), ("b", Class::Local)]);
    assert_eq!(one, hash(&[("a", Class::Flag), ("b", Class::Local)]));
    assert_ne!(one, hash(&[("b", Class::Local), ("a", Class::Flag)]));
    assert_ne!(one, hash(&[("a", Class::Flag), ("b", Class::Flag)]));
    assert_ne!(one, hash(&[("ab", Class::Local)]));
}

#[test]
fn what_can_match_nothing_is_not_a_pattern() {
    for bad in ["", "/", "!a", "a//b", "../a", "a/./b", "[a", "{a", "a\0"] {
        assert!(Pattern::parse(bad).is_err(), "{bad:?}");
    }
    assert!(Pattern::parse(&"{a,".repeat(300)).is_err());
    assert!(Pattern::parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
}

#[test]
fn budgets_parse_and_print() {
    for (text, of_1000) in [("0", 0), ("50", 50), ("1%", 10), ("5 or 1%", 10), ("50 or 1%", 50)] {
        let budget: DeleteBudget = text.parse().unwrap();
        assert_eq!((text.to_owned(), of_1000), (budget.to_string(), budget.of(1000)));
        assert_eq!(text == "0", budget.is_nothing());
    }
    for bad in ["", "-1", "+1", "1 %", "101%", "1% or 50", "off", "50 or ", "99999999999999999999"]
    {
        assert_eq!(Err(UnknownBudget), bad.parse::<DeleteBudget>(), "{bad:?}");
    }
}

#[test]
fn class_names_parse_and_print() {
    for class in Class::ALL {
        assert_eq!(Ok(class), class.to_string().parse());
    }
    assert!("Config".parse::<Class>().is_err());
}

proptest! {
    #[test]
    fn any_pattern_and_any_path_have_an_answer(
        text in "[a-c/*?{},!\\[\\]\\\\.-]{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        if let (Ok(pattern), Ok(path)) = (Pattern::parse(&text), RelPath::parse(&bytes)) {
            let policy = Policy::new(vec![(pattern, Class::Local)], ClassTable::default()).unwrap();
            let local = policy.skips(&path);
            if let (true, Ok(child)) = (local, path.join(b"child")) {
                prop_assert!(policy.skips(&child));
            }
        }
    }
}
