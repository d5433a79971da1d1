//! Writes what a web shop has: code, images, a release, and what makes mirroring hard.
//!
//! In: the root of the shop. Everything is the same in every run. Only files that are mirrored are
//! written, by plain calls as any program makes them.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

/// Images below `pub/media`.
const IMAGES: u64 = 160;
/// Files of a theme in one language.
const THEME_FILES: u64 = 60;
/// Size of the one large file.
pub(super) const LARGE_BYTES: usize = 20 << 20;

/// Some of the names that programs get wrong.
const ODD_NAMES: [&[u8]; 11] = [
    b"caf\xe9 \xff.txt", // not UTF-8
    b"new\nline\ttab.txt",
    b" leading and trailing ",
    b"-rf",
    b"back\\slash",
    b"quo\"te'd",
    b"*?[star]",
    b"\xf0\x9f\x9b\x92 \xe2\x9c\x93.txt",
    b".hidden",
    b"...",
    b"\x01\x7f",
];

/// Bytes that do not compress and are the same for the same seed.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

/// Writes a file, and the directories above it.
pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    fs::write(path, content)
}

/// Writes everything but `pub/static`.
pub(super) fn plant(site: &Path) -> io::Result<()> {
    plant_settings(&site.join("app/etc"))?;
    plant_media(&site.join("pub/media"))?;
    plant_var(&site.join("var"))
}

fn plant_settings(etc: &Path) -> io::Result<()> {
    let mut env = b"<?php\nreturn ['db' => ['host' => 'db1', 'password' => '".to_vec();
    env.extend(noise(1, 24).iter().map(|byte| b'a' + byte % 26));
    env.extend(b"']];\n");
    write(&etc.join("env.php"), env)?;
    fs::set_permissions(etc.join("env.php"), Permissions::from_mode(0o640))?;
    let modules: String = (0..300).map(|n| format!("        'Vendor_Module{n}' => 1,\n")).collect();
    write(&etc.join("config.php"), format!("<?php\nreturn ['modules' => [\n{modules}]];\n"))?;
    for name in ["di.xml", "vendor_path.php", "registration_globlist.php", "db_schema.xml"] {
        write(&etc.join(name), format!("<!-- {name} -->\n"))?;
    }
    Ok(())
}

fn plant_media(media: &Path) -> io::Result<()> {
    for n in 0..IMAGES {
        let name = format!("{n:04x}.jpg");
        let (a, b) = (n % 8, n / 8 % 6);
        let bytes = 2_000 + usize::try_from(n * 331 % 46_000).unwrap_or(0);
        write(&media.join(format!("catalog/product/{a}/{b}/{name}")), noise(n, bytes))?;
        if n % 4 == 0 {
            let small = media.join(format!("catalog/product/cache/1f/{a}/{b}/{name}"));
            write(&small, noise(n + 1_000, 1_500))?;
        }
    }
    let first = media.join("catalog/product/0/0/0000.jpg");
    fs::hard_link(&first, media.join("catalog/product/0/0/twin.jpg"))?;
    write(&media.join("video/tour.mp4"), noise(2, LARGE_BYTES))?;
    let mut sparse = File::create(media.join("video/preview.bin"))?;
    sparse.seek(SeekFrom::Start(2 << 20))?;
    sparse.write_all(b"the end")?;
    plant_odd(&media.join("wysiwyg"))?;
    plant_metadata(&media.join("import"))
}

fn plant_odd(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let longest = [b'n'; 255];
    for name in ODD_NAMES.into_iter().chain([longest.as_slice()]) {
        fs::write(folder.join(OsStr::from_bytes(name)), name)?;
    }
    let deep = folder.join(vec!["deep"; 40].join("/"));
    write(&deep.join("down.txt"), "far down")?;
    fs::write(folder.join("empty"), "")?;
    fs::create_dir_all(folder.join("nothing/at/all"))?;
    symlink("../catalog/product/0/0/0000.jpg", folder.join("hero.jpg"))?;
    symlink("not/there/yet", folder.join("dangling"))?;
    symlink("/var/www/nowhere/at/all", folder.join("absolute"))?;
    symlink("..", folder.join("up"))
}

