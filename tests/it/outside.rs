//! Floods from somebody on the network who belongs to nothing, and the doors that are closed to a user
//! of the machine who belongs to no group.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Setup};
use crate::rogue;
use crate::steps::is_root;

const MOUNT: &str = "var";
const PATIENCE: Duration = Duration::from_secs(30);
const FLOOD: Duration = Duration::from_secs(4);
const NOBODY: u32 = 65_534;

/// Processor time that the daemon of node `n` has used, and the most memory it ever had in KiB.
fn cost(cluster: &Cluster, n: usize) -> (Duration, u64) {
    let pid = cluster.node(n).pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which ends with the last bracket: the 12th and 13th, in ticks of 10 ms.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    (Duration::from_millis(ticks * 10), peak.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Runs `attack` against node 2 until it is told to end, while files go to and fro. Gives what it cost
/// node 2 in processor time.
fn flooded(attack: impl FnOnce(SocketAddr, &AtomicBool) + Send + 'static) -> Duration {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    cluster.wait_in_sync(PATIENCE);
    let before = cost(&cluster, 2).0;
    let address: SocketAddr = cluster.node(2).address().parse().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let flag = over.clone();
    let attacker = std::thread::spawn(move || attack(address, &flag));
    let (end, mut round) = (Instant::now() + FLOOD, 0);
    while Instant::now() < end {
        round += 1;
        for (from, to) in [(1, 2), (2, 1)] {
            let name = format!("{from}-{round}");
            fs::write(cluster.node(from).path(MOUNT).join(&name), "text").unwrap();
            let file = cluster.node(to).path(MOUNT).join(&name);
            cluster.wait_until(PATIENCE, &name, |_| {
                if file.exists() { Ok(()) } else { Err("not there".to_owned()) }
            });
        }
        let status = cluster.node(2).status().unwrap();
        assert_eq!(true, status["nodes"][1]["up"], "{status}");
    }
    let (after, kib) = cost(&cluster, 2);
    over.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert!(kib < 100 << 10, "{kib} KiB in memory");
    let lost = cluster.node(2).log().lines().filter(|line| line.contains("link lost")).count();
    assert_eq!(0, lost, "{}", cluster.node(2).log());
    eprintln!("flooded: {round} rounds, {kib} KiB, processor {:?}", after - before);
    after - before
}

#[test]
fn handshakes_of_a_stranger_are_few_and_disturb_nobody() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let spent = flooded(move |address, over| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = quinn::Endpoint::client((address.ip(), 0).into()).unwrap();
            let mut attempts = tokio::task::JoinSet::new();
            while !over.load(Ordering::Relaxed) {
                while attempts.len() < 32 {
                    let config = rogue::stranger();
                    let connecting = endpoint.connect_with(config, address, "x.node.trefoil");
                    let connecting = connecting.unwrap();
                    let count = count.clone();
                    attempts.spawn(async move {
                        let patience = Duration::from_millis(300);
                        if let Ok(Ok(connection)) = tokio::time::timeout(patience, connecting).await
                        {
                            count.fetch_add(1, Ordering::Relaxed);
                            connection.close(0_u32.into(), b"");
                        }
                    });
                }
                attempts.join_next().await;
            }
        });
    });
    // 64 at once, and ten a second.
    let made = made.load(Ordering::Relaxed);
    assert!(made > 20, "{made}: it was no flood");
    assert!(made < 64 + 10 * 20, "{made} handshakes");
    assert!(spent < FLOOD / 2, "{spent:?} of the processor");
}

#[test]
fn garbage_by_the_hundred_thousand_disturbs_nobody() {
    flooded(|address, over| {
        let socket = UdpSocket::bind((address.ip(), 0)).unwrap();
        let mut noise = vec![0; 1500];
        let mut n = 0_u64;
        while !over.load(Ordering::Relaxed) {
            n += 1;
            blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut noise);
            match n % 3 {
                // The start of a QUIC version 1 Initial, and of a packet of a version there is not.
                0 => noise[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]),
                1 => noise[..6].copy_from_slice(&[0xc0, 0xde, 0xad, 0xbe, 0xef, 8]),
                _ => {}
            }
            drop(socket.send_to(&noise[..1200 + usize::try_from(n % 300).unwrap()], address));
        }
        eprintln!("{n} packets of garbage");
    });
}

/// Whether a user without rights may do that to the file.
fn nobody_may(what: &str, path: &Path) -> bool {
    let mut command = Command::new("/usr/bin/test");
    command.arg(what).arg(path).uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn keys_state_and_control_socket_are_closed_to_everybody_else() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    fs::write(cluster.node(1).path(MOUNT).join("file"), "text").unwrap();
    cluster.node(1).done(&["invite"]);
    cluster.wait_equal(PATIENCE);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    for n in [1, 2] {
        let state = cluster.node(n).state();
        assert_eq!(0o700, mode(&state));
        assert_eq!(0o700, mode(&state.join("identity")));
        for name in ["ca.key", "ca.pem", "node.key", "node.pem", "node.json"] {
            assert_eq!(0o600, mode(&state.join("identity").join(name)), "{name}");
        }
        assert_eq!(0o600, mode(&state.join("members.json")));
        assert_eq!(0o700, mode(&cluster.node(n).path(MOUNT).join(".trefoil")));
        assert_eq!(0o660, mode(&state.with_file_name("control.sock")));
    }
    assert_eq!(0o600, mode(&cluster.node(1).state().join("tickets.json")));
    if !is_root() {
        eprintln!("SKIPPED: that another user is refused can be tried as root only");
        return;
    }
    let mount = cluster.node(1).path(MOUNT);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    mount.ancestors().take(4).for_each(open);
    assert!(nobody_may("-r", &mount.join("file")), "the way there is open");
    let state = cluster.node(1).state();
    for path in [state.join("identity/node.key"), state.join("index"), mount.join(".trefoil/stage")]
    {
        assert!(!nobody_may("-e", &path), "{}", path.display());
    }
    let socket = state.with_file_name("control.sock");
    assert!(nobody_may("-S", &socket) && !nobody_may("-w", &socket) && !nobody_may("-r", &socket));
}
