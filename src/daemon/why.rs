//! `why`: what every node holds at one path, who made it, and what it waits for.
//!
//! In: a path of a mount. Out: one answer per member. It changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::ask::Question;
use super::verify::{ask, call, closing, encode, garbled, within};
use super::{ActorHandle, Shared};
use crate::control::types::{WhyNode, WhyRecord, WhyReply, timestamp};
use crate::engine::why::relation;
use crate::model::{Kind, NodeId, Record, RelPath};

/// The method by which another node is asked.
pub(super) const WHY: &str = "why";

/// How long a node may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What is asked of another node.
#[derive(Serialize, Deserialize)]
struct Request {
    mount: String,
    /// In hexadecimal.
    path: String,
}

/// What a node does at the path. Beside it goes its record, in the bytes of the index.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Doing {
    pub doing: Option<String>,
    /// In how many milliseconds it is looked at again.
    pub due_ms: Option<u64>,
    pub problem: Option<String>,
    /// Since when there is the problem, in nanoseconds since 1970.
    pub since_ns: Option<u64>,
}

type Held = (Option<Record>, Doing);

/// Answers another node. May block.
pub(super) fn answer(shared: &Shared, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let request: Request = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let bytes = data_encoding::HEXLOWER.decode(request.path.as_bytes()).ok();
    let path = bytes.and_then(|bytes| RelPath::parse(&bytes).ok()).ok_or("bad request")?;
    let actor = shared.actor(&request.mount).ok_or("this node has no such mount")?;
    let held = ask(&actor, |reply| Question::Why(path, reply)).blocking_recv();
    let (record, doing) = held.map_err(|_| closing())?;
    Ok(vec![encode(&doing), record.map_or_else(Vec::new, |record| record.encode())])
}

/// Asks every member, all at the same time.
pub(super) async fn why(
    shared: &Arc<Shared>,
    mount: &str,
    actor: &Arc<ActorHandle>,
    path: &RelPath,
) -> Vec<WhyNode> {
    let names = shared.names();
    let called = |id: NodeId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let ours = within(ANSWER_LIMIT, async {
        let held = ask(actor, |reply| Question::Why(path.clone(), reply)).await;
        held.map_err(|_| closing())
    });
    let mut asked = tokio::task::JoinSet::new();
    for id in shared.other_members() {
        let (shared, mount, path) = (shared.clone(), mount.to_owned(), path.clone());
        asked.spawn(async move { (id, held_by(&shared, &mount, id, &path).await) });
    }
    let (ours, answers) = tokio::join!(ours, asked.join_all());
    let known = ours.as_ref().ok().and_then(|(record, _)| record.clone());
    let mut nodes = vec![node(shared, called(shared.node), ours, None)];
    let mut others: Vec<_> = answers
        .into_iter()
        .map(|(id, held)| node(shared, called(id), held, Some(known.as_ref())))
        .collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.extend(others);
    nodes
}

async fn held_by(shared: &Shared, mount: &str, id: NodeId, path: &RelPath) -> Result<Held, String> {
    let path = data_encoding::HEXLOWER.encode(path.as_bytes());
    let request = Request { mount: mount.to_owned(), path };
    let pieces = within(ANSWER_LIMIT, call(shared, id, WHY, &request)).await?;
    let [doing, record] = &pieces[..] else { return Err(garbled()) };
    let doing = serde_json::from_slice(doing).map_err(|_| garbled())?;
    let record = (!record.is_empty()).then(|| Record::decode(record)).transpose();
    Ok((record.map_err(|_| garbled())?, doing))
}

/// `ours` is what this node holds, if the answer is another one's.
fn node(
    shared: &Shared,
    name: String,
    held: Result<Held, String>,
    ours: Option<Option<&Record>>,
) -> WhyNode {
    let (record, doing, error) = match held {
        Ok((record, doing)) => (record, doing, None),
        Err(error) => (None, Doing::default(), Some(error)),
    };
    let relation = ours.filter(|_| error.is_none()).map(|ours| relation(ours, record.as_ref()));
    let later = |ms: u64| timestamp(SystemTime::now() + Duration::from_millis(ms));
    WhyNode {
        name,
        record: record.map(|record| told(shared, &record)),
        relation: relation.map(str::to_owned),
        doing: doing.doing,
        next_retry: doing.due_ms.map(later),
        problem: doing.problem,
        problem_since: doing.since_ns.map(|ns| timestamp(UNIX_EPOCH + Duration::from_nanos(ns))),
        error,
    }
}

fn told(shared: &Shared, record: &Record) -> WhyRecord {
    let stamp = record.version.stamp;
    let names = shared.names();
    let author = names.iter().find(|(id, _)| id.is_by(stamp.node)).map(|(_, name)| name.clone());
    let entry = record.entry.as_ref();
    let (kind, bytes, content) = match entry.map(|entry| &entry.kind) {
        None => ("deleted", None, None),
        Some(Kind::Dir) => ("directory", None, None),
        Some(Kind::File { size, content, .. }) => ("file", Some(*size), Some(content.to_string())),
        Some(Kind::Symlink { .. }) => ("symlink", None, None),
    };
    WhyRecord {
        kind: kind.to_owned(),
        bytes,
        content,
        mode: entry.map(|entry| format!("{:04o}", entry.meta.mode)),
        author: author.unwrap_or_else(|| stamp.node.to_string()),
        edited: timestamp(UNIX_EPOCH + Duration::from_nanos(stamp.counter)),
        weak: record.version.weak,
    }
}

/// The reply to a command.
pub(super) fn reply(
    mount: &str,
    path: &RelPath,
    of: (String, String),
    nodes: Vec<WhyNode>,
) -> WhyReply {
    let (class, rule) = of;
    let knows = nodes.iter().any(|node| node.record.is_some());
    let same = |node: &WhyNode| match &node.relation {
        Some(relation) => relation.starts_with("the same edit") || node.record.is_none() && !knows,
        None => true,
    };
    let agreed = nodes.iter().all(|node| node.error.is_none() && same(node));
    WhyReply { mount: mount.to_owned(), path: path.to_string(), class, rule, agreed, nodes }
}
