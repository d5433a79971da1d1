//! Content from a peer by pieces: what of it is at its path already is copied from there, and only
//! the rest is sent.
//!
//! The peer gives the content's recipe while what is here is read for its own; both are kept for the
//! next change. Whatever recipes say, what is put together is hashed as a whole like any content.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;
use super::fetch::fetch_into;
use crate::disk::{self, Content, Mount, Origin, Recipe, StageError, Staged};
use crate::model::limits::RANGES_MAX;
use crate::model::{ContentId, RelPath};
use crate::net::{FetchRequest, LinkHandle, Request, RpcError};

/// The method that gives a content's recipe; it is given a fetch request for the content.
pub(super) const RECIPE: &str = "content.recipe";

/// Pieces of all recipes that are kept, twenty bytes each.
const PIECES_MAX: usize = 256 << 10;

/// Of what is fetched, in percent: with more of it to be sent, all of it is.
const SENT_PERCENT_MAX: u64 = 90;

/// Why content did not come by pieces.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeltaError {
    /// It has to be fetched as a whole.
    #[error("{0}")]
    Useless(&'static str),
    /// As for a whole.
    #[error("{0}")]
    Failed(String),
}

/// A content that is here, and where.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub content: ContentId,
    pub path: RelPath,
}

/// Recipes of the contents that were last compared. Each is made once, however many ask.
#[derive(Debug, Default)]
pub(crate) struct Recipes(Mutex<VecDeque<(ContentId, Arc<Slot>)>>);

type Slot = Mutex<Option<Arc<Recipe>>>;

impl Recipes {
    /// The recipe of a content, made if it is not kept. Blocks while another thread makes it.
    fn of(
        &self,
        content: ContentId,
        make: impl FnOnce() -> io::Result<Recipe>,
    ) -> io::Result<Arc<Recipe>> {
        let slot = self.slot(content);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recipe) = slot.as_ref() {
            return Ok(recipe.clone());
        }
        let recipe = Arc::new(make()?);
        *slot = Some(recipe.clone());
        drop(slot);
        self.limit();
        Ok(recipe)
    }

    fn put(&self, content: ContentId, recipe: Arc<Recipe>) {
        *self.slot(content).lock().unwrap_or_else(PoisonError::into_inner) = Some(recipe);
        self.limit();
    }

    /// The content's place, which is the newest then.
    fn slot(&self, content: ContentId) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slots.iter().position(|(id, _)| *id == content);
        let slot = known.and_then(|at| slots.remove(at)).map(|(_, slot)| slot).unwrap_or_default();
        slots.push_back((content, slot.clone()));
        slot
    }

    fn limit(&self) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being made has no length yet.
        let length = |slot: &Slot| slot.try_lock().map_or(0, |s| s.as_ref().map_or(1, |r| r.len()));
        let mut pieces: usize = slots.iter().map(|(_, slot)| length(slot)).sum();
        while pieces > PIECES_MAX
            && let Some((_, oldest)) = slots.pop_front()
        {
            pieces -= length(&oldest);
        }
    }
}

/// Answers a peer that wants to compare. May block.
pub(super) fn answer(shared: &Shared, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let Ok(Some(Request::Fetch(request))) = Request::decode(body) else {
        return Err("bad request".to_owned());
    };
    let missing = || "this node does not have the content".to_owned();
    let actor = shared.actor(&request.mount).ok_or_else(missing)?;
    let make = || Recipe::of(content_of(&actor.mount, &request).ok_or(io::ErrorKind::NotFound)?);
    let recipe = shared.recipes.of(request.content, make).map_err(|_| missing())?;
    Ok(recipe.encode())
}

/// The content that is asked for: at its path, or on its way there.
pub(super) fn content_of(mount: &Mount, request: &FetchRequest) -> Option<Content> {
    let at_path = disk::open_content(mount, &request.path).ok();
    let right = at_path.filter(|file| file.size().is_ok_and(|size| size == request.size));
    right.or_else(|| disk::open_staged(mount, request.content).ok().flatten())
}

