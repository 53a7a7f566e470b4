//! Secrets that nobody can guess.

use std::io::Write as _;
use std::path::Path;

use crate::{FAILED, Failure};

/// 32 random bytes in hexadecimal: more than the HMAC-SHA-256 it keys can use up.
pub(crate) fn run(file: Option<&Path>) -> Result<String, Failure> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|error| (FAILED, format!("the system gives no random bytes: {error}")))?;
    let line = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let Some(file) = file else { return Ok(line) };
    let write = || {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(file)?.write_all(line.as_bytes())
    };
    write().map_err(|error| {
        (
            FAILED,
            format!("{}: {error}; an existing key is never overwritten: name a new file", file.display()),
        )
    })?;
    Ok(format!(
        "wrote {0}: copy it to the other node and start both with --psk-file {0}, or, if it is to be the token, with --admin-token-file {0}\n",
        file.display()
    ))
}
