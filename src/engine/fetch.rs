//! Content of wanted records: what is not at hand is fetched, a limited number at a time, each time
//! from another one of those who may have it.

use super::clock::Now;
use super::policy::Policy;
use super::problem::backoff_ms;
use super::want::{Content, Waits, Want};
use super::{Engine, Output};
use crate::model::{ContentId, Entry, Record, RelPath, limits};

impl Engine {
    pub(super) fn missing_content(
        &self,
        path: &RelPath,
        record: &Record,
        ours: Option<&Entry>,
    ) -> Option<(ContentId, u64)> {
        let entry = record.entry.as_ref()?;
        let (content, size) = entry.content()?;
        let in_place = ours.is_some_and(|ours| ours.same_kind_content(entry));
        let here = self.slots.get(path)?.want.as_ref()?.content == Content::Here;
        (size > 0 && !in_place && !here).then_some((content, size))
    }

    pub(super) fn fetch(&mut self, path: &RelPath, content: ContentId, size: u64) {
        let full = self.fetches >= limits::FETCHES_IN_FLIGHT_MAX;
        let Some(want) = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut()) else {
            return;
        };
        if want.content == Content::Fetching {
            return;
        }
        if full {
            self.fetches_waiting.push_back(path.clone());
            return;
        }
        want.content = Content::Fetching;
        self.fetches += 1;
        let peers = want.holders(content);
        let lane = Policy::lane(self.class(path));
        self.outputs.push_back(Output::Fetch { path: path.clone(), content, size, peers, lane });
    }

    pub(super) fn fetched(
        &mut self,
        now: Now,
        path: &RelPath,
        content: ContentId,
        result: Result<(), String>,
    ) {
        self.fetches -= 1;
        let want = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut());
        let wanted = |want: &&mut Want| want.content == Content::Fetching;
        if let Some(want) = want.filter(wanted) {
            let current = want.record.entry.as_ref().and_then(Entry::content);
            let right = current.is_some_and(|(id, _)| id == content);
            want.content = if right && result.is_ok() { Content::Here } else { Content::Absent };
            match result {
                Err(reason) if right => {
                    want.attempts += 1;
                    let wait = backoff_ms(want.attempts);
                    // A file that is written all the time changes under those who fetch it; its
                    // next version is on the way.
                    if want.attempts > 2 {
                        self.problems.note(now, path, reason, Some(wait));
                    }
                    self.retry_want(now, path, wait, Waits::Nothing);
                }
                _ => self.step(now, path),
            }
        }
        self.next_fetches(now);
    }

    /// Looks at as many waiting wants as there are free fetches. They are counted only once they
    /// are considered, so this is not repeated until there is room.
    pub(super) fn next_fetches(&mut self, now: Now) {
        for _ in self.fetches..limits::FETCHES_IN_FLIGHT_MAX {
            let Some(next) = self.fetches_waiting.pop_front() else { return };
            self.step(now, &next);
        }
    }
}