/// Fetches content of which parts are here. `done` is called when it is complete in the stage, or
/// why not; what was staged until then is good as far as it goes.
pub(super) fn fetch(
    shared: Arc<Shared>,
    link: &LinkHandle,
    (staged, base, mount): (Staged, Base, Arc<Mount>),
    request: FetchRequest,
    done: impl FnOnce(Result<(), DeltaError>) + Send + 'static,
) {
    let (on, link) = (link.clone(), link.clone());
    on.spawn(async move {
        let question = Request::Fetch(request.clone()).encode();
        let of_base = {
            let (shared, base, mount) = (shared.clone(), base.clone(), mount.clone());
            tokio::task::spawn_blocking(move || {
                let file = disk::open_content(&mount, &base.path).map_err(io::Error::other)?;
                shared.recipes.of(base.content, || Recipe::of(file))
            })
        };
        let (here, there) = tokio::join!(of_base, link.rpc(RECIPE, question));
        let recipes = both(here.map_err(io::Error::other).flatten(), there, request.size);
        let begun = recipes.and_then(|(here, there)| {
            let plan = there.plan(&here, staged.offset());
            let there = Arc::new(there);
            Assembly::begin(staged, &mount, &base, plan).map(|assembly| (assembly, there))
        });
        let (assembly, recipe) = match begun {
            Ok(begun) => begun,
            Err(error) => return drop(tokio::task::spawn_blocking(|| done(Err(error)))),
        };
        let content = request.content;
        let done = move |result: Result<(), DeltaError>| {
            if result.is_ok() {
                shared.recipes.put(content, recipe);
            }
            done(result);
        };
        assembly.run(&link, request, done);
    });
}

fn both(
    here: io::Result<Arc<Recipe>>,
    there: Result<Vec<Vec<u8>>, RpcError>,
    size: u64,
) -> Result<(Arc<Recipe>, Recipe), DeltaError> {
    let useless = DeltaError::Useless;
    let here = here.map_err(|_| useless("what is at the path cannot be read"))?;
    match there {
        Ok(there) => {
            let there = Recipe::decode(&there, size);
            Ok((here, there.ok_or_else(|| useless("the recipe is of another content"))?))
        }
        Err(RpcError::Closed) => Err(DeltaError::Failed("cannot fetch: link is closed".to_owned())),
        Err(_) => Err(useless("the peer gives no recipe")),
    }
}

/// Content that is put together in the stage.
struct Assembly {
    staged: Staged,
    base: Content,
    /// What is still to come.
    plan: VecDeque<(Origin, u64)>,
}

impl Assembly {
    fn begin(
        staged: Staged,
        mount: &Mount,
        base: &Base,
        plan: Vec<(Origin, u64)>,
    ) -> Result<Self, DeltaError> {
        let sent = plan.iter().filter(|part| part.0 == Origin::There);
        let (ranges, bytes) = sent.fold((0, 0), |(n, bytes), part| (n + 1, bytes + part.1));
        let rest = staged.size() - staged.offset();
        if ranges > RANGES_MAX || bytes > rest / 100 * SENT_PERCENT_MAX {
            return Err(DeltaError::Useless("too little of it is here"));
        }
        let path = base.path.to_string();
        tracing::info!(path, sent = bytes, of = rest, "only what is not here is sent");
        let base = disk::open_content(mount, &base.path)
            .map_err(|_| DeltaError::Useless("what is at the path cannot be read"))?;
        Ok(Self { staged, base, plan: plan.into() })
    }

    fn run(
        self,
        link: &LinkHandle,
        mut request: FetchRequest,
        done: impl FnOnce(Result<(), DeltaError>) + Send + 'static,
    ) {
        let mut at = self.staged.offset();
        for &(origin, length) in &self.plan {
            if origin == Origin::There {
                request.ranges.push((at, length));
            }
            at += length;
        }
        if request.ranges.is_empty() {
            drop(tokio::task::spawn_blocking(move || done(self.finish())));
            return;
        }
        fetch_into(link, request, self, Self::take, move |result| {
            done(result.map_err(DeltaError::Failed).and_then(Self::finish));
        });
    }

    /// Takes what was sent, each part in its place.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), StageError> {
        while !bytes.is_empty() {
            self.copy()?;
            let Some((_, length)) = self.plan.front_mut() else { return Err(StageError::TooLong) };
            let n = usize::try_from(*length).unwrap_or(usize::MAX).min(bytes.len());
            self.staged.write(&bytes[..n])?;
            bytes = &bytes[n..];
            *length -= n as u64;
            if *length == 0 {
                self.plan.pop_front();
            }
        }
        Ok(())
    }

    /// Copies what is here, up to the next part that is sent.
    fn copy(&mut self) -> Result<(), StageError> {
        while let Some(&(Origin::Here(from), length)) = self.plan.front() {
            self.staged.copy(&self.base, from, length)?;
            self.plan.pop_front();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), DeltaError> {
        match self.copy().and_then(|()| self.staged.finish()) {
            Ok(()) => Ok(()),
            Err(StageError::Mismatch | StageError::TooShort) => {
                Err(DeltaError::Useless("what is at the path is not what it was"))
            }
            Err(error) => Err(DeltaError::Failed(super::chain(&error))),
        }
    }
}
