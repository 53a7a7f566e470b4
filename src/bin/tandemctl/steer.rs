//! Verbs that change something, and waiting for what they change.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tandemd::admin::Verb;
use tandemd::admin::client::Client;
use tandemd::admin::report::Status;
use tandemd::admin::table;

use crate::arguments::{Sure, Wait};
use crate::{FAILED, Failure, USAGE, failure, is_coloured};

/// Asks for a change and shows what came of it.
pub(crate) fn act(client: &Client, verb: &Verb) -> Result<String, Failure> {
    let start = Instant::now();
    let said = client.act(verb).map_err(failure)?;
    let took = start.elapsed();
    let status = settled(client)?;
    let table = table::render(&status, is_coloured());
    Ok(format!("{said} ({} ms)\n\n{table}", took.as_millis()))
}

/// What both nodes are once each has heard of the other's change, or after a moment.
fn settled(client: &Client) -> Result<Status, Failure> {
    const LIMIT: Duration = Duration::from_millis(500);
    let start = Instant::now();
    loop {
        let status = client.status().map_err(failure)?;
        let roles = [Some(&status.node), status.peer.as_ref()].into_iter().flatten().map(|node| &*node.role);
        let is_settled = !roles.into_iter().any(|role| ["draining", "offered", "doubt"].contains(&role));
        if is_settled || start.elapsed() >= LIMIT {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn promote(client: &Client, force: bool, sure: Sure) -> Result<String, Failure> {
    if force {
        be_sure(
            sure,
            &format!(
                "The node at {} becomes master even if the other one may be alive or the copy here is incomplete. What only the other one has is lost.",
                client.server()
            ),
        )?;
    }
    act(client, &Verb::Promote { force })
}

pub(crate) fn resync(client: &Client, sure: Sure) -> Result<String, Failure> {
    be_sure(
        sure,
        &format!(
            "The node at {} drops every item it holds and copies all of them from the master. Until that is complete there is no second copy.",
            client.server()
        ),
    )?;
    act(client, &Verb::Resync)
}

/// Compares both nodes and waits for what comes of it. That something differed is a failure, though it is repaired:
/// somebody should know.
pub(crate) fn verify(client: &Client, timeout: Duration) -> Result<String, Failure> {
    let start = Instant::now();
    let link = || client.status().map(|status| status.link.unwrap_or_default()).map_err(failure);
    let before = link()?.diverged_items;
    client.act(&Verb::Verify).map_err(failure)?;
    let mut begun = false;
    loop {
        let link = link()?;
        let ended = link.verified_secs_ago.is_some_and(|ago| ago < start.elapsed().as_secs_f64());
        // What is published of a node is a moment old.
        begun |= link.verifying || ended;
        if !link.verifying && (begun || start.elapsed() > Duration::from_secs(1)) {
            if !ended {
                return Err((
                    FAILED,
                    "the comparison was broken off: the link or the roles changed; try again".to_owned(),
                ));
            }
            let (items, differed) = (link.verified_items, link.diverged_items.saturating_sub(before));
            if differed == 0 {
                return Ok(format!("{items} items compared: the backup has what the master has\n"));
            }
            let text = format!(
                "{differed} of {items} items differed on the backup and were sent anew; if it happens again, suspect a machine's memory"
            );
            return Err((FAILED, text));
        }
        if start.elapsed() >= timeout {
            let text =
                "the comparison is not over yet; it goes on: `tandemctl status --json` shows what it finds";
            return Err((FAILED, text.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn pause(client: &Client, sure: Sure) -> Result<String, Failure> {
    be_sure(
        sure,
        &format!(
            "The node at {} does not take over when the other one dies, until `tandemctl resume-failover` or its restart.",
            client.server()
        ),
    )?;
    act(client, &Verb::PauseFailover)
}

/// Says what will happen and asks whether it shall.
fn be_sure(sure: Sure, consequence: &str) -> Result<(), Failure> {
    if sure.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err((
            USAGE,
            format!("{consequence} Nobody is here to be asked: say --yes if that is wanted"),
        ));
    }
    eprint!("{consequence}\nType yes to go on: ");
    let _shown_or_not = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim().eq_ignore_ascii_case("yes") {
        Ok(())
    } else {
        Err((FAILED, "nothing was done".to_owned()))
    }
}

pub(crate) fn wait(client: &Client, wait: &Wait) -> Result<String, Failure> {
    let holds = |status: &Status| {
        wait.role.as_ref().is_none_or(|role| *role == status.node.role)
            && (!wait.synced || status.is_synced())
    };
    let deadline = Instant::now() + wait.timeout;
    // Hidden where standard error is no terminal.
    let bar = ProgressBar::no_length().with_style(style("{msg} [{wide_bar}] {human_pos}/{human_len} items"));
    loop {
        let seen = client.status();
        if seen.as_ref().is_ok_and(holds) {
            bar.finish_and_clear();
            return Ok(String::new());
        }
        show(&bar, seen.as_ref().ok());
        if Instant::now() >= deadline {
            bar.finish_and_clear();
            return Err(match seen {
                Ok(status) => {
                    let synced = if status.is_synced() { "in sync" } else { "not in sync" };
                    let waited = wait.timeout.as_secs_f64();
                    let text = format!(
                        "not so after {waited} s: role {}, {synced}; `tandemctl status` says why, --timeout waits longer",
                        status.node.role
                    );
                    (FAILED, text)
                }
                Err(error) => failure(error),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn show(bar: &ProgressBar, status: Option<&Status>) {
    let Some(status) = status else { return bar.set_message("no answer yet") };
    match status.link.as_ref().and_then(|link| link.copy) {
        Some((done, all)) => {
            bar.set_length(all.max(done));
            bar.set_position(done);
            bar.set_message(format!("{}: copying", status.node.role));
        }
        None => bar.set_message(format!(
            "{}: {}",
            status.node.role,
            status.link.as_ref().map_or_else(String::new, |link| format!("link {}", table::describe(link)))
        )),
    }
}

/// A progress bar's looks.
pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
