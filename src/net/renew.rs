//! Renews this node's certificate while it runs: every member holds the cluster's key, so that a
//! node signs its own and has to ask nobody. Links go on with what they were made with; what is
//! dialled or accepted from then on uses the new one, and peers are told until when it is valid.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::endpoint::{self, PortError};
use super::service::{Shared, stopped};
use super::{certificate, files};

/// How often the certificate is looked at. By the wall clock each time: an interval of a month would
/// not count the time in which the machine slept.
const LOOK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Runs until the node stops.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => if_due(shared, files::now_secs()).await,
            () = stopped(&mut stop) => return,
        }
    }
}

/// Goes on with a certificate that is valid from now, if the one in use is due. What fails is tried
/// again at the next look, for two years; `status` says how many days are left.
pub(super) async fn if_due(shared: &Arc<Shared>, now_secs: u64) {
    if !certificate::is_due(*shared.certificate_ends_secs.borrow(), now_secs) {
        return;
    }
    let renewing = shared.clone();
    let renewed = tokio::task::spawn_blocking(move || renew(&renewing, now_secs)).await;
    match renewed.unwrap_or_else(|error| resume_unwind(error.into_panic())) {
        Ok(()) => info!("renewed the node's certificate"),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "cannot renew the certificate");
        }
    }
}

fn renew(shared: &Shared, now_secs: u64) -> Result<(), PortError> {
    let mut identity = shared.identity.blocking_lock();
    identity.renew(&shared.state, now_secs)?;
    let mut failed = None;
    // While there is no port, whoever opens the next one takes the identity as it is then.
    shared.port.send_if_modified(|port| {
        let Some(port) = port else { return false };
        match endpoint::configs(&identity, port.offload) {
            Ok((server, client)) => {
                port.endpoint.set_server_config(Some(server));
                port.client = client;
                true
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    shared.certificate_ends_secs.send_replace(identity.ends_secs());
    Ok(())
}
