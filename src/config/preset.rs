//! Class tables for known applications.
//!
//! In: a preset's name, and the mount's name and path, which tell which of the application's trees
//! it is. Out: rules relative to that mount. Pure.

use std::{fmt, path::Path};

use crate::engine::{Class, Pattern};

/// A tree of a Magento installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MagentoTree {
    /// `app/etc`.
    AppEtc,
    /// `pub/media`.
    Media,
    /// `pub/static`.
    Static,
    /// `var`.
    Var,
}

/// Ready rules for an application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// Magento 2, this tree of it.
    Magento(MagentoTree),
}

/// The classes of a Magento site, relative to its root; the first that matches wins. What starts
/// with `**/` holds in every tree.
const MAGENTO: &[(&str, Class)] = &[
    ("**/DELETING_*", Class::Local),
    ("**/*.lock", Class::Local),
    ("var/{log,report,cache,page_cache,session,tmp,locks}", Class::Local),
    ("var/{view_preprocessed,generation}", Class::Local),
    ("var/.*.flag", Class::Flag),
    ("var/.maintenance.ip", Class::Flag),
    ("app/etc/*.php", Class::Config),
    ("pub/static/deployed_version.txt", Class::Barrier),
    ("pub/static/**", Class::Release),
    ("pub/media/catalog/product/cache", Class::Derived),
    ("pub/media/**", Class::Precious),
];

/// Why a preset cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PresetError {
    /// No preset has this name.
    #[error("not a preset; allowed: {CHOICES}")]
    Unknown,
    /// Neither name nor path tell the tree, or they tell different ones.
    #[error("neither the mount's name nor its path tells which tree this is; allowed: {CHOICES}")]
    Undecidable,
}

const CHOICES: &str =
    "magento (tree by name or path), magento:app-etc, magento:media, magento:static, magento:var";

impl Preset {
    /// Parses `magento` or `magento:TREE`. Without a tree it is the one that the mount's name (such
    /// as `media`) or the tail of its path (such as `pub/media`) tells.
    ///
    /// # Errors
    /// [`PresetError`], when there is no such preset, or the tree is open or contradictory.
    pub fn parse(text: &str, mount_name: &str, mount_path: &Path) -> Result<Self, PresetError> {
        let (preset, tree) = match text.split_once(':') {
            Some((preset, tree)) => (preset, Some(tree)),
            None => (text, None),
        };
        if preset != "magento" {
            return Err(PresetError::Unknown);
        }
        let tree = match tree {
            Some(name) => MagentoTree::by_name(name).ok_or(PresetError::Unknown)?,
            None => match (MagentoTree::by_name(mount_name), MagentoTree::by_path(mount_path)) {
                (Some(a), Some(b)) if a != b => return Err(PresetError::Undecidable),
                (Some(tree), _) | (None, Some(tree)) => tree,
                (None, None) => return Err(PresetError::Undecidable),
            },
        };
        Ok(Self::Magento(tree))
    }

    /// The preset's rules, relative to the mount, in order.
    #[must_use]
    pub fn rules(self) -> Vec<(Pattern, Class)> {
        let Self::Magento(tree) = self;
        let relative = MAGENTO.iter().filter_map(|&(pattern, class)| {
            if pattern.starts_with("**/") {
                return Some((pattern.to_owned(), class));
            }
            let below = pattern.strip_prefix(tree.path())?;
            below.starts_with('/').then(|| (below.to_owned(), class))
        });
        relative
            .map(|(text, class)| {
                (Pattern::parse(&text).expect("a test parses every pattern of the table"), class)
            })
            .collect()
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Magento(tree) = self;
        f.pad(match tree {
            MagentoTree::AppEtc => "magento:app-etc",
            MagentoTree::Media => "magento:media",
            MagentoTree::Static => "magento:static",
            MagentoTree::Var => "magento:var",
        })
    }
}

impl MagentoTree {
    /// Every tree.
    pub const ALL: [Self; 4] = [Self::AppEtc, Self::Media, Self::Static, Self::Var];

