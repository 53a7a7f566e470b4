//! `status`: both nodes side by side, once or again and again.

use std::time::Duration;

use tandemd::admin::client::Client;
use tandemd::admin::table;

use crate::{Failure, as_json, failure, is_coloured, print};

pub(crate) fn once(client: &Client, json: bool) -> Result<String, Failure> {
    let status = client.status().map_err(failure)?;
    if json { as_json(&status) } else { Ok(table::render(&status, is_coloured())) }
}

/// Until somebody interrupts it. A node that does not answer is shown as such, not given up.
pub(crate) fn watch(client: &Client, json: bool, every: Duration) -> Result<String, Failure> {
    // To the top left, and what is below away.
    let clear = if is_coloured() && !json { "\x1b[H\x1b[2J" } else { "" };
    loop {
        let text = match once(client, json) {
            Ok(text) => text,
            Err((_, why)) if json => as_json(&serde_json::json!({ "error": why }))?,
            Err((_, why)) => why + "\n",
        };
        let separator = if clear.is_empty() && !json { "\n" } else { "" };
        print(&format!("{clear}{text}{separator}"))?;
        std::thread::sleep(every.max(Duration::from_millis(100)));
    }
}
