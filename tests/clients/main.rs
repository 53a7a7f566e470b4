//! Clients that people have, from their own packages, against real `tandemd` processes.
//!
//! The scripts beside this file do what such a client's users do. Against one node they check every
//! answer. Against the pair they are in the middle of a session when the master is killed: what they
//! stored must still be there on the other node.
//!
//! A client that is not installed is named and skipped; with `CI` in the environment that is an error.

#[path = "../pair/harness.rs"]
mod harness;
mod one_node;
mod recipes;
mod two_nodes;

use std::path::PathBuf;
use std::process::{Command, Output};

use harness::Setup;

/// The usual pair of the program under test.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_tandemd"))
}

/// A script beside this file.
fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Whether `program` runs with `arguments`: if not, `package` is missing.
fn is_installed(package: &str, program: &str, arguments: &[&str]) -> bool {
    let outcome = Command::new(program).args(arguments).output();
    if outcome.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{package} is not installed");
    eprintln!("skipped: {package} is not installed");
    false
}

/// The Python that has pymemcache: `TANDEM_PYTHON`, or the first one.
fn python() -> Option<String> {
    let python = std::env::var("TANDEM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    is_installed("pymemcache (pip install pymemcache)", &python, &["-c", "import pymemcache"])
        .then_some(python)
}

/// Whether PHP and its memcached extension are there.
fn has_php() -> bool {
    is_installed("php-cli with php-memcached", "php", &["-r", "exit(extension_loaded('memcached') ? 0 : 1);"])
}

/// What a program said, when it went well.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{error}", output.status);
    out
}
