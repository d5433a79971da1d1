//! Faults for tests: the n-th call with a label fails, or the process ends right there.
//!
//! In: the environment variable `TREFOIL_FAULT`, read once, at the first call. Out: what
//! [`Call::run`](super::call::Call::run) is told before and after each call. It must never do
//! anything unless a test asked for it: without the variable each call costs one load.
//!
//! The variable holds faults, with commas between them: `[THREAD/]LABEL:FROM[-TO]:WHAT`, as in
//! `apply/rename.create:2:kill-after`. `THREAD` is how the thread's name begins, calls are counted
//! from 1, `WHAT` is `EACCES`, `EDQUOT`, `EIO`, `ENOSPC`, `EROFS`, `kill-before` or `kill-after`.
//! The fault `list` logs each label once for each thread that reaches it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::Signal;

const VARIABLE: &str = "TREFOIL_FAULT";

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Fail(Errno),
    Kill(Moment),
}

#[derive(Debug)]
struct Fault {
    thread: String,
    label: String,
    from: u64,
    to: u64,
    what: What,
    calls: AtomicU64,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Vec<Fault>,
    list: bool,
    listed: Mutex<BTreeSet<(String, &'static str)>>,
}

/// To be called before the call `label` is made: the error that it is to fail with instead.
#[inline]
pub(crate) fn before(label: &'static str) -> Result<(), Errno> {
    #[cfg(test)]
    hook::tell(label, Moment::Before)?;
    match plan() {
        None => Ok(()),
        Some(plan) => plan.before(label),
    }
}

/// To be called after it was made.
#[inline]
pub(crate) fn after(label: &'static str) {
    #[cfg(test)]
    hook::tell(label, Moment::After).unwrap_or_default();
    if let Some(plan) = plan() {
        plan.after(label);
    }
}

#[inline]
fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(read).as_ref()
}

#[cold]
fn read() -> Option<Plan> {
    let text = std::env::var_os(VARIABLE)?;
    let text = text.to_string_lossy();
    let Some(plan) = Plan::parse(&text) else {
        // A test whose fault is not understood must not pass.
        tracing::error!(faults = &*text, "cannot read {VARIABLE}");
        std::process::abort();
    };
    tracing::warn!(faults = &*text, "calls are made to fail, for a test");
    Some(plan)
}

impl Plan {
    fn parse(text: &str) -> Option<Self> {
        let mut plan = Self::default();
        for part in text.split(',') {
            match part {
                "list" => plan.list = true,
                fault => plan.faults.push(Fault::parse(fault)?),
            }
        }
        Some(plan)
    }

    fn before(&self, label: &'static str) -> Result<(), Errno> {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        if self.list {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            if listed.insert((thread.to_owned(), label)) {
                tracing::info!(label, thread, "reached");
            }
        }
        for fault in self.faults.iter().filter(|fault| fault.is_of(label, thread)) {
            let call = fault.calls.fetch_add(1, Ordering::Relaxed) + 1;
            match fault.what {
                _ if !fault.is_due(call) => {}
                What::Fail(errno) => return Err(errno),
                What::Kill(Moment::Before) => kill(),
                What::Kill(Moment::After) => {}
            }
        }
        Ok(())
    }

    fn after(&self, label: &'static str) {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        for fault in self.faults.iter().filter(|fault| fault.is_of(label, thread)) {
            let due = fault.is_due(fault.calls.load(Ordering::Relaxed));
            if due && fault.what == What::Kill(Moment::After) {
                kill();
            }
        }
    }
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (rest, what) = text.rsplit_once(':')?;
        let (place, calls) = rest.rsplit_once(':')?;
        let (thread, label) = place.rsplit_once('/').unwrap_or(("", place));
        let (from, to) = calls.split_once('-').unwrap_or((calls, calls));
        Some(Self {
            thread: thread.to_owned(),
            label: label.to_owned(),
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            what: What::parse(what)?,
            calls: AtomicU64::new(0),
        })
    }

    fn is_of(&self, label: &str, thread: &str) -> bool {
        self.label == label && thread.starts_with(&self.thread)
    }

    fn is_due(&self, call: u64) -> bool {
        (self.from..=self.to).contains(&call)
    }
}

impl What {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "EACCES" => Self::Fail(Errno::ACCESS),
            "EDQUOT" => Self::Fail(Errno::DQUOT),
            "EIO" => Self::Fail(Errno::IO),
            "ENOSPC" => Self::Fail(Errno::NOSPC),
            "EROFS" => Self::Fail(Errno::ROFS),
            "kill-before" => Self::Kill(Moment::Before),
            "kill-after" => Self::Kill(Moment::After),
            _ => return None,
        })
    }
}

/// Ends the process as `kill -9` does: nothing is flushed, nothing is tidied up.
#[cold]
fn kill() -> ! {
    // It does not come back from here; should it be refused, this ends the process all the same.
    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap_or_default();
    std::process::abort()
}

/// A closure that unit tests are called back with, on the thread that set it.
#[cfg(test)]
pub(crate) mod hook {
    use std::cell::RefCell;

    use rustix::io::Errno;

    use super::Moment;

    type Hook<'a> = dyn FnMut(&'static str, Moment) -> Option<Errno> + 'a;

    thread_local! {
        static HOOK: RefCell<Option<Box<Hook<'static>>>> = const { RefCell::new(None) };
    }

    /// Calls `hook` before and after each call that `work` makes on this thread; what it gives
    /// before one is how that fails. Calls that it makes itself are not told.
    pub(crate) fn during<T>(
        hook: impl FnMut(&'static str, Moment) -> Option<Errno> + 'static,
        work: impl FnOnce() -> T,
    ) -> T {
        HOOK.with(|cell| *cell.borrow_mut() = Some(Box::new(hook)));
        let value = work();
        HOOK.with(|cell| drop(cell.borrow_mut().take()));
        value
    }

    pub(super) fn tell(label: &'static str, moment: Moment) -> Result<(), Errno> {
        let Some(mut hook) = HOOK.with(|cell| cell.borrow_mut().take()) else { return Ok(()) };
        let told = hook(label, moment);
        HOOK.with(|cell| *cell.borrow_mut() = Some(hook));
        told.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_thread_label_calls_and_what_happens() {
        let fault = Fault::parse("apply pub/media/rename.apply:2-3:EIO").unwrap();
        assert!(fault.is_of("rename.apply", "apply pub/media"));
        assert!(!fault.is_of("rename.apply", "read pub/media"));
        assert!(!fault.is_of("rename.create", "apply pub/media"));
        assert_eq!([false, true, true, false], [1, 2, 3, 4].map(|call| fault.is_due(call)));
        for text in ["", "a.b", "a.b:1", "a.b:x:EIO", "a.b:1:EXDEV"] {
            assert!(Fault::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn only_the_calls_that_were_named_fail() {
        let plan = Plan::parse("list,a.b:2:ENOSPC").unwrap();
        assert_eq!(Ok(()), plan.before("a.b"));
        assert_eq!(Ok(()), plan.before("a.c"));
        assert_eq!(Err(Errno::NOSPC), plan.before("a.b"));
        assert_eq!(Ok(()), plan.before("a.b"));
    }
}