    /// Where the tree is, relative to the site's root.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::AppEtc => "app/etc",
            Self::Media => "pub/media",
            Self::Static => "pub/static",
            Self::Var => "var",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        match name {
            "app-etc" | "app_etc" | "etc" => Some(Self::AppEtc),
            "media" | "pub-media" | "pub_media" => Some(Self::Media),
            "static" | "pub-static" | "pub_static" => Some(Self::Static),
            "var" => Some(Self::Var),
            _ => None,
        }
    }

    fn by_path(path: &Path) -> Option<Self> {
        Self::ALL.into_iter().find(|tree| path.ends_with(tree.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{ClassTable, Policy},
        model::RelPath,
    };

    #[track_caller]
    fn check(tree: MagentoTree, table: &[(&str, Class)]) {
        let policy = Policy::new(Preset::Magento(tree).rules(), ClassTable::default()).unwrap();
        for (path, class) in table {
            let parsed = RelPath::parse(path.as_bytes()).unwrap();
            assert_eq!(*class, policy.class(&parsed), "{tree:?} {path}");
        }
    }

    #[test]
    fn the_magento_table_is_that_of_the_design() {
        use Class::{Barrier, Config, Derived, Flag, Local, Normal, Precious, Release};
        check(
            MagentoTree::AppEtc,
            &[
                ("env.php", Config),
                ("config.php", Config),
                ("di.xml", Normal),
                ("vendor/x.php", Normal),
                ("env.php.lock", Local),
            ],
        );
        check(
            MagentoTree::Var,
            &[
                (".maintenance.flag", Flag),
                (".maintenance.ip", Flag),
                ("import/.maintenance.flag", Normal),
                ("log/system.log", Local),
                ("log", Local),
                ("import/log", Normal),
                ("page_cache/mage--1/x", Local),
                ("view_preprocessed/pub", Local),
                ("generation/x", Local),
                ("import/a.csv", Normal),
                ("import/a.csv.lock", Local),
            ],
        );
        check(
            MagentoTree::Media,
            &[
                ("catalog/product/a/b/ab.jpg", Precious),
                ("catalog/product/cache", Derived),
                ("catalog/product/cache/0f/a/b/ab.jpg", Derived),
                ("wysiwyg/cache/x", Precious),
                ("DELETING_cache_1/x", Local),
            ],
        );
        check(
            MagentoTree::Static,
            &[
                ("deployed_version.txt", Barrier),
                ("x/deployed_version.txt", Release),
                ("frontend/a.css", Release),
                ("DELETING_frontend/a.css", Local),
                ("x/DELETING_frontend", Local),
            ],
        );
    }

    #[test]
    fn name_or_path_tell_the_tree() {
        let magento = |tree| Ok(Preset::Magento(tree));
        let parse = |text, name, path: &str| Preset::parse(text, name, Path::new(path));
        assert_eq!(magento(MagentoTree::Media), parse("magento", "media", "/x"));
        assert_eq!(magento(MagentoTree::AppEtc), parse("magento", "x", "/srv/app/etc"));
        assert_eq!(magento(MagentoTree::Static), parse("magento", "static", "/srv/pub/static"));
        assert_eq!(magento(MagentoTree::Var), parse("magento:var", "media", "/srv/pub/media"));
        assert_eq!(Err(PresetError::Undecidable), parse("magento", "media", "/srv/pub/static"));
        assert_eq!(Err(PresetError::Undecidable), parse("magento", "x", "/srv/static"));
        assert_eq!(Err(PresetError::Unknown), parse("magento:log", "x", "/x"));
        assert_eq!(Err(PresetError::Unknown), parse("shopware", "x", "/x"));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for tree in MagentoTree::ALL {
            let preset = Preset::Magento(tree);
            assert_eq!(Ok(preset), Preset::parse(&preset.to_string(), "x", Path::new("/x")));
            assert!(!preset.rules().is_empty());
        }
    }
}
