//! What a reviewer would otherwise have to look for: arrows between rooms, reasons beside dependencies,
//! the README's flags, stray files.
//!
//! `UPDATE=1 cargo test --test tidy` rewrites what is generated (the flags in README.md).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under version control, relative to the root.
fn tracked() -> Vec<PathBuf> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(root()).output().expect("git");
    assert!(output.status.success(), "tidy reads the list of files from git");
    let names = String::from_utf8(output.stdout).expect("file names in UTF-8");
    let names = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    names.filter(|name| root().join(name).exists()).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with everything that is wrong at once.
fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

// === rooms ===

/// Who may name whom inside `src`. A room that is missing here may be named by nobody.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["app", "config", "logs", "server"]),
    ("bin", &["admin", "bench", "config", "dial", "transfer"]),
    (
        "app",
        &[
            "config",
            "logs",
            "server",
            "admin",
            "replica",
            "migration",
            "snapshot",
            "stats",
            "engine",
            "protocol",
            "command",
            "dial",
        ],
    ),
    ("config", &["server", "admin", "engine", "protocol", "logs"]),
    ("replica", &["server", "engine", "protocol", "command", "stats"]),
    ("migration", &["server", "engine", "command"]),
    ("snapshot", &["engine", "command"]),
    ("server", &["protocol", "engine", "command", "stats", "logs"]),
    ("admin", &["stats"]),
    ("stats", &["engine", "command"]),
    ("protocol", &["command"]),
    ("engine", &["command"]),
    ("command", &[]),
    ("bench", &["dial"]),
    ("transfer", &["dial"]),
    ("dial", &[]),
    ("logs", &[]),
    ("lib", &[]),
];

/// What the rooms may name of the replication crate.
const REPLICATION: &[(&str, &str)] = &[
    ("app", ""),
    ("replica", ""),
    ("config", ""),
    ("engine", "change"),
    ("server", "change"),
    ("snapshot", "change"),
];

#[test]
fn arrows_between_rooms_point_down() {
    let mut problems = Vec::new();
    for (path, code) in production_code("src") {
        let room = room_of(&path);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            problems.push(format!("{}: the room `{room}` has no line in ARROWS", path.display()));
            continue;
        };
        let own_crate = if matches!(room.as_str(), "main" | "bin") { "tandemd::" } else { "crate::" };
        for named in names_after(&code, own_crate) {
            if named != room && !allowed.contains(&named.as_str()) {
                problems.push(format!("{}: `{room}` must not know `{named}`", path.display()));
            }
        }
        let may = REPLICATION.iter().find(|(name, _)| *name == room).map(|(_, module)| *module);
        for named in names_after(&code, "tandem_replication::") {
            if may.is_none_or(|module| !module.is_empty() && module != named) {
                problems
                    .push(format!("{}: `{room}` must not know tandem_replication::{named}", path.display()));
            }
        }
    }
    report(problems);
}

/// Rooms that never look at the world: time, randomness and bytes are handed to them.
const PURE: &[&str] = &[
    "src/command.rs",
    "src/protocol/",
    "src/engine/",
    "replication/src/arbiter.rs",
    "replication/src/guard.rs",
    "replication/src/backlog.rs",
    "replication/src/change.rs",
    "replication/src/frame.rs",
    "replication/src/history.rs",
    "replication/src/liveness.rs",
    "replication/src/node",
    "replication/src/role.rs",
    "replication/src/session.rs",
    "replication/src/status.rs",
    "replication/src/wire.rs",
];

#[test]
fn pure_rooms_read_no_clock_no_socket_and_no_random_source() {
    let world =
        ["Instant::now", "SystemTime::now", "std::net", "std::fs", "tokio::", "thread::sleep", "getrandom"];
    let mut problems = Vec::new();
    for (path, code) in production_code("src").into_iter().chain(production_code("replication/src")) {
        let name = path.display().to_string();
        if PURE.iter().any(|pure| name.starts_with(pure)) {
            let found = world.iter().filter(|word| code.contains(*word));
            problems.extend(found.map(|word| format!("{name}: {word}")));
        }
    }
    report(problems);
}

/// The files that may contain `unsafe`, each the safe form of one thing that has no other.
const UNSAFE: &[&str] = &["src/engine/prefetch.rs", "src/server/uring/ring.rs"];

