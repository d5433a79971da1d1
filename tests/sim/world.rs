//! The whole: nodes, links, virtual time, and the queue of what is to happen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use trefoil::engine::clock::Now;
use trefoil::engine::{Class, ClassTable, DeleteBudget, Engine, Input, Pattern, Policy, Setup};
use trefoil::model::{Incarnation, Mtime, NodeId, Record, RelPath};

use crate::disk::kernel_time;
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::mirror::{Feed, Task};
use crate::net::{Link, Parcel};
use crate::node::Node;
use crate::profile::{BUDGETS, Generation, Profile};
use crate::rng::Rng;

/// Virtual time, in microseconds.
pub type Micros = u64;

pub const MS: Micros = 1000;
pub const SECOND: Micros = 1_000_000;

/// Nanoseconds since 1970 when a run starts.
const EPOCH_NS: u64 = 1_800_000_000_000_000_000;

/// After this long with no operations and no faults everything must have settled: nodes that are down
/// start within 80 s, files stay open for 40 s, and nothing waits longer than a minute to be tried again.
const SETTLE: Micros = 600 * SECOND;

/// How far the authors of one node are apart.
pub const AUTHORS: u64 = 1000;

/// How far the counter of stamps goes on at most when a daemon starts.
const START_STEP_NS: u64 = 1_000_000_000;

const STEPS_MAX: u64 = 400_000;

#[derive(Debug)]
pub enum Event {
    /// An application does something.
    Op,
    /// A writer goes on.
    Write {
        node: usize,
        writer: u64,
    },
    /// The watcher's queue is read.
    Flush {
        node: usize,
        life: u64,
    },
    /// A worker looks at the disk.
    Look {
        node: usize,
        life: u64,
        task: Task,
    },
    /// Work comes back.
    Answer {
        node: usize,
        life: u64,
        feeds: Vec<Feed>,
    },
    /// The next apply of the group is done.
    Apply {
        node: usize,
        life: u64,
    },
    Tick {
        node: usize,
        life: u64,
        at_ms: u64,
    },
    Deliver {
        from: usize,
        to: usize,
        epoch: u64,
        parcel: Parcel,
    },
    Pump {
        from: usize,
        to: usize,
        epoch: u64,
    },
    Connect {
        a: usize,
        b: usize,
    },
    Fault(Fault),
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub profile: Profile,
    pub policy: Arc<Policy>,
    pub now: Micros,
    pub queue: BTreeMap<(Micros, u64), Event>,
    next_event: u64,
    pub nodes: Vec<Node>,
    pub links: BTreeMap<(usize, usize), Link>,
    pub ledger: Ledger,
    pub failure: Option<String>,
    pub next_id: u64,
    /// Faults are over.
    pub healed: bool,
    steps: u64,
    hash: u64,
    pub traces: Option<VecDeque<String>>,
    pub print: bool,
}

/// What a run came to.
pub struct Report {
    pub failure: Option<String>,
    pub hash: u64,
    pub steps: u64,
    pub applied: u64,
    /// How long it took to settle once all was well.
    pub settled: Micros,
    pub trace: VecDeque<String>,
}

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).expect("a path")
}

thread_local! {
    /// Made once for a thread: that takes longer than some histories. Without a budget, and with each.
    static POLICIES: Vec<Arc<Policy>> = {
        let budgets = std::iter::once(None).chain((0..BUDGETS).map(Some));
        budgets.map(|budget| Arc::new(policy(budget))).collect()
    };
}

fn policy(budget: Option<u64>) -> Policy {
    let rules = [
        ("*.bar", Class::Barrier),
        ("*.conf", Class::Config),
        ("*.flag", Class::Flag),
        ("*.rel", Class::Release),
        ("*.der", Class::Derived),
        ("*.loc", Class::Local),
    ];
    let rules = rules.map(|(text, class)| (Pattern::parse(text).expect("a pattern"), class));
    let mut classes = ClassTable::default();
    for class in Class::ALL {
        let limited = matches!(class, Class::Normal | Class::Config | Class::Derived);
        let budget = budget.filter(|_| limited);
        let budget = budget.map(|files| DeleteBudget { files, percent: 0 });
        classes.get_mut(class).delete_budget = budget;
    }
    Policy::new(rules.to_vec(), classes).expect("a policy")
}

