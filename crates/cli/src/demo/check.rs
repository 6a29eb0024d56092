//! Did every request end exactly once? Compared from both ends: clients and control plane.

use anyhow::{Result, bail};
use sagellm_manager::Snapshot;
use sagellm_monitoring::Requests;

use crate::replay::Driven;

/// Checks that nothing was lost and nothing ended twice.
///
/// # Errors
/// Names the books that do not agree.
pub(crate) fn conservation(driven: &Driven, server: &Snapshot) -> Result<()> {
    let lost = driven.lost();
    if lost > 0 {
        bail!("{lost} requests did not end exactly once at their clients");
    }
    let clients = driven.tally.report().requests;
    let Requests { submitted, finished, failed, cancelled, rejected, expired } = clients;
    if submitted != finished + failed + cancelled + rejected + expired {
        bail!("the clients' books do not agree: {clients:?}");
    }
    let counts = &server.counts;
    let open = (server.waiting + server.running) as u64;
    if counts.submitted != counts.ended() + open {
        bail!("the control plane's books do not agree: {counts:?}, {open} open");
    }
    // Others may use the gateway meanwhile, so it may have seen more.
    if counts.submitted < submitted || counts.finished < finished {
        bail!(
            "clients sent {submitted} and got {finished} answers, the control plane knows of {} and {}",
            counts.submitted,
            counts.finished
        );
    }
    if counts.submitted == submitted && open > 0 {
        bail!("all clients have their answers, and {open} requests are still open");
    }
    Ok(())
}