#[test]
fn unsafe_code_is_where_it_is_looked_for() {
    let mut problems = Vec::new();
    let mut found = BTreeSet::new();
    for path in tracked().into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let name = path.display().to_string();
        let text = read(&path);
        // Put together, so that this file does not contain it.
        if text.contains(concat!("allow(unsafe", "_code")) {
            if !UNSAFE.contains(&name.as_str()) {
                problems.push(format!("{name}: is not among the files that may contain unsafe code"));
            }
            found.insert(name.clone());
        }
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        for (number, line) in lines.iter().enumerate() {
            let begins = line.contains("unsafe {") || line.starts_with("unsafe impl");
            if found.contains(&name) && begins && !line.starts_with("//") {
                let reasoned =
                    lines[..number].iter().rev().take(5).any(|line| line.starts_with("// SAFETY:"));
                if !reasoned {
                    problems.push(format!("{name}:{}: no SAFETY comment above", number + 1));
                }
            }
        }
    }
    let gone = UNSAFE.iter().filter(|name| !found.contains(**name));
    problems.extend(gone.map(|name| format!("{name}: needs no place in UNSAFE any more")));
    report(problems);
}

/// Rust files below a folder, without comments and tests.
fn production_code(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = tracked();
    files.retain(|path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let is_test = stem == "tests" || stem.ends_with("_tests") || path.iter().any(|part| part == "tests");
        path.starts_with(folder) && path.extension().is_some_and(|extension| extension == "rs") && !is_test
    });
    assert!(!files.is_empty(), "no code in {folder}");
    files
        .into_iter()
        .map(|path| {
            let text = read(&path);
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let mut code = code.join("\n");
            // Tests stand at the end of a file.
            if let Some(tests) = code.find("#[cfg(test)]\nmod ") {
                code.truncate(tests);
            }
            (path, code)
        })
        .collect()
}

/// `src/engine/memory/shard.rs` is in `engine`, `src/main.rs` in `main`.
fn room_of(path: &Path) -> String {
    let part = path.iter().nth(1).and_then(|part| part.to_str()).expect("a path below src");
    part.strip_suffix(".rs").unwrap_or(part).to_owned()
}

/// The first names behind a path's beginning: `a` and `b` of `crate::a::c` and `crate::{a::c, b}`.
fn names_after(code: &str, beginning: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(beginning) {
        // `tandem_replication::` and `$crate::` have other ends of the same letters.
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + beginning.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(top_level_names(group));
        } else {
            names.insert(identifier(rest));
        }
    }
    names.remove("");
    names
}

fn top_level_names(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![identifier(group.trim_start())];
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn the_scanner_sees_through_groups() {
    let code =
        "use crate::{a::{x, y}, b};\nfn f() { crate::c::d(); } use mycrate::e; use crate::{\n    f,\n};";
    assert_eq!(names_after(code, "crate::"), ["a", "b", "c", "f"].map(str::to_owned).into());
}

// === dependencies ===

#[test]
fn every_dependency_has_a_reason() {
    let mut problems = Vec::new();
    for path in tracked().into_iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = read(&path);
        let mut inside = false;
        let mut before = "";
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.trim_matches(['[', ']']).ends_with("dependencies");
            }
            let external =
                line.contains(" = ") && !line.contains("workspace = true") && !line.contains("path = ");
            if inside && external && !line.starts_with('#') && !before.starts_with("# ") {
                problems.push(format!("{}: no reason above `{line}`", path.display()));
            }
            before = line;
        }
    }
    report(problems);
}

// === README ===

#[test]
fn the_flags_in_the_readme_are_those_of_the_program() {
    let help = Command::new(env!("CARGO_BIN_EXE_tandemd")).arg("--help").output().expect("tandemd --help");
    let help = String::from_utf8(help.stdout).expect("text");
    let table = flags_table(&help);
    assert!(table.contains("`-p, --port"), "the help could not be read:\n{help}");
    let readme = read(Path::new("README.md"));
    let (start, end) =
        ("<!-- flags: generated, UPDATE=1 cargo test --test tidy -->\n", "<!-- end of flags -->");
    let (before, rest) = readme.split_once(start).expect("the beginning of the flags in README.md");
    let (shown, after) = rest.split_once(end).expect("the end of the flags in README.md");
    if std::env::var_os("UPDATE").is_some() && shown != table {
        std::fs::write(root().join("README.md"), format!("{before}{start}{table}{end}{after}"))
            .expect("README.md");
        return;
    }
    assert!(shown == table, "README.md is behind `tandemd --help`: UPDATE=1 cargo test --test tidy");
}

