//! What a service manager (systemd) is told: that the node listens, what it is, that it lives, and
//! that it ends.
//!
//! The control thread publishes the pair's status several times a second; as long as it does, the
//! watchdog is fed. A control thread that is stuck can neither fail over nor hand over, so it is
//! better to start again, and a peer takes over meanwhile. Without a service manager, nothing happens.

use std::sync::Arc;

use sd_notify::NotifyState;
use tandem_replication::driver::Snapshot;
use tokio::sync::watch;

/// Sockets are open. Tells until it is dropped.
pub(super) async fn tell(mut pair: Option<watch::Receiver<Arc<Snapshot>>>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        // Nobody listens: nothing to wake up for.
        return;
    }
    let mut line = status_line(pair.as_mut());
    say(&[NotifyState::Ready, NotifyState::Status(&line)]);
    let mut watchdog =
        sd_notify::watchdog_enabled().map(|deadline| tokio::time::interval((deadline / 3).max(SHORTEST)));
    let mut lives = true;
    loop {
        tokio::select! {
            // Before the watchdog's turn: what is there already counts.
            biased;
            alive = published(&mut pair) => {
                if !alive {
                    // The control thread has ended: the process does, or the watchdog ends it.
                    return;
                }
                lives = true;
                let now = status_line(pair.as_mut());
                if now != line {
                    line = now;
                    say(&[NotifyState::Status(&line)]);
                }
            }
            () = turn(&mut watchdog) => {
                // A node by itself has no control thread to watch.
                if lives || pair.is_none() {
                    say(&[NotifyState::Watchdog]);
                }
                lives = false;
            }
        }
    }
}

/// The process is about to end; a master may need a moment to hand over.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("handing over and finishing what is under way")]);
}

/// A deadline shorter than three of these is not kept.
const SHORTEST: std::time::Duration = std::time::Duration::from_millis(10);

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Waits for the control thread to publish; `false` if it never will again.
async fn published(pair: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> bool {
    match pair {
        Some(pair) => pair.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn turn(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(watchdog) => {
            watchdog.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn status_line(pair: Option<&mut watch::Receiver<Arc<Snapshot>>>) -> String {
    let Some(pair) = pair else { return "standalone".to_owned() };
    let pair = &pair.borrow_and_update().pair;
    let link = match (pair.control_up && pair.data_up, pair.in_sync) {
        (false, _) => "peer not connected",
        (true, false) => "copying",
        (true, true) => "in sync",
    };
    format!("{}, epoch {}, {link}", pair.role.state.name(), pair.role.epoch)
}

#[cfg(test)]
mod tests {
    use tandem_replication::role::State;

    use super::*;

    #[test]
    fn the_status_is_one_line_that_says_role_and_link() {
        let mut snapshot = Snapshot::default();
        snapshot.pair.role.state = State::Master;
        snapshot.pair.role.epoch = 8;
        let (publisher, mut status) = watch::channel(Arc::new(snapshot.clone()));
        assert_eq!(status_line(Some(&mut status)), "master, epoch 8, peer not connected");
        (snapshot.pair.control_up, snapshot.pair.data_up, snapshot.pair.in_sync) = (true, true, true);
        publisher.send_replace(Arc::new(snapshot));
        assert_eq!(status_line(Some(&mut status)), "master, epoch 8, in sync");
        assert_eq!(status_line(None), "standalone");
    }
}