impl World {
    pub fn new(seed: u64, generation: Generation) -> Self {
        let mut rng = Rng::new(seed);
        let mut profile = Profile::draw(&mut rng);
        if generation == Generation::Second {
            profile = profile.with_more(&mut Rng::new(!seed));
        }
        let which =
            profile.more.budget.map_or(0, |budget| 1 + usize::try_from(budget).expect("small"));
        let mut world = Self {
            seed,
            rng,
            policy: POLICIES.with(|all| Arc::clone(&all[which])),
            now: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            nodes: Vec::new(),
            links: BTreeMap::new(),
            ledger: Ledger::default(),
            failure: None,
            next_id: 1,
            healed: false,
            steps: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            traces: None,
            print: false,
            profile,
        };
        for at in 0..world.profile.nodes {
            world.add_node(at);
        }
        world
    }

    fn add_node(&mut self, at: usize) {
        let skew_ns = self.profile.draw_skew(&mut self.rng);
        let id = NodeId(100 + at as u64);
        let incarnation = Incarnation(self.fresh_id());
        let notes = self.profile.more.backups > 0;
        self.nodes.push(Node { notes, ..Node::new(id, incarnation, skew_ns) });
        for other in 0..at {
            self.links.insert((other, at), Link::default());
        }
    }

    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Runs the whole history and judges it.
    pub fn run(mut self) -> Report {
        self.note(|w| format!("seed {} {:?}", w.seed, w.profile));
        let late = self.profile.late_joiner;
        for at in 0..self.nodes.len() {
            if late && at + 1 == self.nodes.len() {
                let when = self.rng.below(self.profile.length);
                self.schedule(when, Event::Fault(Fault::Join(at)));
            } else {
                self.power_on(at, false);
            }
        }
        self.plan_operations();
        self.plan_faults();
        let end = self.profile.length;
        self.go_on(|w| w.now >= end);
        self.heal();
        let healed = self.now;
        let settle_by = healed + SETTLE;
        self.go_on(|w| w.now >= settle_by);
        if self.failure.is_none() && !self.queue.is_empty() {
            self.fail(format!("did not settle within ten minutes: {}", self.describe()));
        }
        self.judge();
        let settled = self.now - healed;
        let applied = self.ledger.applied;
        let trace = self.traces.take().unwrap_or_default();
        Report {
            failure: self.failure,
            hash: self.hash,
            steps: self.steps,
            applied,
            settled,
            trace,
        }
    }

    fn go_on(&mut self, until: impl Fn(&Self) -> bool) {
        while self.failure.is_none() {
            let Some(next) = self.queue.first_entry() else { return };
            let now = next.key().0;
            self.now = self.now.max(now);
            if until(self) {
                return;
            }
            let Some((_, event)) = self.queue.pop_first() else { return };
            self.steps += 1;
            if self.steps > STEPS_MAX.min(self.profile.operations * 2_000 + 20_000) {
                self.fail(format!("did not settle in {STEPS_MAX} steps: {}", self.describe()));
                return;
            }
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        self.mix(self.now);
        match event {
            Event::Op => self.operate(),
            Event::Write { node, writer } => self.write_on(node, writer),
            Event::Flush { node, life } if self.is_life(node, life) => {
                self.nodes[node].flushing = false;
                self.flush_hints(node);
            }
            Event::Look { node, life, task } if self.is_life(node, life) => self.look(node, task),
            Event::Answer { node, life, feeds } if self.is_life(node, life) => {
                self.feed(node, feeds);
            }
            Event::Apply { node, life } if self.is_life(node, life) => self.apply_next(node),
            Event::Tick { node, life, at_ms }
                if self.is_life(node, life) && self.nodes[node].tick_at == Some(at_ms) =>
            {
                self.nodes[node].tick_at = None;
                self.feed(node, vec![Feed::Tick]);
            }
            Event::Deliver { from, to, epoch, parcel } => self.deliver(from, to, epoch, parcel),
            Event::Pump { from, to, epoch } if self.link(from, to).epoch == epoch => {
                self.pump(from, to);
            }
            Event::Connect { a, b } => self.connect(a, b),
            Event::Fault(fault) => self.strike(fault),
            _ => {}
        }
    }

    fn is_life(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].engine.is_some()
    }