fn plant_metadata(folder: &Path) -> io::Result<()> {
    let modes = [0o400, 0o440, 0o600, 0o666, 0o755, 0o4755, 0o2711, 0o1644];
    // The year 1960, the last second before 1970, 2001 and 2099.
    let times = [-315_619_200, -1, 1_000_000_000, 4_070_908_800];
    for (n, mode) in (0..).zip(modes) {
        let path = folder.join(format!("mode-{mode:04o}.csv"));
        write(&path, format!("sku;qty\n{mode};1\n"))?;
        let seconds = times[n % times.len()];
        set_time(&path, seconds, 123_456_789)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    let tagged = folder.join("tagged.csv");
    write(&tagged, "sku;qty\n")?;
    // Not every file system has attributes of users.
    match rustix::fs::setxattr(&tagged, "user.supplier", b"acme", XattrFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
        Err(error) => return Err(error.into()),
    }
    if rustix::process::geteuid().is_root() {
        chown(&tagged, Some(33), Some(33))?;
    }
    symlink("tagged.csv", folder.join("latest.csv"))?;
    set_time(&folder.join("latest.csv"), 1_234_567_890, 5)?;
    fs::create_dir(folder.join("drop"))?;
    fs::set_permissions(folder.join("drop"), Permissions::from_mode(0o2770))?;
    set_time(&folder.join("drop"), 1_000_000_000, 1)
}

fn set_time(path: &Path, tv_sec: i64, tv_nsec: i64) -> io::Result<()> {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn plant_var(var: &Path) -> io::Result<()> {
    for n in 0..20 {
        write(&var.join(format!("export/orders-{n:02}.csv")), noise(n + 3_000, 700))?;
        write(&var.join(format!("import_history/{n:02}/rows.json")), format!("[{n}]\n"))?;
    }
    fs::create_dir_all(var.join("importexport"))?;
    write(&var.join(".update_cronjob_status"), "ready\n")
}

/// Writes a release into `pub/static`, and, when everything else is there, the file that switches
/// to it.
pub(super) fn release(site: &Path, version: &str) -> io::Result<()> {
    let root = site.join("pub/static");
    for (theme, language) in [("luma", "en_US"), ("luma", "de_DE"), ("blank", "en_US")] {
        let folder = root.join("frontend/Magento").join(theme).join(language);
        for n in 0..THEME_FILES {
            let (name, bytes) = match n % 3 {
                0 => (format!("css/part-{n}.css"), 3_000),
                1 => (format!("js/module/{}/view-{n}.js", n % 7), 1_200),
                _ => (format!("images/icon-{n}.svg"), 500),
            };
            let text = format!("/* {version} {theme} {language} {n} */\n");
            let count = bytes / text.len() + 1;
            write(&folder.join(name), text.repeat(count))?;
        }
        symlink("../../../../../../vendor/acme/lib.js", folder.join("js/lib.js"))?;
    }
    fs::write(root.join("deployed_version.txt"), version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::compare::{Description, Kind, describe};

    #[test]
    fn a_shop_has_what_makes_mirroring_hard() {
        let site = tempfile::tempdir().unwrap();
        plant(site.path()).unwrap();
        release(site.path(), "7").unwrap();
        let tree = describe(site.path()).unwrap();
        let any = |holds: &dyn Fn(&Description) -> bool| tree.values().any(holds);
        assert!((500..2_000).contains(&tree.len()), "{} entries", tree.len());
        assert!(any(&|it| matches!(&it.kind, Kind::File { bytes, .. } if *bytes == 20 << 20)));
        assert!(any(&|it| matches!(&it.kind, Kind::File { linked: Some(_), .. })));
        assert!(any(&|it| matches!(&it.kind, Kind::Symlink { target } if target[0] == b'/')));
        assert!(any(&|it| it.mode == 0o4755) && any(&|it| it.mtime == (-1, 123_456_789)));
        assert!(tree.keys().any(|path| std::str::from_utf8(path).is_err()));
    }

    #[test]
    fn noise_is_the_same_for_the_same_seed() {
        assert_eq!(noise(1, 9), noise(1, 9));
        assert_ne!(noise(1, 9), noise(2, 9));
    }
}
