//! How much the trash of a mount takes up, and making it less.
//!
//! In: a mount, how much may be, and what stays in any case. Out: how much is left. Which things go is
//! decided by [`excess()`]. One day of the trash is looked at at a time, the oldest first, so that a large
//! trash takes no large memory. It must never remove what is younger than it was told to.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::call::Refused;
use super::look::Look;
use super::mount::Mount;
use super::trash::{SECONDS_PER_DAY, open_folder, term};
use super::{displaced, scan, stage};
use crate::engine::{Kept, excess};

/// What `stat` counts in.
const BLOCK_BYTES: u64 = 512;

/// What became of a trash that had a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashSize {
    /// What it takes up of the disk.
    pub bytes: u64,
    /// How many things were removed.
    pub removed: u64,
}

/// A name in a day of the trash, and the number under which its path may be noted beside it.
type Name = (Box<[u8]>, Option<u64>);

/// Removes from the trash what is beyond `bytes_max`, the oldest first, and only what was put there
/// earlier than `before`, since 1970.
///
/// # Errors
/// What the operating system refused; the rest stays.
pub fn limit_trash(mount: &Mount, bytes_max: u64, before: Duration) -> Result<TrashSize, Refused> {
    let mut days = Vec::new();
    let mut bytes = 0_u64;
    for name in scan::names(&mount.trash, usize::MAX)? {
        let text = std::str::from_utf8(&name).ok();
        let Some(number) = text.and_then(|day| day.parse::<u64>().ok()) else { continue };
        let of_day = kept(&open_folder(mount, &name)?, number)?;
        bytes = of_day.iter().fold(bytes, |sum, one| sum.saturating_add(one.bytes));
        days.push((number, name));
    }
    days.sort_unstable();
    let mut removed = 0;
    for (number, name) in days {
        let begins = Duration::from_secs(number.saturating_mul(SECONDS_PER_DAY));
        if bytes <= bytes_max || begins >= before {
            break;
        }
        let dir = open_folder(mount, &name)?;
        for gone in excess(kept(&dir, number)?, bytes - bytes_max, before) {
            let (name, unique) = gone.what;
            stage::remove_any(&dir, &name)?;
            unique.iter().for_each(|&unique| displaced::remove_sidecars(&dir, unique));
            bytes = bytes.saturating_sub(gone.bytes);
            removed += 1;
        }
    }
    Ok(TrashSize { bytes, removed })
}

/// What lies in a day of the trash.
fn kept(dir: &OwnedFd, day: u64) -> Result<Vec<Kept<Name>>, Refused> {
    let mut all = Vec::new();
    for name in scan::names(dir, usize::MAX)? {
        let Some(term) = term(day, &name) else { continue };
        let Some(look) = Look::at(dir, &name)? else { continue };
        let since = Duration::from_secs(term.secs);
        let bytes = look.blocks.saturating_mul(BLOCK_BYTES);
        all.push(Kept { what: (name, term.unique), since, bytes });
    }
    Ok(all)
}