    pub fn schedule(&mut self, in_us: Micros, event: Event) {
        self.next_event += 1;
        self.queue.insert((self.now + in_us, self.next_event), event);
    }

    pub fn schedule_at(&mut self, at: Micros, event: Event) {
        self.schedule(at.saturating_sub(self.now), event);
    }

    pub fn wall_ns(&self, node: usize) -> u64 {
        (EPOCH_NS + self.now * 1000).saturating_add_signed(self.nodes[node].skew_ns)
    }

    pub fn kernel_time(&self, node: usize) -> Mtime {
        kernel_time(self.wall_ns(node), self.nodes[node].skew_ns)
    }

    pub fn clock(&self, node: usize) -> Now {
        Now { monotonic_ms: self.now / MS, wall_ns: self.wall_ns(node) }
    }

    pub fn node_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Starts a daemon: what is in the journal first, then a full scan.
    pub fn power_on(&mut self, at: usize, joining: bool) {
        let policy = Arc::clone(&self.policy);
        let joining = self.check_note(at) || joining;
        let node = &mut self.nodes[at];
        node.index.joining |= joining;
        let joining = node.index.joining;
        node.note_index();
        node.powered = true;
        node.index.part_all();
        let step = if node.notes { self.rng.below(START_STEP_NS) } else { 0 };
        let (node_id, last_counter) = (node.author, node.index.last_counter);
        let held_classes = node.index.held_classes.clone();
        let keeps_owners = true;
        let share = self.profile.share();
        let setup = Setup {
            node: node_id,
            policy,
            keeps_owners,
            joining,
            last_counter,
            counter_step: step,
            held_classes,
            share,
        };
        node.engine = Some(Box::new(Engine::new(setup)));
        node.life += 1;
        node.scanning = true;
        let was_visible = std::mem::take(&mut node.visible);
        let journal: Vec<Record> = node.index.journal.values().cloned().collect();
        self.note(|_| format!("n{at} starts, joining {joining}, journal {}", journal.len()));
        let journaled = |record: Record| {
            let visible = was_visible.get(&record.path) == Some(&record.version);
            Feed::Journaled { record, visible }
        };
        let mut feeds = Vec::new();
        if self.nodes[at].paused {
            feeds.push(Feed::Plain(Input::Stopped(true)));
        }
        feeds.extend(journal.into_iter().map(journaled));
        feeds.push(Feed::Plain(Input::Scan(RelPath::root())));
        self.feed(at, feeds);
        for other in (0..self.nodes.len()).filter(|&other| other != at) {
            let soon = self.rng.range(1, 500) * MS;
            self.schedule(soon, Event::Connect { a: at.min(other), b: at.max(other) });
        }
    }

    pub fn fail(&mut self, reason: String) {
        if self.failure.is_none() {
            self.note(|_| format!("FAILED: {reason}"));
            self.failure = Some(reason);
        }
    }

    /// Adds to the trace hash.
    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    /// Adds a line to the trace, if one is kept.
    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.traces.is_none() {
            return;
        }
        let line = format!("{:>10.3} {}", self.now as f64 / 1000.0, line(self));
        if self.print {
            eprintln!("{line}");
        }
        if let Some(traces) = &mut self.traces {
            if traces.len() >= 200_000 {
                traces.pop_front();
            }
            traces.push_back(line);
        }
    }

    /// What is still to do, for a failure.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(engine) = &node.engine else { continue };
            text += &format!("\n  n{at} pending {:?}", engine.pending());
            for (path, what) in engine.doing(5) {
                text += &format!("; {path} {what}");
            }
            for problem in engine.problems().0.iter().take(3) {
                text += &format!("; problem {} {}", problem.path, problem.reason);
            }
        }
        let events = self.queue.iter().take(4);
        for ((at, _), event) in events {
            text += &format!("\n  at {} {event:?}", at / MS);
        }
        text
    }
}
