//! `keys`, `dump` and `load`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::ProgressBar;
use tandemd::dial::Dialler;
use tandemd::transfer::keys::Keys;
use tandemd::transfer::{dump, escape, load};

use crate::arguments::Node;
use crate::steer::style;
use crate::{FAILED, Failure, UNREACHABLE, USAGE};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// On standard error, and only where that is a terminal.
fn bar() -> ProgressBar {
    ProgressBar::no_length()
        .with_style(style("[{wide_bar}] {human_pos}/{human_len} items, {per_sec}, {eta} to go"))
}

fn show(bar: &ProgressBar, done: u64, all: u64) {
    bar.set_length(all.max(done));
    bar.set_position(done);
}

fn dialler(node: &Node) -> Result<Dialler, Failure> {
    node.access.read().map_err(|text| (USAGE, text))
}

fn failed(text: String) -> Failure {
    (if text.starts_with("no server at") { UNREACHABLE } else { FAILED }, text)
}

pub(crate) fn keys(node: &Node, prefix: &[u8]) -> Result<String, Failure> {
    let mut keys = Keys::of(&dialler(node)?, &node.node).map_err(failed)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    while let Some(key) = keys.next_key().map_err(failed)? {
        if key.starts_with(prefix) && writeln!(out, "{}", escape(&key)).is_err() {
            // Whoever read has seen enough.
            return Ok(String::new());
        }
    }
    let _seen_enough = out.flush();
    Ok(String::new())
}

pub(crate) fn dump(node: &Node, file: &Path) -> Result<String, Failure> {
    let (dialler, node) = (dialler(node)?, &*node.node);
    let bar = bar();
    let mut progress = |done, all| show(&bar, done, all);
    let result = if file == Path::new("-") {
        dump::dump(&dialler, node, BufWriter::new(std::io::stdout().lock()), now, &mut progress)
            .map(|(dumped, _)| dumped)
    } else {
        dump_to(&dialler, node, file, &mut progress)
    };
    bar.finish_and_clear();
    let dumped = result.map_err(failed)?;
    eprintln!("{} items from {node}; {} were gone before they were read", dumped.items, dumped.gone);
    Ok(String::new())
}

/// A file is there as a whole or not at all, and only its owner reads it.
fn dump_to(
    dialler: &Dialler,
    node: &str,
    file: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<dump::Dumped, String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut draft = file.as_os_str().to_owned();
    draft.push(".part");
    let problem = |error: std::io::Error| {
        format!("{}: {error}; name a file in a directory that you may write to", file.display())
    };
    let mut options = File::options();
    let open = options.write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(problem)?;
    let result = dump::dump(dialler, node, BufWriter::new(open), now, progress).and_then(|(dumped, out)| {
        let written = out.into_inner().map_err(std::io::IntoInnerError::into_error);
        written
            .and_then(|written| written.sync_all())
            .and_then(|()| std::fs::rename(&draft, file))
            .map_err(problem)?;
        Ok(dumped)
    });
    if result.is_err() {
        let _never_there = std::fs::remove_file(&draft);
    }
    result
}

pub(crate) fn load(node: &Node, file: &Path, keep: bool) -> Result<String, Failure> {
    let (dialler, node) = (dialler(node)?, &*node.node);
    let bar = bar();
    let mut progress = |done, all| show(&bar, done, all);
    let result = if file == Path::new("-") {
        load::load(&dialler, node, std::io::stdin().lock(), keep, now(), 0, &mut progress)
    } else {
        // Nothing of a damaged file is stored.
        open(file)
            .and_then(load::verify)
            .and_then(|items| load::load(&dialler, node, open(file)?, keep, now(), items, &mut progress))
    };
    bar.finish_and_clear();
    let result = result.map_err(|why| {
        failed(if why.starts_with("it ") { format!("{}: {why}", file.display()) } else { why })
    });
    let load::Loaded { stored, kept, expired, refused, refusal } = result?;
    let text = format!("{stored} items stored in {node}, {kept} kept as they were, {expired} had expired");
    match refusal {
        None => Ok(text + "\n"),
        Some(words) => Err((
            FAILED,
            format!(
                "{text}, {refused} refused: `{words}`; give the server more memory (-m) or larger items (-I)"
            ),
        )),
    }
}

fn open(file: &Path) -> Result<impl BufRead, String> {
    File::open(file).map(|open| BufReader::with_capacity(1 << 20, open)).map_err(|error| {
        format!("{}: {error}; name a file that `tandemctl dump` has written", file.display())
    })
}
