//! The demo's last steps: a node is killed and comes back, everything is verified, and all stop.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::cluster::Cluster;
use super::shop::{noise, write};
use crate::cli::compare::Tree;
use crate::control::types::{StatusReply, VerifyReply};

/// How long a daemon may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// Files written while the node is being killed, and as many after.
const FILES: u64 = 60;

/// The third node is killed while files arrive; the others go on, and it catches up.
pub(super) fn outage(cluster: &mut Cluster) -> anyhow::Result<String> {
    let [one, two, three] = [0, 1, 2].map(|n| cluster.nodes[n].site(""));
    for i in 0..FILES {
        write(&one.join(format!("pub/media/outage/{i}.jpg")), noise(i + 40_000, 20_000))?;
    }
    cluster.nodes[2].daemon.kill()?;
    for i in FILES..2 * FILES {
        write(&two.join(format!("pub/media/outage/{i}.jpg")), noise(i + 40_000, 20_000))?;
    }
    let product = one.join("pub/media/catalog/product");
    fs::rename(product.join("1"), product.join("renamed"))?;
    fs::rename(product.join("2/0"), product.join("renamed/moved"))?;
    fs::remove_dir_all(product.join("3"))?;
    fs::remove_file(two.join("var/export/orders-00.csv"))?;
    fs::remove_dir_all(two.join("var/import_history"))?;
    fs::set_permissions(two.join("app/etc/di.xml"), Permissions::from_mode(0o600))?;
    OpenOptions::new()
        .append(true)
        .open(two.join("app/etc/config.php"))?
        .write_all(b"// more\n")?;
    // A file becomes a directory, and a directory a file.
    fs::remove_file(one.join("pub/media/wysiwyg/empty"))?;
    write(&one.join("pub/media/wysiwyg/empty/now-full"), "full")?;
    fs::remove_dir_all(one.join("pub/media/wysiwyg/nothing"))?;
    fs::write(one.join("pub/media/wysiwyg/nothing"), "something")?;
    // What happens on the killed node's own disk counts as well.
    fs::write(three.join("pub/media/written-while-down.txt"), "on web3")?;
    cluster.wait_equal(None).context("while web3 was down")?;
    let missed = cluster.nodes[2].tree()?.contains_key(b"pub/media/outage/119.jpg".as_slice());
    ensure!(!missed, "web3 was killed and got a file all the same");
    cluster.nodes[2].daemon.start()?;
    cluster.wait("file of web3 on web1", |cluster| {
        let read = fs::read(cluster.nodes[0].site("pub/media/written-while-down.txt"));
        ensure!(read.is_ok_and(|text| text == b"on web3"), "it is not there, or is another");
        Ok(())
    })?;
    check_kept(&cluster.wait_equal(None)?)?;
    Ok(format!(
        "web3 was killed (SIGKILL); the others wrote {} files, renamed and deleted folders; started \
         again, it is equal, and its own file is everywhere",
        2 * FILES
    ))
}

/// Everything written is there, and nothing deleted came back.
fn check_kept(tree: &Tree) -> anyhow::Result<()> {
    let has = |path: &str| tree.contains_key(path.as_bytes());
    for i in 0..2 * FILES {
        ensure!(has(&format!("pub/media/outage/{i}.jpg")), "pub/media/outage/{i}.jpg is lost");
    }
    let product = "pub/media/catalog/product";
    for path in ["renamed/0/0001.jpg", "renamed/moved/0002.jpg", "2/1/000a.jpg"] {
        ensure!(has(&format!("{product}/{path}")), "{product}/{path} is lost");
    }
    let gone = ["1", "2/0", "3"].map(|name| format!("{product}/{name}"));
    let gone = gone.iter().map(String::as_str);
    for path in gone.chain(["var/export/orders-00.csv", "var/import_history"]) {
        ensure!(!has(path), "{path} came back");
    }
    ensure!(has("pub/media/wysiwyg/empty/now-full"), "pub/media/wysiwyg/empty is no directory");
    Ok(())
}

/// The daemons' own words at the end: every file read again, and everything in sync.
pub(super) fn verify(cluster: &mut Cluster) -> anyhow::Result<String> {
    let interrupt = cluster.interrupt.clone();
    let before = cluster.wait_equal(None)?;
    let reply: VerifyReply = cluster.nodes[1].json(&["verify", "--deep"], &interrupt)?;
    ensure!(reply.equal && reply.deep, "`verify --deep` does not say that all is equal");
    cluster.wait("sync according to `trefoil status`", |cluster| {
        cluster.nodes.iter().try_for_each(|node| {
            let status: StatusReply = node.json(&["status"], &interrupt)?;
            ensure!(status.in_sync, "{} is not in sync", node.name);
            Ok(())
        })
    })?;
    // Nobody has written since, so nothing may have moved.
    cluster.wait_equal(Some(&before))?;
    Ok(format!("`verify --deep` and `status` agree: {} entries equal on 3 nodes", before.len()))
}

/// All daemons stop when asked to.
pub(super) fn stop(cluster: &mut Cluster) -> anyhow::Result<String> {
    cluster.nodes.iter_mut().try_for_each(|node| node.daemon.ask_to_stop())?;
    let interrupt = cluster.interrupt.clone();
    cluster.nodes.iter_mut().try_for_each(|node| node.daemon.wait_stopped(STOP, &interrupt))?;
    Ok("all daemons stopped cleanly on SIGTERM".to_owned())
}
