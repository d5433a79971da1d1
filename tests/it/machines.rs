//! A machine of its own for each node, as far as the network goes: namespaces on one switch.
//!
//! The switch is in a namespace too, so nothing of the machine that runs the tests changes. A node
//! can be cut off, or only from another one, or be given a slow line, without anything being told
//! to it: packets are not answered any more. Everything is deleted at the end.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::{Cluster, Setup};

/// Tests that run side by side have names of their own.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Namespaces: 0 is the switch, the others are nodes.
pub(crate) struct Machines {
    name: String,
    nodes: usize,
}

impl Machines {
    /// Makes them, with a cluster that runs on them; nothing, and a word about it, without the
    /// rights to do so.
    #[track_caller]
    pub(crate) fn start(setup: &Setup, nodes: usize) -> Option<(Cluster, Self)> {
        let name =
            format!("trefoil-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let machines = Self { name, nodes };
        if !try_run(&format!("ip netns add {}", machines.namespace(0))) {
            eprintln!("skipped: network namespaces need privileges");
            return None;
        }
        let switch = machines.namespace(0);
        run(&format!("ip -n {switch} link add switch type bridge"));
        run(&format!("ip -n {switch} link set switch up"));
        for n in 1..=nodes {
            let node = machines.namespace(n);
            run(&format!("ip netns add {node}"));
            run(&format!("ip -n {switch} link add v{n} type veth peer name eth0 netns {node}"));
            run(&format!("ip -n {switch} link set v{n} master switch up"));
            run(&format!("ip -n {node} address add 10.86.0.{n}/24 dev eth0"));
            run(&format!("ip -n {node} link set eth0 up"));
        }
        let mut cluster = Cluster::prepare(&setup.clone().nodes(nodes));
        for n in 1..=nodes {
            let node = cluster.node_mut(n);
            let config = fs::read_to_string(node.config()).unwrap();
            let config = config.replace(node.address(), &format!("10.86.0.{n}:8086"));
            fs::write(node.config(), config).unwrap();
            let network = format!("--net=/run/netns/{}", machines.namespace(n));
            node.run_below(&["nsenter", &network]);
            cluster.enrol(n);
            cluster.node_mut(n).start();
            cluster.wait_ready(n);
        }
        Some((cluster, machines))
    }

    fn namespace(&self, n: usize) -> String {
        format!("{}-{n}", self.name)
    }

    /// Cuts a node off from all others.
    pub(crate) fn cut(&self, n: usize) {
        run(&format!("bridge -n {} link set dev v{n} state 0", self.namespace(0)));
    }

    /// Ends that.
    pub(crate) fn mend(&self, n: usize) {
        run(&format!("bridge -n {} link set dev v{n} state 3", self.namespace(0)));
    }

    /// Cuts nodes off from each other, or ends that; all others reach them.
    pub(crate) fn part(&self, nodes: [usize; 2], apart: bool) {
        let word = if apart { "on" } else { "off" };
        for n in nodes {
            run(&format!("bridge -n {} link set dev v{n} isolated {word}", self.namespace(0)));
        }
    }

    /// Has the line to a node drop packets that are larger, and tell nobody.
    pub(crate) fn drop_larger_than(&self, n: usize, bytes: usize) {
        run(&format!("ip -n {} link set v{n} mtu {bytes}", self.namespace(0)));
    }

    /// Gives a node a slow line, for what it receives, as in "8mbit".
    pub(crate) fn slow(&self, n: usize, rate: &str) {
        let filter = format!("tbf rate {rate} burst 256kb latency 100ms");
        run(&format!("tc -n {} qdisc add dev v{n} root {filter}", self.namespace(0)));
    }

    /// Ends that.
    pub(crate) fn unslow(&self, n: usize) {
        run(&format!("tc -n {} qdisc del dev v{n} root", self.namespace(0)));
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for n in 0..=self.nodes {
            try_run(&format!("ip netns del {}", self.namespace(n)));
        }
    }
}

/// Runs a command; whether it was there and succeeded.
fn try_run(command: &str) -> bool {
    let words: Vec<_> = command.split(' ').collect();
    let ran = Command::new(words[0]).args(&words[1..]).output();
    ran.is_ok_and(|output| output.status.success())
}

#[track_caller]
fn run(command: &str) {
    assert!(try_run(command), "{command}");
}