/// One Markdown table per heading of the help.
fn flags_table(help: &str) -> String {
    let mut table = String::new();
    let mut flags: Option<(String, String)> = None;
    let end = |flags: &mut Option<(String, String)>, table: &mut String| {
        if let Some((flag, text)) = flags.take() {
            table.push_str(&format!("| `{flag}` | {} |\n", text.trim().replace('|', "\\|")));
        }
    };
    for line in help.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if indent == 0 || trimmed.is_empty() {
            end(&mut flags, &mut table);
            if let Some(heading) = line.strip_suffix(':').filter(|heading| *heading != "Usage") {
                table.push_str(&format!("\n| {heading} | |\n|---|---|\n"));
            }
        } else if trimmed.starts_with('-') && indent <= 6 && !table.is_empty() {
            end(&mut flags, &mut table);
            let (flag, text) = trimmed.split_once("  ").unwrap_or((trimmed, ""));
            flags = Some((flag.trim().to_owned(), text.trim().to_owned()));
        } else if let Some((_, text)) = &mut flags {
            text.push(' ');
            text.push_str(trimmed);
        }
    }
    end(&mut flags, &mut table);
    table + "\n"
}

#[test]
fn the_help_becomes_tables() {
    let help = "About.\n\nUsage: tandemd [flags]\n\nNetwork:\n  -p, --port <N>  TCP port;\n                  0 for none\n      --admin <ADDR>\n          Admin port, or off\n\nPair:\n  -x, --peer <HOST>  The other | node\n";
    assert_eq!(
        flags_table(help),
        "\n| Network | |\n|---|---|\n| `-p, --port <N>` | TCP port; 0 for none |\n| `--admin <ADDR>` | Admin port, or off |\n\
         \n| Pair | |\n|---|---|\n| `-x, --peer <HOST>` | The other \\| node |\n\n"
    );
}

// === files ===

/// What may lie at the top.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".config",
    ".gitattributes",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "examples",
    "fuzz",
    "interleavings",
    "replication",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "scripts",
    "src",
    "tests",
];

#[test]
fn no_file_is_where_nobody_looks_for_it() {
    let mut problems = Vec::new();
    for path in tracked() {
        let name = path.display().to_string();
        let top = path.iter().next().and_then(|part| part.to_str()).unwrap_or("");
        if !TOP.contains(&top) {
            problems.push(format!("{name}: not at the top of the tree"));
        }
        if [".orig", ".rej", ".bak", ".tmp", "~", ".log"].iter().any(|end| name.ends_with(end)) {
            problems.push(format!("{name}: left over"));
        }
        let size = std::fs::metadata(root().join(&path)).map_or(0, |file| file.len());
        if size > 1 << 20 {
            problems.push(format!("{name}: {size} bytes; large files do not belong here"));
        }
    }
    report(problems);
}

#[test]
fn text_is_clean_and_names_no_machine() {
    // Put together, so that this file does not contain them.
    let places = ["/ho\u{6d}e/", "/ro\u{6f}t/", "/Use\u{72}s/", "/wo\u{72}k/"];
    let mut problems = Vec::new();
    for path in tracked() {
        let Ok(text) = String::from_utf8(std::fs::read(root().join(&path)).expect("a file")) else {
            continue;
        };
        let name = path.display().to_string();
        // What was recorded byte for byte is no text, even where it looks like some.
        let generated = name.ends_with("Cargo.lock")
            || name.ends_with(".bin")
            || name.starts_with("LICENSE")
            || name.contains("proptest-regressions");
        if generated {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            problems.push(format!("{name}: no line end at the end"));
        }
        for (number, line) in text.lines().enumerate() {
            let mut problem = |what: &str| problems.push(format!("{name}:{}: {what}", number + 1));
            if line.ends_with([' ', '\t']) {
                problem("blanks at the end of the line");
            }
            if line.starts_with("<<<<<<<") || line.starts_with(">>>>>>>") {
                problem("an unfinished merge");
            }
            if places.iter().any(|place| line.contains(place)) {
                problem("a path of one machine");
            }
        }
    }
    report(problems);
}
